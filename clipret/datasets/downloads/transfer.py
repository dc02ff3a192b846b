"""Fetching one file over HTTP: in parts that go on where they stopped, and verified before it gets its name.

Of FILE there is FILE.part while it is incomplete, and FILE.origin.json, which says where its bytes came from.
"""

import hashlib
import http
import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from clipret.datasets.downloads.watch import Watch, explained
from clipret.errors import DatasetError

# Seconds before another try; there are no more tries than these while none of them gets further than those before.
PAUSES = (1, 2, 4, 8)
TIMEOUT = (10, 20)
_CHUNK = 1 << 17
# Numbers of more digits are no sizes, and Python would take long over them.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
_CONTENT_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_WORTH_ANOTHER_TRY = (408, 429)


class _FailedTryError(Exception):
    """One try did not bring the whole file; its text says why."""


@dataclass(frozen=True)
class Remote:
    """A file on a server: its address, and the size in bytes and MD5 that it must have."""

    address: str
    size: int
    md5: str


def fetch(remote: Remote, path: Path, *, watch: Watch) -> str:
    """Bring a file to `path`, whole and with the right checksum, or not at all.

    Returns "already there", "resumed" when the part of an earlier run was used, or "fetched". Raises DatasetError when
    the server does not give the file, the file it gives is another, `path` is another file, or the disk refuses.
    """
    if path.exists():
        _require_published(remote, path, watch=watch)
        return "already there"
    part = _Part(remote, path, watch=watch)
    for _ in range(2):
        part.complete()
        md5 = _md5(part.path, watch)
        if md5 == remote.md5:
            with explained(path):
                part.path.replace(path)
            return "fetched" if part.began_anew else "resumed"
        part.delete()
    raise DatasetError(
        f"{remote.address} was downloaded completely but is not the published file: its MD5 is {md5}, expected "
        f"{remote.md5}; it was deleted. Try again later, or name a mirror with --base-url."
    )


def part_of(path: Path) -> Path:
    """Where a file is while it is incomplete."""
    return path.with_name(f"{path.name}.part")


def origin_of(path: Path) -> Path:
    """The file that says where a file that we fetched comes from; there is none beside a user's own file."""
    return path.with_name(f"{path.name}.origin.json")


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    return path.stat().st_size if path.is_file() else 0


def _require_published(remote: Remote, path: Path, *, watch: Watch) -> None:
    size = size_of(path)
    if size == remote.size:
        actual, expected = f"MD5 {_md5(path, watch)}", f"MD5 {remote.md5}"
    else:
        actual, expected = f"{size:,} bytes", f"{remote.size:,} bytes"
    if actual != expected:
        raise DatasetError(
            f"{path} is not the published file: it has {actual}, expected {expected}; delete it, or, if it is the "
            f"beginning of that file, rename it to {part_of(path).name} and the same command continues from there."
        )


def _md5(path: Path, watch: Watch) -> str:
    digest, done, total = hashlib.md5(usedforsecurity=False), 0, size_of(path)
    with explained(path), path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            watch.report(f"check {path.name.removesuffix('.part')}", done=done, total=total, unit="bytes")
    return digest.hexdigest()


