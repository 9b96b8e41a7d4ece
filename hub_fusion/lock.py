"""One program at a time in a work folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub_fusion.events import Say


@contextmanager
def alone(work: Path, say: Say) -> Iterator[None]:
    """One round at a time in a work folder: others wait here. The lock ends with the process, however it ends."""
    from filelock import FileLock, Timeout

    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another round is running in {work}; waiting for it (--work names another folder)")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
