"""A web server on the loopback that serves files, and fails in the ways that a test configures."""

import hashlib
import io
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from clipret.datasets.downloads.published import Archive

BLOCK = 4096


@dataclass(frozen=True)
class Fault:
    """How one answer differs from a good one.

    status             another status, without a body
    body               other bytes than the file's
    cut                the connection ends after so many bytes of the body
    length             a Content-Length of so many bytes, and no more of the body; -1: none at all
    ignores_range      the whole file, whatever part was asked for
    ignores_condition  the part that was asked for, whatever If-Range says
    content_range      what the header says in place of the truth
    etag               the ETag now, and from now on
    delay              seconds between blocks of the body
    stall              after so many bytes nothing more comes, until the server stops
    before             called first
    """

    status: int | None = None
    body: bytes | None = None
    cut: int | None = None
    length: int | None = None
    ignores_range: bool = False
    ignores_condition: bool = False
    content_range: str | None = None
    etag: str | None = None
    delay: float = 0
    stall: int | None = None
    before: Callable[[], object] | None = None


@dataclass
class Site:
    """What the server has (files by path), what goes wrong next (faults by path), and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict]] = field(default_factory=list)
    active: int = 0
    most_active: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each request for a path."""
        return [headers.get("Range") for asked, headers in self.asked if asked == path]


@contextmanager
def serving():
    site = Site()

    class Handler(_Handler):
        pass

    Handler.site = site
    server = _Server(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing of clients that hang up: many here do."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self):
        site = self.site
        with site.lock:
            site.asked.append((self.path, dict(self.headers)))
            site.active += 1
            self.is_active = True
            site.most_active = max(site.most_active, site.active)
            waiting = site.faults.get(self.path)
            fault = waiting.pop(0) if waiting else Fault()
        try:
            if fault.before:
                fault.before()
            self._answer(fault)
        except ConnectionError:
            self.close_connection = True
        finally:
            self._leave()

    def _leave(self):
        """Count the request as no longer active, once."""
        with self.site.lock:
            self.site.active -= self.is_active
            self.is_active = False

    def _answer(self, fault: Fault):
        site, path = self.site, self.path
        if fault.etag:
            site.etags[path] = fault.etag
        body = site.files.get(path) if fault.body is None else fault.body
        if fault.status or body is None:
            self.send_response(fault.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start(fault, len(body))
        sent = body[start:]
        length = len(sent) if fault.length is None else fault.length
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", fault.content_range or f"bytes {start}-{len(body) - 1}/{len(body)}")
        if path in site.etags:
            self.send_header("ETag", site.etags[path])
        if length >= 0:
            self.send_header("Content-Length", str(length))
            sent = sent[:length]
        self.end_headers()
        self._send(sent, fault)
        if fault.cut is not None or length < 0:
            self.close_connection = True

    def _start(self, fault: Fault, total: int) -> int:
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        changed = condition is not None and condition != self.site.etags.get(self.path)
        if not asked or fault.ignores_range or (changed and not fault.ignores_condition):
            return 0
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        assert start < total, "nobody asks for what is not there"
        return start

    def _send(self, body: bytes, fault: Fault):
        ends = [end for end in (fault.cut, fault.stall) if end is not None]
        body = body[: min(ends)] if ends else body
        block = BLOCK if fault.delay else max(1, len(body))
        for start in range(0, len(body), block):
            time.sleep(fault.delay)
            if start + block >= len(body):
                # Whoever has the last bytes may ask for the next file before this thread runs again.
                self._leave()
            self.wfile.write(body[start : start + block])
        if fault.stall is not None:
            self.site.stopping.wait(30)
            self.close_connection = True

    def log_message(self, *arguments):
        pass


def make_zip(files: dict[str, bytes]) -> bytes:
    """A zip file, compressed as COCO's are not and smaller ones are."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def publish(site: Site, path: str, content: bytes, *, members: str = "*", images: bool = True, unpacked: int = 0):
    """Put a zip file on the site; the Archive that describes it."""
    site.files[f"/{path}"] = content
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Archive(path, size=len(content), md5=md5, members=members, unpacked=unpacked, images=images)