class _Part:
    """The part of a file, and how it becomes whole."""

    def __init__(self, remote: Remote, path: Path, *, watch: Watch):
        self.path = part_of(path)
        self.began_anew = False
        self._remote = remote
        self._watch = watch
        self._origin = origin_of(path)
        self._phase = f"download {path.name}"

    def complete(self) -> None:
        """Try until the part has the file's size, as long as one of the last few tries got further than all before."""
        if size_of(self.path) > self._remote.size:
            self.delete()
        furthest, failures = size_of(self.path), 0
        with requests.Session() as session:
            while size_of(self.path) != self._remote.size:
                try:
                    self._try(session)
                except _FailedTryError as failure:
                    if size_of(self.path) > furthest:
                        furthest, failures = size_of(self.path), 0
                    if failures == len(PAUSES):
                        raise self._given_up(f"{failure}, {failures + 1} times in a row") from None
                    self._watch.pause(PAUSES[failures])
                    failures += 1

    def delete(self) -> None:
        """Begin anew, with nothing."""
        with explained(self.path):
            self.path.unlink(missing_ok=True)

    def _given_up(self, reason: str) -> DatasetError:
        have, remote = size_of(self.path), self._remote
        kept = f"; {have:,} of {remote.size:,} bytes are in {self.path} and the same command continues from there"
        return DatasetError(
            f"cannot download {remote.address}: {reason}{kept if have else ''}. Check the network, or name another "
            f"server that has the same files with --base-url."
        )

    def _try(self, session: requests.Session) -> None:
        """Append what the server sends. Raises _FailedTryError unless the part has the file's size then."""
        have, validator = size_of(self.path), self._validator()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
        with self._answer(session, headers) as response:
            done = self._first_byte(response, have=have, validator=validator)
            with explained(self.path), self.path.open("ab" if done else "wb") as file:
                self._note_origin(response, anew=not done)
                for chunk in _chunks(response, self._watch):
                    done += len(chunk)
                    if done > self._remote.size:
                        break
                    file.write(chunk)
                    self._watch.report(self._phase, done=done, total=self._remote.size, unit="bytes")
        if done > self._remote.size:
            self.delete()
            raise _FailedTryError(f"the server sends more than the {self._remote.size:,} bytes expected")
        if done < self._remote.size:
            raise _FailedTryError("the connection broke off")

    @contextmanager
    def _answer(self, session: requests.Session, headers: dict) -> Iterator[requests.Response]:
        """The server's answer, of a status that can lead to the file; its body has not been read."""
        try:
            response = session.get(self._remote.address, headers=headers, stream=True, timeout=TIMEOUT)
        except requests.exceptions.SSLError as error:
            raise self._given_up(_reason(error)) from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _FailedTryError(_reason(error)) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise self._given_up(lines[0].rstrip(".")) from None
        with response:
            status = response.status_code
            if status not in (200, 206, 416, *_WORTH_ANOTHER_TRY) and status < 500:
                raise self._given_up(_status(status))
            yield response

    def _first_byte(self, response: requests.Response, *, have: int, validator: str | None) -> int:
        """Where in the file the answer's body begins: 0, or where the part ends. Raises _FailedTryError otherwise."""
        status, total = response.status_code, response.headers.get("Content-Length", "")
        if status == 416:
            self.delete()
        if status not in (200, 206):
            raise _FailedTryError(_status(status))
        if status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if not match or int(match[1]) != have:
                raise _FailedTryError("the server sends another range than the one asked for")
            total = match[2]
            served = _served_validator(response)
            if validator and served and served != validator:
                self.delete()
                raise _FailedTryError("the file on the server changed while it was downloaded")
        if (
            _CONTENT_LENGTH.fullmatch(total)
            and int(total) != self._remote.size
            and "Content-Encoding" not in response.headers
        ):
            raise _FailedTryError(f"the server has {int(total):,} bytes there, expected {self._remote.size:,}")
        return have if status == 206 else 0

    def _note_origin(self, response: requests.Response, *, anew: bool) -> None:
        self.began_anew |= anew
        noted = {"address": self._remote.address, "validator": _served_validator(response)}
        self._origin.write_text(json.dumps(noted))

    def _validator(self) -> str | None:
        """The validator of the file that the part is of, when the part came from this very address."""
        try:
            noted = json.loads(self._origin.read_text())
        except (OSError, ValueError):
            return None
        same = isinstance(noted, dict) and noted.get("address") == self._remote.address
        return noted["validator"] if same and isinstance(noted.get("validator"), str) else None


def _chunks(response: requests.Response, watch: Watch) -> Iterator[bytes]:
    """The body as it comes in. iter_content would wait for whole chunks, and lose what it has when the next is cut."""
    try:
        with watch.waking(lambda: _wake(response)):
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                yield chunk
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _FailedTryError(_reason(error)) from None


def _wake(response: requests.Response) -> None:
    """End a wait for bytes of this answer. That the answer has just ended is no matter."""
    with suppress(OSError, RuntimeError, ValueError):
        response.raw.shutdown()


def _served_validator(response: requests.Response) -> str | None:
    """What tells this version of the file from another: a strong ETag, or the date of its last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _status(status: int) -> str:
    phrases = {code.value: code.phrase for code in http.HTTPStatus}
    return f"the server answers {status} {phrases.get(status, '')}".rstrip()


def _reason(error: BaseException) -> str:
    """Why the network failed, in our words: those of the libraries name their own classes and objects."""
    causes = list(_causes(error))

    def first(*kinds: type):
        """The first of the causes that is of one of these kinds."""
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if first(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError):
        return "the proxy refuses the connection"
    if first(socket.gaierror):
        return "its host is unknown"
    if broken := first(ssl.SSLError):
        return f"TLS fails ({getattr(broken, 'verify_message', '') or broken.reason or 'no reason given'})"
    if first(ConnectionRefusedError):
        return "the connection is refused"
    if first(requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError):
        return f"there is no connection after {TIMEOUT[0]} seconds"
    if first(requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError):
        return f"no data came for {TIMEOUT[1]} seconds"
    if first(ConnectionResetError, BrokenPipeError, urllib3.exceptions.ProtocolError):
        return "the connection broke off"
    system = next((cause for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    return f"the connection fails ({system.strerror})" if system else "the connection broke off"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it says brought it about."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop()
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
