"""Connections of uvicorn that do not wait for ever: slow heads of requests, answers that nobody reads, and too many at
once, are ended."""

from uvicorn.protocols.http.h11_impl import H11Protocol

from clipret.service.web.limits import HEAD_SECONDS, MOST_CONNECTIONS, READ_SECONDS

_INVALID = b'{"error":"this is no HTTP request"}\n'
_HEAD = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    % len(_INVALID)
)


class PatientProtocol(H11Protocol):
    """HTTP/1.1, with limits on how long the head of a request may take, and on how long an answer may lie unread."""

    _deadline = None
    _look = None
    # Bytes that waited for the client at the last look.
    _unread: int | None = None

    def connection_made(self, transport) -> None:
        """As of a protocol; a connection too many is closed."""
        super().connection_made(transport)
        self._look = self.loop.call_later(READ_SECONDS, self._end_unless_read)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """As of a protocol."""
        super().data_received(data)
        self._watch()

    def resume_writing(self) -> None:
        """As of a protocol."""
        super().resume_writing()
        self._unread = None

    def connection_lost(self, exc) -> None:
        """As of a protocol."""
        for timer in (self._deadline, self._look):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as every error is answered."""
        self.transport.write(_HEAD + _INVALID)
        self.transport.close()

    def _watch(self) -> None:
        """While no whole head has come, count the time from its first byte, or from the connection, on."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._end)

    def _end(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _end_unless_read(self) -> None:
        """Cut the connection when its client has read nothing since the last look; closing alone waits for it."""
        # Only then nothing is added to what waits.
        stands = self.flow.write_paused or self.transport.is_closing()
        unread = self.transport.get_write_buffer_size() if stands else None
        if unread and self._unread is not None and unread >= self._unread:
            self.transport.abort()
            return
        self._unread = unread
        self._look = self.loop.call_later(READ_SECONDS, self._end_unless_read)
