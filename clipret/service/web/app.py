"""The routes."""

import functools
import random
from collections.abc import Awaitable, Callable
from importlib import resources

import torch
from anyio import CapacityLimiter, to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clipret import __version__
from clipret.config import SPLITS
from clipret.errors import DatasetError, UsageError
from clipret.machine.records import AtLeast
from clipret.service.marks import MarksError
from clipret.service.web import pictures
from clipret.service.web.access import COOKIE, FAULT, Access, OneLine, Rules, refused, same_token
from clipret.service.web.asking import read_json, read_search, read_texts
from clipret.service.web.batching import Batcher
from clipret.service.web.counting import Counts
from clipret.service.web.limits import LIMITS, RefusalError
from clipret.service.web.openapi import openapi
from clipret.service.web.state import State
from clipret.service.web.work import Embed, Search, Worker

# Pictures that are decoded at a time.
_DECODERS = 2
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_MARK = {"image": AtLeast(0), "caption": str, "right": (bool, None)}
# A week: a thumbnail changes only when the images do.
_THUMBNAIL_CACHING = "private, max-age=604800"


def make_app(state: State, *, rules: Rules, log: Callable[[str], None]) -> Access:
    """The service as an ASGI application.

    log  called with a line for every error of ours
    """
    routes = _Routes(state, token=rules.token)
    app = Starlette(
        routes=routes.table(),
        exception_handlers={
            # Raised again once it is answered, for the log.
            Exception: lambda request, error: refused(FAULT),
            RefusalError: lambda request, error: refused(error),
            HTTPException: lambda request, error: refused(RefusalError(error.status_code, str(error.detail).lower())),
        },
    )
    return Access(app, rules=rules, log=log, count=routes.counts.count, close=routes.close)


