"""Requests to search and to embed, read strictly, into what the searcher takes."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from clipret.config import SPLITS
from clipret.config.choices import ALL_SPLITS
from clipret.config.service import FINDS, MOST_HITS
from clipret.errors import UsageError
from clipret.machine.records import Maybe, RecordError, parse_record
from clipret.service.terms import Query, Term, parse, with_picture
from clipret.service.web.limits import (
    MOST_BODY,
    MOST_JSON,
    MOST_OFFSET,
    MOST_PICTURE,
    MOST_TEXTS,
    RefusalError,
    read_body,
)

_SEARCH = {
    "text": Maybe(str),
    "image": Maybe(str),
    "row": Maybe(int),
    "caption": Maybe(int),
    "head": Maybe(str),
    "find": Maybe(str),
    "k": Maybe(int),
    "offset": Maybe(int),
    "split": Maybe(str),
    "min_score": Maybe((float, None)),
}
_EMBED = {"texts": [str], "head": Maybe(str)}
# Of the query string beside a body that is a picture.
_WHOLE_NUMBERS = ("k", "offset")


@dataclass(frozen=True)
class Asked:
    """A search.

    query  its terms, but the picture
    image  bytes of a picture, not looked at yet; None: there is none
    head   name; None: the first
    find   images or captions
    """

    query: Query
    image: bytes | None
    head: str | None
    find: str
    k: int
    offset: int
    split: str
    min_score: float | None

    def with_pixels(self, pixels: object) -> Query:
        """The whole query, with what the picture became."""
        return with_picture(self.query, pixels)

    @property
    def row(self) -> tuple[str, int] | None:
        """(side, row) where the query is a row of the cache, by itself."""
        return self.query[0].row if len(self.query) == 1 and self.image is None else None


async def read_search(request: Request, *, split: str) -> Asked:
    """The search of a request: JSON, or a picture with settings in the query string. Raises RefusalError.

    split  what is searched unless the request says otherwise
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        values = _parsed(await read_body(request, most=MOST_BODY), _SEARCH)
        image = _decoded(values["image"]) if "image" in values else None
        if image is None and len(values.get("text", "")) > MOST_JSON:
            raise RefusalError(413, "the text is too long")
    elif kind.startswith("image/") or kind == "application/octet-stream":
        values = _from_query(request)
        image = await read_body(request, most=MOST_PICTURE)
    else:
        raise RefusalError(415, "expected a body of application/json, or a picture of image/*")
    return _search_of(values, image, split=split)


async def read_texts(request: Request) -> tuple[list[str] | bytes, str | None]:
    """The captions, or the picture, that are to be embedded, and the head's name. Raises RefusalError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await read_body(request, most=MOST_PICTURE), request.query_params.get("head")
    values = await read_json(request, _EMBED)
    if not 1 <= len(values["texts"]) <= MOST_TEXTS:
        raise RefusalError(400, f"texts has {len(values['texts'])} texts; expected 1 to {MOST_TEXTS}")
    return values["texts"], values.get("head")


async def read_json(request: Request, form: Mapping[str, Any]) -> dict:
    """A small JSON body of a form. Raises RefusalError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Others are what pages of other origins may send without asking.
    if kind != "application/json":
        raise RefusalError(415, "expected a body of application/json")
    return _parsed(await read_body(request, most=MOST_JSON), form)


def _parsed(body: bytes, form: Mapping[str, Any]) -> dict:
    try:
        values = parse_record(body, dict(form))
    except RecordError as error:
        raise RefusalError(400, f"the body cannot be used: {error}") from None
    unknown = sorted(set(values) - set(form))
    if unknown:
        raise RefusalError(400, f"the body has the field {unknown[0][:60]!r}; expected only {', '.join(form)}")
    return values


def _from_query(request: Request) -> dict:
    values: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name not in _SEARCH or name in ("image", "row", "caption") or name in values:
            raise RefusalError(400, f"the query string has {name[:60]!r} where it may not, or twice")
        if name in _WHOLE_NUMBERS:
            if not (value.isascii() and value.isdecimal() and len(value) < 10):
                raise RefusalError(400, f"{name} is {value[:60]!r}; expected a whole number")
            values[name] = int(value)
        elif name == "min_score":
            values[name] = _number(value)
        else:
            values[name] = value
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RefusalError(400, f"min_score is {text[:60]!r}; expected a number") from None


def _decoded(text: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusalError(400, "image is no base64") from None
    if len(content) > MOST_PICTURE:
        raise RefusalError(413, f"the picture is too large; expected at most {MOST_PICTURE:,} bytes")
    return content


def _search_of(values: Mapping[str, Any], image: bytes | None, *, split: str) -> Asked:
    terms = _terms_of(values)
    if not terms and image is None:
        raise RefusalError(400, "say what to look for: text, image, row or caption")
    k, offset, least = values.get("k", 10), values.get("offset", 0), values.get("min_score")
    find, asked_split = values.get("find", FINDS[0]), values.get("split", split)
    _require_between("k", k, 1, MOST_HITS)
    _require_between("offset", offset, 0, MOST_OFFSET)
    _require_one_of("find", find, FINDS)
    _require_one_of("split", asked_split, (ALL_SPLITS, *SPLITS))
    if least is not None:
        _require_between("min_score", least, -1, 1)
    return Asked(terms, image, values.get("head"), find, k, offset, asked_split, least)


def _terms_of(values: Mapping[str, Any]) -> Query:
    try:
        terms = parse(values["text"]) if "text" in values else ()
    except UsageError as error:
        raise RefusalError(400, str(error)) from None
    rows = [Term(row=(side, values[name])) for name, side in (("row", "image"), ("caption", "text")) if name in values]
    return (*terms, *rows)


def _require_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RefusalError(400, f"{name} is {value}; expected {low:,} to {high:,}")


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RefusalError(400, f"{name} is {value[:60]!r}; expected one of: {', '.join(allowed)}")
