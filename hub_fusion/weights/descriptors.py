"""Open files, a bounded number of them: 35 contributions of 30 shards are more than a process may have open.

The least recently used are closed; what a thread is reading or writing stays open until it is done with it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

if sys.platform != "win32":
    import resource

MOST = 256  # or a quarter of what the system allows, if that is fewer


@dataclass
class Open:
    """An open file, and how many are using it."""

    descriptor: int
    users: int = 0


class Descriptors:
    """Keeps files open for those who will want them again."""

    def __init__(self) -> None:
        self._files: dict[tuple[Hashable, str], Open] = {}  # the least recently used first
        self._gone: deque[Hashable] = deque()  # owners whose files nobody wants any more
        self._lock = threading.Lock()

    def take(self, owner: Hashable, path: str, flags: int) -> Open:
        """An open file, which stays so until it is given back. Raises OSError."""
        key = owner, path
        with self._lock:
            file = self._files.pop(key, None)
            if file is None:
                self._make_room()
                file = Open(os.open(path, flags | os.O_CLOEXEC))
            self._files[key] = file
            file.users += 1
            return file

    def give_back(self, file: Open) -> None:
        """Somebody is done with an open file."""
        with self._lock:
            file.users -= 1

    def close(self, owner: Hashable) -> None:
        """Close all files of an owner, none of which may be in use. May be called by a destructor, at any moment."""
        self._gone.append(owner)
        if self._lock.acquire(blocking=False):  # or else whoever opens a file next closes them
            try:
                self._close_gone()
            finally:
                self._lock.release()

    def _close_gone(self) -> None:
        gone = {self._gone.popleft() for _ in range(len(self._gone))}
        for key in [key for key in self._files if key[0] in gone]:
            os.close(self._files.pop(key).descriptor)

    def _make_room(self) -> None:
        self._close_gone()
        idle = [key for key, file in self._files.items() if not file.users]
        for key in idle[: max(len(self._files) + 1 - _most(), 0)]:
            os.close(self._files.pop(key).descriptor)


def _most() -> int:
    """How many files may be open here."""
    if sys.platform == "win32":  # where headers can be read, and nothing is fused
        return MOST
    return min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


def at_once() -> int:
    """How many files one thread may hold at a time; more are opened one after another."""
    return _most() // 2


SHARED = Descriptors()  # of this process
