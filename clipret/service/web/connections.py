"""Connections of uvicorn that do not wait for ever: slow heads of requests, and too many at once, are ended."""

from uvicorn.protocols.http.h11_impl import H11Protocol

from clipret.service.web.limits import HEAD_SECONDS, MOST_CONNECTIONS

_INVALID = b'{"error":"this is no HTTP request"}\n'
_HEAD = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    % len(_INVALID)
)


class PatientProtocol(H11Protocol):
    """HTTP/1.1, with a limit on how long the head of a request may take."""

    _deadline = None

    def connection_made(self, transport) -> None:
        """As of a protocol; a connection too many is closed."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """As of a protocol."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc) -> None:
        """As of a protocol."""
        if self._deadline is not None:
            self._deadline.cancel()
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
