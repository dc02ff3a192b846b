"""The service in OpenAPI 3.1, for programs that make clients of it."""

from clipret import __version__
from clipret.config import SPLITS
from clipret.config.service import FINDS, MOST_HITS
from clipret.service.web.limits import MOST_OFFSET, MOST_TEXTS
from clipret.service.web.pictures import SIZES

_HEAD = {"type": "string", "description": "Name of a head, as /v1/info lists them; by default the first."}
_SETTINGS = {
    "head": _HEAD,
    "find": {"enum": list(FINDS), "default": "images"},
    "k": {"type": "integer", "minimum": 1, "maximum": MOST_HITS, "default": 10},
    "offset": {"type": "integer", "minimum": 0, "maximum": MOST_OFFSET, "default": 0},
    "split": {"enum": ["all", *SPLITS]},
    "min_score": {"type": "number", "minimum": -1, "maximum": 1},
}
_ASKED = {
    "text": {"type": "string", "description": "Words, or a sum of them: 2:two dogs + snow - beach"},
    "image": {"type": "string", "contentEncoding": "base64", "description": "A picture, added to the words."},
    "row": {"type": "integer", "description": "Row of an image of the cache."},
    "caption": {"type": "integer", "description": "Row of a caption of the cache."},
}
_HIT = {
    "type": "object",
    "properties": {
        "rank": {"type": "integer"},
        "score": {"type": "number", "description": "Cosine."},
        "row": {"type": "integer"},
        "id": {"type": "string"},
        "file": {"type": "string"},
        "split": {"enum": list(SPLITS)},
        "caption": {"type": ["string", "null"]},
        "image": {"type": "integer", "description": "Of a caption: the row of its image."},
    },
}
_HITS = {
    "type": "object",
    "properties": {
        "head": {"type": "string"},
        "gallery": {"type": "integer", "description": "How many were searched."},
        "hits": {"type": "array", "items": _HIT},
        "expected": {
            "type": ["array", "null"],
            "description": "Of a query that is a row: what belongs to it, with its rank.",
            "items": {"type": "object", "properties": {"row": {"type": "integer"}, "rank": {"type": "integer"}}},
        },
    },
}
_PICTURES = {"image/*": {"schema": {"type": "string", "format": "binary"}}}


def openapi() -> dict:
    """The description."""
    search_body = _json({"type": "object", "properties": _ASKED | _SETTINGS, "additionalProperties": False})
    embed_body = _json(
        {
            "type": "object",
            "required": ["texts"],
            "properties": {
                "texts": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_TEXTS},
                "head": _HEAD,
            },
        }
    )
    embeddings = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    mark_body = _json(
        {
            "type": "object",
            "required": ["image", "caption", "right"],
            "properties": {
                "image": {"type": "integer"},
                "caption": {"type": "string"},
                "right": {"type": ["boolean", "null"], "description": "null: take the mark away."},
            },
        }
    )
    size = _parameter("size", {"enum": list(SIZES), "default": 256})
    original = _parameter("original", {"enum": [0, 1], "default": 0})
    picture_settings = [_parameter(name, schema) for name, schema in {"text": _ASKED["text"], **_SETTINGS}.items()]
    return {
        "openapi": "3.1.0",
        "info": {"title": "clipret", "version": __version__, "description": "Search of images by words, or pictures."},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": {
            "/health": {"get": _answers("Whether it answers.")},
            "/metrics": {"get": _answers("Counters in Prometheus' text format.", kind="text/plain")},
            "/v1/info": {"get": _answers("What is served: model, data set, heads, splits, limits.")},
            "/v1/search": {
                "post": _answers("The best images or captions of a query.", schema=_HITS)
                | {"parameters": picture_settings, "requestBody": {"content": search_body | _PICTURES}}
            },
            "/v1/embed": {
                "post": _answers(
                    "Embeddings of captions, or of a picture.",
                    schema={"type": "object", "properties": {"head": _HEAD, "embeddings": embeddings}},
                )
                | {"requestBody": {"content": embed_body | _PICTURES}}
            },
            "/v1/images/{row}": {"get": _of_row("The image, drawn anew.", size, original, kind="image/jpeg")},
            "/v1/images/{row}/about": {"get": _of_row("What is known of the image.")},
            "/v1/captions/{row}": {"get": _of_row("A caption.")},
            "/v1/captions/random": {
                "get": _answers("A caption drawn at random.")
                | {"parameters": [_parameter("split", {"enum": ["all", *SPLITS], "default": "test"})]}
            },
            "/v1/marks": {
                "post": _answers("Keep that a caption is right, or wrong, for an image.")
                | {"requestBody": {"content": mark_body}}
            },
            "/v1/session": {
                "post": _answers("A cookie, for the page of who knows the token.")
                | {"requestBody": {"content": _json({"type": "object", "properties": {"token": {"type": "string"}}})}}
            },
        },
    }


def _json(schema: dict) -> dict:
    return {"application/json": {"schema": schema}}


def _answers(summary: str, *, kind: str = "application/json", schema: dict | None = None) -> dict:
    error = _json({"type": "object", "properties": {"error": {"type": "string"}}})
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": {kind: {"schema": schema} if schema else {}}},
            "4XX": {"description": "What is wrong with the request.", "content": error},
            "503": {"description": "Busy; try again.", "content": error},
        },
    }


def _of_row(summary: str, *parameters: dict, kind: str = "application/json") -> dict:
    row = {"name": "row", "in": "path", "required": True, "schema": {"type": "integer"}}
    return _answers(summary, kind=kind) | {"parameters": [row, *parameters]}


def _parameter(name: str, schema: dict) -> dict:
    return {"name": name, "in": "query", "schema": schema}
