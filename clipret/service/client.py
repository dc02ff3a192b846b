"""A small client of the web service, of the standard library alone."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from clipret.errors import ServiceError

_MOST_BYTES = 64 << 20


class Client:
    """A client of `clipret serve`.

    client = Client("http://127.0.0.1:8000")
    for hit in client.search("two dogs", k=5)["hits"]: ...
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", *, token: str | None = None, timeout: float = 60.0):
        """timeout: seconds to wait for an answer."""
        self.url, self._token, self._timeout = url.rstrip("/"), token, timeout

    def info(self) -> dict:
        """What is served: model, dataset, heads, splits, limits."""
        return self._json("GET", "/v1/info")

    def search(self, text: str | None = None, *, image: Path | str | bytes | None = None, **settings: Any) -> dict:
        """The best images or captions of words, a picture, or both.

        image     path or bytes of a picture; with words, it is added to them
        settings  head, find, k, offset, split, min_score; row or caption, in the place of words

        Returns hits, and what else /openapi.json says. Raises ServiceError.
        """
        body = {name: value for name, value in settings.items() if value is not None}
        if text is not None:
            body["text"] = text
        if image is None:
            return self._json("POST", "/v1/search", body)
        query = f"?{urlencode(body)}" if body else ""
        return json.loads(self._sent("POST", f"/v1/search{query}", _content(image), kind="image/*"))

    def embed(self, texts: Sequence[str], *, head: str | None = None) -> np.ndarray:
        """(n, E) float32 of captions. Raises ServiceError."""
        body = {"texts": list(texts)} | ({"head": head} if head else {})
        return np.array(self._json("POST", "/v1/embed", body)["embeddings"], dtype=np.float32)

    def embed_image(self, image: Path | str | bytes, *, head: str | None = None) -> np.ndarray:
        """(E,) float32 of a picture. Raises ServiceError."""
        query = f"?{urlencode({'head': head})}" if head else ""
        answer = json.loads(self._sent("POST", f"/v1/embed{query}", _content(image), kind="image/*"))
        return np.array(answer["embeddings"][0], dtype=np.float32)

    def image(self, row: int, *, size: int = 256) -> bytes:
        """A JPEG of the image of a row. Raises ServiceError."""
        return self._sent("GET", f"/v1/images/{row:d}?size={size:d}")

    def caption(self, row: int) -> dict:
        """A caption of the cache. Raises ServiceError."""
        return self._json("GET", f"/v1/captions/{row:d}")

    def mark(self, image: int, caption: str, *, right: bool | None) -> dict:
        """Keep that a caption is right, or wrong, for the image of a row; None takes the mark away."""
        return self._json("POST", "/v1/marks", {"image": image, "caption": caption, "right": right})

    def _json(self, method: str, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        return json.loads(self._sent(method, path, data, kind="application/json"))

    def _sent(self, method: str, path: str, data: bytes | None = None, *, kind: str | None = None) -> bytes:
        headers = {"content-type": kind} if data is not None and kind else {}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                return answer.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            raise ServiceError(f"{self.url}{path.partition('?')[0]}: {error.code}, {_said(error)}.") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServiceError(f"{self.url} does not answer ({reason}); is clipret serve running there?") from None


def _content(image: Path | str | bytes) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return json.loads(error.read(1 << 16))["error"]
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
