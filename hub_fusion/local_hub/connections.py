"""Connections that cannot be held open by saying almost nothing, and what is told to those that speak no HTTP.

uvicorn limits how many there are and how long one may rest between requests; what it lacks is a limit on the time from
the first byte of a request's head to its last. A slow body is another matter: uploads over bad lines are slow, they
wait without a thread of their own, and their number is limited with all others.
"""

import asyncio
import json
import resource
import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MAX_CONNECTIONS = min(1000, max((_FILES - 100) // 2, 16))  # each may have a file open; those beyond get 503
HEAD_TIMEOUT_S = 20.0


class Connection(H11Protocol):
    """uvicorn's connection, closed if the head of a request does not arrive in time."""

    head_timeout_s = HEAD_TIMEOUT_S
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head may take its time from here on."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS * 5 // 4:
            transport.abort()  # so many that even telling them 503 would take what is left
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Further heads from their first byte on."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        super().connection_lost(exc)
        self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Tell why in the Hub's form: 431 for a head that is too long, 400 else. The connection ends with it."""
        error = sys.exception()
        status = 431 if getattr(error, "error_status_hint", 400) == 431 else 400
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer is on its way: it is cut
            words = f"{msg} {error}" if error else msg
            body = json.dumps({"error": words}).encode()
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()  # a head is complete; its request is uvicorn's and the application's business
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