class _Routes:
    """The handlers."""

    def __init__(self, state: State, *, token: str | None):
        self.state, self.token, self.counts = state, token, Counts()
        work = self.counts.timed(Worker(state.searcher, state.descriptions))
        # A new thread does not know how many threads torch was told to use.
        self._ask = Batcher(work, prepare=functools.partial(torch.set_num_threads, state.threads))
        self._decoding = CapacityLimiter(_DECODERS)

    def close(self) -> None:
        """End the thread that computes."""
        self._ask.close()

    def table(self) -> list[Route]:
        """Path and method of each."""
        get = {
            "/health": self.health,
            "/metrics": self.metrics,
            "/openapi.json": self.description,
            "/v1/info": self.info,
            "/v1/images/{row:int}": self.image,
            "/v1/images/{row:int}/about": self.about,
            "/v1/captions/random": self.random_caption,
            "/v1/captions/{row:int}": self.caption,
        }
        post = {
            "/v1/search": self.search,
            "/v1/embed": self.embed,
            "/v1/marks": self.mark,
            "/v1/session": self.session,
        }
        page = [Route(path, functools.partial(_file, name, kind)) for path, (name, kind) in _PAGE.items()]
        gets = [Route(path, self.counts.observed(path, handler)) for path, handler in get.items()]
        posts = [Route(path, self.counts.observed(path, handler), methods=["POST"]) for path, handler in post.items()]
        return [*page, *gets, *posts]

    async def health(self, request: Request) -> Response:
        """Whether it answers."""
        return OneLine({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text."""
        return Response(self.counts.text(), media_type=CONTENT_TYPE_LATEST)

    async def description(self, request: Request) -> Response:
        """This service, in OpenAPI."""
        return OneLine(openapi())

    async def info(self, request: Request) -> Response:
        """What is served."""
        cache = self.state.searcher.cache
        return OneLine(
            {
                "version": __version__,
                "model": cache.about["model"],
                "dataset": cache.inputs["dataset"],
                "fingerprint": cache.fingerprint,
                "heads": list(self.state.searcher.heads),
                "split": self.state.searcher.split,
                "splits": self.state.split_sizes,
                "originals": self.state.originals,
                "limits": dict(LIMITS),
            }
        )

    async def search(self, request: Request) -> Response:
        """The best images or captions of a query."""
        asked = await read_search(request, split=self.state.searcher.split)
        head = self._head(asked.head)
        self._require_rows(term.row for term in asked.query if term.row is not None)
        query = asked.query if asked.image is None else asked.with_pixels(await self._pixels(asked.image))
        job = Search(query, head, asked.find, asked.k, asked.offset, asked.split, asked.min_score, asked.row)
        return OneLine(await _computed(self._ask(job)))

    async def embed(self, request: Request) -> Response:
        """Embeddings of captions or a picture."""
        asked, head = await read_texts(request)
        head = self._head(head)
        if isinstance(asked, bytes):
            queries = (self.state.picture_query(await self._pixels(asked)),)
        else:
            queries = self.state.text_queries(asked)
        values = await _computed(self._ask(Embed(queries, head)))
        return OneLine({"head": head, "embeddings": values.tolist()})

    async def image(self, request: Request) -> Response:
        """A thumbnail, or the file."""
        row, asked = request.path_params["row"], dict(request.query_params)
        if asked.pop("original", "0") not in ("0", "1") or set(asked) - {"size"}:
            raise RefusalError(400, "expected size=N, or original=1")
        if request.query_params.get("original") == "1":
            if not self.state.originals:
                raise RefusalError(403, "the files themselves are not served (--originals)")
            content, kind = await self._decoded(self.state.thumbnails.original, row)
        else:
            size = asked.get("size", "256")
            if size not in map(str, pictures.SIZES):
                raise RefusalError(400, f"size is {size[:60]!r}; expected one of {', '.join(map(str, pictures.SIZES))}")
            content = await self._decoded(functools.partial(self.state.thumbnails.thumbnail, size=int(size)), row)
            kind = "image/jpeg"
        tag = pictures.tag_of(content)
        headers = {"etag": tag, "cache-control": _THUMBNAIL_CACHING}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    async def about(self, request: Request) -> Response:
        """What is known of an image: id, file, split and captions."""
        row = request.path_params["row"]
        self._require_rows([("image", row)])
        described = self.state.descriptions
        captions = [described.caption(of) for of in described.captions_of(row)]
        return OneLine({**described.image(row), "captions": captions})

    async def caption(self, request: Request) -> Response:
        """A caption."""
        row = request.path_params["row"]
        self._require_rows([("text", row)])
        return OneLine(self.state.descriptions.caption(row))

    async def random_caption(self, request: Request) -> Response:
        """A caption of a split, drawn at random."""
        split = request.query_params.get("split", "test")
        if split not in (*SPLITS, "all"):
            raise RefusalError(400, f"split is {split[:60]!r}; expected all, {', '.join(SPLITS)}")
        rows = self.state.caption_rows(split)
        if not len(rows):
            raise RefusalError(404, "no image of this split has a caption")
        return OneLine(self.state.descriptions.caption(int(random.choice(rows))))

    async def mark(self, request: Request) -> Response:
        """Keep that a caption is right, or wrong, for an image."""
        asked = await read_json(request, _MARK)
        try:
            counts = await to_thread.run_sync(self.state.marks.mark, *(asked[name] for name in _MARK))
        except MarksError:
            # What is wrong with the files has their paths, and is for the terminal.
            raise
        except UsageError as error:
            raise RefusalError(400, str(error)) from None
        return OneLine(counts)

    async def session(self, request: Request) -> Response:
        """A cookie for the page, for who knows the token."""
        asked = await read_json(request, {"token": str})
        if self.token is not None and not same_token(asked["token"], self.token):
            raise RefusalError(401, "the token is wrong")
        response = OneLine({"status": "ok"})
        if self.token is not None:
            response.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return response

    def _head(self, name: str | None) -> str:
        heads = self.state.searcher.heads
        if name is not None and name not in heads:
            raise RefusalError(400, f"head is {name[:60]!r}; expected one of {', '.join(heads)}")
        return name or next(iter(heads))

    def _require_rows(self, rows) -> None:
        for side, row in rows:
            if row not in self.state.searcher.usable[side]:
                what = "image" if side == "image" else "caption"
                raise RefusalError(404, f"there is no {what} with a feature of this row")

    async def _pixels(self, content: bytes):
        return await self._decoded(self.state.pixels, content)

    async def _decoded(self, function: Callable, argument):
        return await to_thread.run_sync(function, argument, limiter=self._decoding)


async def _computed(answer: Awaitable):
    """What the batch gave. Raises RefusalError for what the client is to be told of."""
    try:
        return await answer
    except (UsageError, DatasetError) as error:
        raise RefusalError(400, str(error)) from None


async def _file(name: str, kind: str, request: Request) -> Response:
    content = resources.files("clipret.service").joinpath("page", name).read_bytes()
    return Response(content, media_type=kind, headers={"cache-control": "no-cache"})
