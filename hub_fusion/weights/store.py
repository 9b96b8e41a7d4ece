"""Where the bytes of a checkpoint come from: files of a folder, read by ranges into buffers of the caller.

A store is anything with ``read_into(file, offset, out)``; the one for the Hub is in stream.py. Reads from several
threads at once are fine, and nothing is mapped: memory that a fuse takes is the memory of its buffers.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Protocol

from hub_fusion.errors import OutputError, WeightsError
from hub_fusion.weights.descriptors import SHARED

_OWNERS = count()  # a number for each object that has files, never used again


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
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self._owner = next(_OWNERS)

    def __del__(self) -> None:
        SHARED.close(self._owner)

    def opened(self, file: str, meanwhile: ExitStack) -> int:
        """The descriptor of a file, open until the end of `meanwhile`. Raises WeightsError if it cannot be opened."""
        path = f"{self.folder}{os.sep}{file}"
        try:
            taken = SHARED.take(self._owner, path, os.O_RDONLY)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror}") from None
        meanwhile.callback(SHARED.give_back, taken)
        return taken.descriptor

    def read_into(self, file: str, offset: int, out: memoryview) -> None:
        """See Store. Raises WeightsError for a file that ends too early or cannot be read."""
        path = f"{self.folder}{os.sep}{file}"
        try:
            opened = SHARED.take(self._owner, path, os.O_RDONLY)
            try:
                while out.nbytes:
                    count = _read_at(opened.descriptor, out, offset)
                    if not count:
                        raise WeightsError(f"{path} ends at byte {offset}, where its header promises more: truncated")
                    offset, out = offset + count, out[count:]
            finally:
                SHARED.give_back(opened)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror}") from None


def own_file(folder: Path, name: str) -> Path:
    """The file `name` in a folder, if it is a plain file there and nothing on the way leads elsewhere.

    Raises OutputError for what is missing, a link, or outside.
    """
    path = folder / name
    if path.resolve() != folder.resolve() / name or not path.is_file():
        raise OutputError(f"{name[:200]!r} is no plain file in {folder}")
    return path
