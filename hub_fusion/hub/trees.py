"""Lists of files at commits, as far as they were asked for: what is at a commit never changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from hub_fusion.hub.facts import FileInfo

FILES = 100_000  # kept in all, some 30 MB; strangers decide how many a repository has
Key = tuple[str, str, str]  # kind, repository, commit
Tree = dict[str, FileInfo]


class Trees:
    """The lists that were used last, for all threads of a process. What could not be had is asked for again."""

    def __init__(self, most: int = FILES) -> None:
        self.most = most
        self._known: OrderedDict[Key, Tree] = OrderedDict()
        self._files = 0
        self._lock = threading.Lock()

    def get(self, key: Key, ask: Callable[[], Tree]) -> Tree:
        """The list, in a dictionary of the caller's own; `ask` raises what there is to raise."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return dict(self._known[key])
        found = ask()
        with self._lock:
            if key not in self._known and len(found) <= self.most:
                self._known[key] = dict(found)
                self._files += len(found) + 1
            while self._files > self.most + 1:
                _, gone = self._known.popitem(last=False)
                self._files -= len(gone) + 1
        return found
