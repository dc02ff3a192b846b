"""What a client may ask for at most, and reading of bodies within these limits."""

from collections.abc import Mapping

import anyio
from starlette.requests import ClientDisconnect, Request

from clipret.config.service import MOST_HITS

# Bytes of a body: of JSON without and with a picture, which base64 makes larger by a third.
MOST_JSON = 64 << 10
MOST_PICTURE = 20 << 20
MOST_BODY = MOST_PICTURE * 4 // 3 + MOST_JSON
MOST_PIXELS = 40_000_000
# Hits to skip and to return, together.
MOST_OFFSET = 10_000
MOST_TEXTS = 64
# Requests that are worked on; more are told to come again.
MOST_AT_ONCE = 64
MOST_CONNECTIONS = 600
# Seconds for a request's head, for its body, and for its answer.
HEAD_SECONDS = 10.0
BODY_SECONDS = 15.0
ANSWER_SECONDS = 30.0
LIMITS: Mapping[str, int] = {"k": MOST_HITS, "offset": MOST_OFFSET, "picture_bytes": MOST_PICTURE, "texts": MOST_TEXTS}


class RefusalError(Exception):
    """A request that is answered with an error.

    status   of HTTP
    message  one line, without a path
    """

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


async def read_body(request: Request, *, most: int) -> bytes:
    """The body of a request. Raises RefusalError: 413 when it is larger, 408 when it takes too long, 400 when it ends
    too early."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(most)
    parts, size = [], 0
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        raise RefusalError(408, f"the body did not arrive within {BODY_SECONDS:g} seconds", headers=_CLOSE) from None
    except ClientDisconnect:
        raise RefusalError(400, "the body broke off", headers=_CLOSE) from None
    return b"".join(parts)


# What is left of the body is not read.
_CLOSE = {"connection": "close"}


def _too_large(most: int) -> RefusalError:
    return RefusalError(413, f"the body is too large; expected at most {most:,} bytes", headers=_CLOSE)
