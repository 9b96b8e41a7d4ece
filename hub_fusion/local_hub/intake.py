"""Taking large request bodies: received, hashed and written at once, without holding more than a few pieces."""

import asyncio
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from hub_fusion.local_hub.call import Call
from hub_fusion.local_hub.db import now_ms
from hub_fusion.local_hub.store import Store

PIECE = 4 << 20


async def receive(call: Call, write: Callable[[bytes], object], limit: int) -> int:
    """Pass the body to `write`, in order, in a thread, while the next piece arrives; returns the bytes that came.

    What goes beyond `limit` is read, so that the connection stays usable, and dropped.
    """
    pieces: list[bytes] = []
    held = arrived = 0
    writing: asyncio.Task[None] | None = None
    try:
        async for piece in call.request.stream():
            arrived += len(piece)
            if arrived > limit:
                continue
            pieces.append(piece)
            held += len(piece)
            if held >= PIECE:
                if writing is not None:
                    await writing
                writing = asyncio.create_task(run_in_threadpool(_write_all, write, pieces))
                pieces, held = [], 0
    finally:
        if writing is not None:
            await writing
    if pieces and arrived <= limit:
        await run_in_threadpool(_write_all, write, pieces)
    return arrived


def _write_all(write: Callable[[bytes], object], pieces: list[bytes]) -> None:
    for piece in pieces:  # joining them first would copy every byte once more
        write(piece)


async def drain(call: Call) -> None:
    """Read what is left of the body, for an answer that comes before it."""
    try:
        async for _ in call.request.stream():
            pass
    except ClientDisconnect:
        pass


def grant(store: Store, account: int, hashes: list[str]) -> None:
    """Note that this account has shown these contents and may commit them."""
    with store.db.write() as con:
        con.executemany("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", [(account, sha, now_ms()) for sha in hashes])
