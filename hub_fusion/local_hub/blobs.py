"""File contents on disk, named by their sha256 and by nothing else.

A blob is written under a temporary name while it is hashed, flushed to the disk, then renamed: a name that exists
always holds the whole right content. No name from a request ever becomes part of a path. Blobs are deleted only by
`collect`, and only while nobody holds the guard: who keeps a blob holds it until an index row refers to the blob.

A file in the making is locked by its writer, so that what a killed process left is told from what grows.
"""

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SHA256 = re.compile(r"[0-9a-f]{64}")


class WrongContent(Exception):
    """The bytes that arrived are not those that were announced."""


class BlobStore:
    """``folder/ab/cdef…``: one file per content."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch
        for path in (folder, scratch):
            path.mkdir(parents=True, exist_ok=True)
        remove_left_overs(scratch)

    @contextmanager
    def guard(self, *, alone: bool = False) -> Iterator[None]:
        """While this is held no blob disappears; `alone` waits until nobody else holds it, in any process."""
        with (self.folder / ".guard").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    def path(self, sha256: str) -> Path:
        """Where the content with this hash is or would be."""
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"not a sha256: {sha256!r}")
        return self.folder / sha256[:2] / sha256[2:]

    def size(self, sha256: str) -> int | None:
        """Bytes of this content, None if it is not here."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str, limit: int | None = None) -> bytes:
        """The content, or its first `limit` bytes."""
        with self.path(sha256).open("rb") as file:
            return file.read(-1 if limit is None else limit)

    def put(self, content: bytes) -> str:
        """Keep these bytes; returns their sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        if self.size(sha256) is None:
            self.put_stream([content])
        return sha256

    def put_stream(self, pieces: Iterable[bytes], *, expect: str | None = None) -> tuple[str, int]:
        """Keep the joined pieces; returns (sha256, size). WrongContent, and nothing kept, if `expect` differs."""
        with self.writer() as writer:
            for piece in pieces:
                writer.write(piece)
            return writer.keep(expect=expect)

    def writer(self) -> "BlobWriter":
        """For content that arrives bit by bit."""
        return BlobWriter(self.scratch, self.path)

    def names(self) -> Iterator[str]:
        """The sha256 of every blob, in no order."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            yield from (folder.name + path.name for path in folder.iterdir())


class BlobWriter:
    """A blob in the making; leaving the `with` block without `keep` drops it."""

    def __init__(self, scratch: Path, place: Callable[[str], Path]) -> None:
        self._file, self._temporary = new_file(scratch)
        self._place = place
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Append."""
        self._hash.update(piece)
        self._file.write(piece)
        self.size += len(piece)

    def keep(self, *, expect: str | None = None) -> tuple[str, int]:
        """Flush to the disk and publish under the hash; returns (sha256, size)."""
        sha256 = self._hash.hexdigest()
        if expect is not None and sha256 != expect:
            raise WrongContent(f"content has sha256 {sha256}, {expect} was announced")
        keep_file(self._file, self._temporary, self._place(sha256))
        return sha256, self.size

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def new_file(scratch: Path) -> tuple[BinaryIO, Path]:
    """An empty file nobody else writes to or takes for a left-over."""
    while True:
        handle, name = tempfile.mkstemp(dir=scratch)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else a sweep came between the two calls
            return os.fdopen(handle, "wb"), Path(name)
        os.close(handle)


def remove_left_overs(scratch: Path) -> tuple[int, int]:
    """Remove files whose writer was killed; returns (files, bytes)."""
    count = size = 0
    for path in scratch.iterdir():
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                count, size = count + 1, size + os.fstat(file.fileno()).st_size
                path.unlink()
        except (BlockingIOError, FileNotFoundError):
            continue
    return count, size


def keep_file(file: BinaryIO, temporary: Path, target: Path) -> None:
    """Make a finished temporary file durable under its final name."""
    file.flush()
    os.fsync(file.fileno())
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        _fsync_folder(target.parent.parent)
    temporary.replace(target)  # before the file is closed, which gives up its lock
    _fsync_folder(target.parent)
    file.close()


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
