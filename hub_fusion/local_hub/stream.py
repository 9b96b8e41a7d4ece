"""A part of a file as an answer: sent by the kernel from the page cache to the socket, where the server allows it.

Under uvicorn's h11 protocol the bytes never pass through Python (`loop.sendfile`); under any other ASGI server, or if
an upgrade of uvicorn hides what this needs, they are read in pieces. Both give the same answer.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h11
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hub_fusion.local_hub.errors import HubError

PIECE = 1 << 20
SMALL = 64 * 1024  # below this one write of headers and content is quicker than two calls
RAW_SEND = "hub_fusion.raw_send"  # the key in the scope under which the server's own `send` is found


class SliceResponse(Response):
    """Bytes `start` up to, not including, `end` of the file at `path`, opened when the answer is made."""

    def __init__(
        self, path: Path, start: int, end: int, status: int, headers: dict[str, str], media_type: str | None = None
    ) -> None:
        try:
            self._file: BinaryIO = path.open("rb")
        except FileNotFoundError:
            raise HubError(404, "This content is not here any more.", code="EntryNotFound") from None
        self._start, self._count = start, end - start
        super().__init__(None, status, {**headers, "Content-Length": str(end - start)}, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers, then the bytes."""
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            cycle = _h11_cycle(scope)
            if self._count <= SMALL:
                body = await run_in_threadpool(_read, self._file, self._start, self._count)
                await send({"type": "http.response.body", "body": body, "more_body": False})
                return
            if cycle is not None:
                if not await _sendfile(cycle, self._file, self._start, self._count):
                    cycle.transport.abort()
                    await receive()  # returns once the server has noticed that the client is gone
                    return
            else:
                for at in range(self._start, self._start + self._count, PIECE):
                    size = min(PIECE, self._start + self._count - at)
                    body = await run_in_threadpool(_read, self._file, at, size)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class PiecesResponse(Response):
    """Pieces of bytes whose joined length is known."""

    def __init__(self, pieces: Iterator[bytes], size: int, status: int, headers: dict[str, str]) -> None:
        self._pieces = pieces
        super().__init__(None, status, {**headers, "Content-Length": str(size)}, "application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers, then each piece as soon as the one before is on its way."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while piece := await run_in_threadpool(next, self._pieces, b""):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Elsewhere:
    """Stands for bytes that go to the socket by another way; h11 asks for nothing but their number."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def _h11_cycle(scope: Scope) -> Any:
    """uvicorn's state of this request, if it has what `_sendfile` needs."""
    cycle = getattr(scope.get(RAW_SEND), "__self__", None)
    if isinstance(getattr(cycle, "conn", None), h11.Connection) and hasattr(cycle, "transport"):
        return cycle
    return None


async def _sendfile(cycle: Any, file: BinaryIO, start: int, count: int) -> bool:
    """Whether all bytes were sent; what is not sent breaks the connection, never the length."""
    if cycle.disconnected:
        return True
    cycle.conn.send_with_data_passthrough(h11.Data(data=_Elsewhere(count)))  # type: ignore[arg-type]
    try:
        return await asyncio.get_running_loop().sendfile(cycle.transport, file, start, count) == count
    except (ConnectionError, RuntimeError):  # RuntimeError: the transport is closing
        return False


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
