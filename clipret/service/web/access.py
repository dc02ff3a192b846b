"""What stands before every route: the Host header, the token, origins, how many at once, and how errors look."""

import hashlib
import ipaddress
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipret.machine.escaping import visible_json
from clipret.service.web.limits import ANSWER_SECONDS, MOST_AT_ONCE, RefusalError

COOKIE = "clipret_token"
# Of the page itself: it has no data, and asks for the token.
_OPEN = ("/", "/health", "/page.css", "/page.js", "/view.js", "/icon.svg", "/v1/session")
_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


FAULT = RefusalError(500, "the service could not answer; its terminal says why")


@dataclass(frozen=True)
class Rules:
    """Who may ask.

    token    None: anyone who reaches the port
    hosts    names in lower case that the service is called by, beside localhost and addresses
    origins  whose pages may use it
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


class OneLine(JSONResponse):
    """JSON in one line; control characters that JSON would let through are escaped."""

    def render(self, content: object) -> bytes:
        """The bytes."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Lone surrogates, as in some file names, have no UTF-8.
        return visible_json(text).encode("utf-8", "backslashreplace") + b"\n"


def refused(error: RefusalError) -> Response:
    """The answer to a request that is refused."""
    return OneLine({"error": error.message}, status_code=error.status, headers=error.headers)


class Access:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        rules: Rules,
        log: Callable[[str], None],
        count: Callable[[str, int], None],
        close: Callable[[], None],
    ):
        """log: called with a line for every error of ours. count: called with path and status of every answer. close:
        ends what works for the application, once it answers no more."""
        self._app, self._rules, self._log, self._count, self.close = app, rules, log, count, close
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its head to its answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), False
        origin = headers.get("origin")

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._count(scope["path"], message["status"])
                _protect(MutableHeaders(scope=message), self._allowed(origin))
            await send(message)

        try:
            response = self._refusal(scope, headers)
            if response is None:
                await self._answered(scope, receive, sending)
                return
        except RefusalError as error:
            response = refused(error)
        except TimeoutError:
            response = refused(RefusalError(503, "the answer took too long; try again", headers={"retry-after": "1"}))
        # A fault of ours must not end the service.
        except Exception as error:
            self._log(f"{scope['method']} {scope['path']}: {type(error).__name__}: {error}")
            response = refused(FAULT)
        if not started:
            await response(scope, receive, sending)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._working >= MOST_AT_ONCE and scope["path"] != "/health":
            raise RefusalError(503, "too many requests at once; try again", headers={"retry-after": "1"})
        self._working += 1
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                await self._app(scope, receive, send)
        finally:
            self._working -= 1

    def _allowed(self, origin: str | None) -> str | None:
        return origin if origin in self._rules.origins else None

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to what may not go on; None: it may."""
        self._require_host(headers)
        origin, host = headers.get("origin"), headers.get("host", "")
        own = origin in (None, f"http://{host}", f"https://{host}")
        if scope["method"] == "OPTIONS" and self._allowed(origin):
            allowed = {"access-control-allow-headers": "authorization, content-type", "access-control-max-age": "600"}
            return Response(status_code=204, headers=allowed | {"access-control-allow-methods": "GET, POST"})
        if not own and not self._allowed(origin):
            raise RefusalError(403, "pages of this origin may not use the service (--cors)")
        if self._rules.token is not None and scope["path"] not in _OPEN and not self._knows_token(headers):
            raise RefusalError(401, "the token is missing or wrong", headers={"www-authenticate": "Bearer"})
        return None

    def _require_host(self, headers: Headers) -> None:
        """Raise RefusalError for a name that somebody else may have pointed here, as in DNS rebinding."""
        values = headers.getlist("host")
        match = _HOST.fullmatch(values[0]) if len(values) == 1 else None
        name = match["name"].lower().rstrip(".") if match else ""
        if name == "localhost" or name in self._rules.hosts or _is_address(name):
            return
        raise RefusalError(400, "the Host header names another machine (--allow-host)")

    def _knows_token(self, headers: Headers) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        sent = [token.strip()] if kind.lower() == "bearer" else []
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        sent += [cookie.value] if cookie else []
        return any(same_token(value, self._rules.token) for value in sent)


def same_token(one: str, other: str | None) -> bool:
    """Whether two tokens are equal, in a time that does not tell how much of them is."""
    digests = [hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest() for token in (one, other or "")]
    return other is not None and secrets.compare_digest(*digests)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _protect(headers: MutableHeaders, origin: str | None) -> None:
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("cache-control", "no-store")
    if origin:
        headers["access-control-allow-origin"] = origin
        headers["cross-origin-resource-policy"] = "cross-origin"
        headers.add_vary_header("origin")
