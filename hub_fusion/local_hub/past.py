"""The Hub as it was some seconds ago, for the fault that shows lists and infos late.

SQLite's write-ahead log keeps what an open read transaction sees, so a past state is a connection that began to read
then. One is opened after every change while they are wanted, never otherwise.
"""

import copy
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hub_fusion.local_hub.db import Database
from hub_fusion.local_hub.store import Store

MAX_STATES = 64  # with more changes in the time looked back on, the oldest state that is kept is shown


class _State(Database):
    """A database that reads as it was when this was made, and writes to the present."""

    def __init__(self, present: Database) -> None:  # the present one has prepared the file
        self._present, self.changed = present, present.changed
        self._con = present.hold()
        self._in_use = threading.RLock()
        self.since = time.monotonic()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        with self._in_use:
            yield self._con

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        with self._present.write() as con:
            yield con

    def close(self) -> None:
        with self._in_use:
            self._con.close()


class Past:
    """The states of a store that a fault may show; none until `keep` asks for them."""

    def __init__(self, store: Store) -> None:
        self._store, self._keep_s = store, 0.0
        self._states: list[_State] = []
        self._shown: dict[_State, int] = {}
        self._lock = threading.Lock()

    def keep(self, seconds: float) -> None:
        """Be able to look back this far, though not before this call; 0 forgets everything."""
        self._keep_s = seconds
        with self._lock:
            self._forget(len(self._states))
        self._store.db.after_write = self._note if seconds else None
        if seconds:
            self._note()

    @contextmanager
    def at(self, seconds_ago: float) -> Iterator[Store]:
        """The store as it was then, or as it was when `keep` was called."""
        then = time.monotonic() - seconds_ago
        with self._lock:
            if not self._states:  # the fault has been taken back meanwhile
                state = None
            else:
                state = next((s for s in reversed(self._states) if s.since <= then), self._states[0])
                self._shown[state] = self._shown.get(state, 0) + 1
        if state is None:
            yield self._store
            return
        store = copy.copy(self._store)
        store.db = state
        try:
            yield store
        finally:
            with self._lock:
                self._shown[state] -= 1
                if not self._shown[state]:
                    del self._shown[state]
                    if state not in self._states:
                        state.close()

    def _note(self) -> None:
        with self._lock:
            self._states.append(_State(self._store.db))
            then = time.monotonic() - self._keep_s
            past = sum(state.since <= then for state in self._states) - 1  # before the state of that time
            self._forget(max(past, len(self._states) - MAX_STATES, 0))

    def _forget(self, count: int) -> None:
        """Drop the oldest states; one that a request reads is closed when that is done."""
        gone, self._states = self._states[:count], self._states[count:]
        for state in gone:
            if state not in self._shown:
                state.close()
