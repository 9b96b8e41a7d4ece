"""What of a fuse is on the disk already, so that a killed one goes on where it stopped and ends with the same bytes.

Beside the ``FILE.partial`` files lie ``fusing.json``, which says of which plan they are a part, and one
``fusing-RANK.log`` for each process, which lists finished blocks as lines ``TENSOR BLOCK``. A block is listed after
its bytes have been synced, so the list is right also after the machine went down. ``fusing.lock`` is locked by the fuse
that writes there; the lock ends with its process, however that ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hub_fusion.errors import OutputError

sync = getattr(os, "fdatasync", os.fsync)  # the former is not there on macOS
PLAN, LOCK = "fusing.json", "fusing.lock"
EVERY_S = 0.2  # how much work a kill may cost, and at the end be left to sync


def plan_id(facts: Any) -> str:
    """sha256 of everything that decides the bytes, including what identifies the inputs."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def finished(out: Path, id: str) -> dict[int, set[int]]:
    """Tensor number → its finished blocks, as the journals of all processes of this very plan list them."""
    try:
        if json.loads((out / PLAN).read_text())["plan"] != id:
            return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    blocks: dict[int, set[int]] = {}
    for log in out.glob("fusing-*.log"):
        for line in log.read_text(errors="replace").splitlines(keepends=True):
            if found := re.fullmatch(r"(\d+) (\d+)\n", line):  # the last line may be cut off
                blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    return blocks


def begin(out: Path, id: str) -> None:
    """Say which plan the partial files belong to."""
    remove(out)
    _write_synced(out / PLAN, json.dumps({"plan": id}) + "\n", os.O_TRUNC)


def remove(out: Path) -> None:
    """Forget everything."""
    for path in (out / PLAN, *out.glob("fusing-*.log")):
        path.unlink(missing_ok=True)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Makes the folder and keeps other fuses out of it. Raises OutputError if one is at work there."""
    from filelock import FileLock, Timeout

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"another fuse is writing to {out}: wait for it, or choose another output folder") from None
    except OSError as error:
        raise OutputError(f"the result cannot be written to {out} ({error}): choose another output folder") from error
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)  # before others can have it
        lock.release()


class Journal:
    """Lists this process's finished blocks, a few times a second, by a thread of its own. A context manager.

    After a fault of the disk nothing more is listed: what could not be synced may be lost, and later syncs would not
    say so. `done` and the end of the context raise that OSError.
    """

    def __init__(self, out: Path, rank: int, sync: Callable[[], None]) -> None:
        self.path, self.sync = out / f"fusing-{rank}.log", sync
        self._done: list[tuple[int, int]] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._fault: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Journal:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.flush()
        if self._fault and kind is None:
            raise self._fault

    def done(self, tensor: int, block: int) -> None:
        """The bytes of a block have been written."""
        if self._fault:
            raise self._fault
        with self._lock:
            self._done.append((tensor, block))

    def flush(self) -> None:
        """Sync what has been written, then list it."""
        with self._lock:
            done, self._done = self._done, []
        if not done or self._fault:
            return
        try:
            self.sync()
            _write_synced(self.path, "\n" + "".join(f"{tensor} {block}\n" for tensor, block in done), os.O_APPEND)
        except OSError as error:
            self._fault = error

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(0.05):
            if time.monotonic() - last >= EVERY_S:
                self.flush()
                last = time.monotonic()


def _write_synced(path: Path, text: str, flag: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o666)
    try:
        data = text.encode()
        while data:
            data = data[os.write(descriptor, data) :]
        sync(descriptor)
    finally:
        os.close(descriptor)
