"""Where the bytes of a checkpoint come from: files of a folder, read by ranges into buffers of the caller.

A store is anything with ``read_into(file, offset, out)``; the one for the Hub is in stream.py. Reads from several
threads at once are fine, and nothing is mapped: memory that a fuse takes is the memory of its buffers.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Protocol

from hub_fusion.errors import WeightsError

MOST_OPEN = 64  # of one folder; what is beyond is opened for each read


class Store(Protocol):
    """A place with files that can be read by ranges."""

    def read_into(self, file: str, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes of `file` from `offset` on. Raises WeightsError if they are not there."""


def _read_at(descriptor: int, out: memoryview, offset: int) -> int:
    """Fill what can be filled of `out` at once; gives how many bytes that were."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [out], offset)
    data = os.pread(descriptor, out.nbytes, offset)  # systems without preadv copy once more
    out[: len(data)] = data
    return len(data)


class LocalFiles:
    """The files of a folder. Descriptors stay open, as long as there are not too many, until this object is gone."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read_into(self, file: str, offset: int, out: memoryview) -> None:
        """See Store. Raises WeightsError for a file that ends too early or cannot be read."""
        path = f"{self.folder}{os.sep}{file}"
        try:
            descriptor, ours = self._descriptor(path)
            try:
                while out.nbytes:
                    count = _read_at(descriptor, out, offset)
                    if not count:
                        raise WeightsError(f"{path} ends at byte {offset}, where its header promises more: truncated")
                    offset, out = offset + count, out[count:]
            finally:
                if ours:
                    os.close(descriptor)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror}") from None

    def _descriptor(self, path: str) -> tuple[int, bool]:
        """A descriptor, and whether the caller must close it."""
        with self._lock:
            if path not in self._open:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                if len(self._open) >= MOST_OPEN:
                    return descriptor, True
                self._open[path] = descriptor
            return self._open[path], False
