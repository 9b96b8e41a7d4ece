"""Weights straight from the Hub into a fuse: byte ranges, read ahead in the order in which they are needed.

A `HubFolder` stands where a folder of a checkpoint stands. Its tensors are read through a `RangeStore`: what a fuse
is going to need is told to it beforehand (`expect`), neighbouring ranges become one request, a few requests are under
way at a time, and nothing is written to disk. A file that is read whole, as adapters and most finetunes are, is hashed
on the way and compared with the sha256 that the Hub gives for it. Of others (a large head is left out, several
processes share the tensors, or a fuse goes on that was stopped) the bytes are as the connection brought them, and
`read_ahead` says so. Not covered: sources that are read more than once (thresholds, inner products); those are
downloaded first, and compared.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import ITEM_BYTES, Checkpoint

if TYPE_CHECKING:
    from hub_fusion.weights.places import HubFolder
    from hub_fusion.weights.tensors import TensorWork

CHUNK = 8 * 2**20  # bytes of one request, at most
GAP = 2**18  # bytes that are read and thrown away rather than asked for anew
REQUESTS = 4  # under way at a time
AHEAD = 192 * 2**20  # bytes of all sources together that wait to be used
SMALL = 32 * 2**20  # bytes of a file that is read whole, in its own order, if half of it is needed
Range = tuple[str, int, int]  # file, first byte, byte after the last


class _Chunk:
    """A part of a file that one request fetches."""

    def __init__(self, file: str, start: int, stop: int) -> None:
        self.file, self.start, self.stop, self.wanted = file, start, stop, 0
        self.data: bytearray | None = None
        self.asked = False
        self.there = threading.Event()
        self.fault: Exception | None = None


class RangeStore:
    """The files of a commit by byte ranges; a Store."""

    def __init__(self, folder: HubFolder) -> None:
        self.folder = folder
        self.identity = [folder.endpoint, folder.repo, folder.sha]
        self._chunks: dict[str, list[_Chunk]] = {}
        self._waiting: deque[_Chunk] = deque()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._hashes: dict[str, Any] = {}

    def expect(self, ranges: Iterable[Range], ahead_bytes: int, pool: ThreadPoolExecutor) -> None:
        """What will be read, each range once, in about this order; at most `ahead_bytes` of it are kept in memory."""
        most = max(min(CHUNK, ahead_bytes // 3), 2**16)
        chunks = _chunks(list(ranges), {n: f.size for n, f in self.folder.files.items()}, most)
        for chunk in chunks:
            self._chunks.setdefault(chunk.file, []).append(chunk)
        for file, own in self._chunks.items():
            size, sha256 = self.folder.files[file].size, self.folder.files[file].sha256
            joined = [c.start for c in own[1:]] == [c.stop for c in own[:-1]]
            if joined and (own[0].start, own[-1].stop) == (0, size) and sha256:
                self._hashes[file] = (hashlib.sha256(), deque(own), sha256)
        self._waiting, self._pool = deque(chunks), pool
        with self._lock:
            for _ in range(max(ahead_bytes // most, 2)):
                self._next()

    def read_into(self, file: str, offset: int, out: memoryview) -> None:
        """See Store. Raises WeightsError, or HubError where the Hub does not answer."""
        at, end = offset, offset + out.nbytes
        while at < end:
            with self._lock:
                chunk = next((c for c in self._chunks.get(file, ()) if c.start <= at < c.stop), None)
            if chunk is None:
                got = self.folder.hub.read_into(self.folder.repo, file, self.folder.sha, at, out[at - offset :])
                if got < end - at:
                    raise WeightsError(f"{self.folder}/{file} ends at byte {at + got}: truncated")
                return
            self._wait_for(chunk)
            stop = min(end, chunk.stop)
            assert chunk.data is not None
            out[at - offset : stop - offset] = memoryview(chunk.data)[at - chunk.start : stop - chunk.start]
            self._used(chunk, stop - at)
            at = stop

    @property
    def unchecked(self) -> list[str]:
        """The files that will be read in part, so that their sha256 is not compared."""
        return [f"{self.folder}/{file}" for file in self._chunks if file not in self._hashes]

    def finish(self) -> None:
        """Everything has been read. Raises WeightsError if a file is not the one that the Hub names by its sha256."""
        for file, (digest, left, sha256) in self._hashes.items():
            while left:  # nobody needed it
                self._wait_for(left[0])
            if digest.hexdigest() != sha256:
                raise WeightsError(
                    f"{self.folder}/{file} does not have the sha256 that the Hub gives for it: try again"
                )

    def _next(self) -> None:
        """Ask for another chunk; call it with the lock held."""
        if self._waiting and self._pool:
            chunk = self._waiting.popleft()
            chunk.asked = True
            self._pool.submit(self._fetch, chunk)

    def _fetch(self, chunk: _Chunk) -> None:
        try:
            data = bytearray(chunk.stop - chunk.start)
            got = self.folder.hub.read_into(
                self.folder.repo, chunk.file, self.folder.sha, chunk.start, memoryview(data)
            )
            if got < len(data):
                raise WeightsError(f"{self.folder}/{chunk.file} ends at byte {chunk.start + got}: truncated")
            chunk.data = data
            self._hash(chunk)
        except Exception as error:  # told to whoever needs the chunk
            chunk.fault = error
        chunk.there.set()
        if not chunk.wanted:
            self._used(chunk, 0)

    def _hash(self, chunk: _Chunk) -> None:
        """Hash what has arrived, in the order of the file."""
        with self._lock:
            if chunk.file in self._hashes:
                digest, left, _ = self._hashes[chunk.file]
                while left and left[0].data is not None:
                    digest.update(left.popleft().data)

    def _wait_for(self, chunk: _Chunk) -> None:
        with self._lock:
            late, chunk.asked = not chunk.asked, True
            if late:
                self._waiting.remove(chunk)
        if late:  # it is needed earlier than was expected
            self._fetch(chunk)
        chunk.there.wait()
        if chunk.fault:
            raise chunk.fault

    def _used(self, chunk: _Chunk, count: int) -> None:
        """Let a chunk go whose expected bytes have all been read, and ask for another one."""
        with self._lock:
            chunk.wanted -= count
            if chunk.wanted <= 0 and chunk in self._chunks[chunk.file]:
                self._chunks[chunk.file].remove(chunk)
                self._next()


def _chunks(ranges: Sequence[Range], sizes: dict[str, int], most: int) -> list[_Chunk]:
    """Requests for these ranges, in their order.

    Files that are read in order and almost whole are read whole, and so are small ones of which half is needed.
    """
    by_file: dict[str, list[Range]] = {}
    for r in ranges:
        by_file.setdefault(r[0], []).append(r)
    asked = {file: sum(stop - start for _, start, stop in own) for file, own in by_file.items()}
    small = {f for f in by_file if sizes[f] <= SMALL and asked[f] >= sizes[f] // 2}
    whole = {f for f, own in by_file.items() if own == sorted(own) and asked[f] >= sizes[f] * 15 // 16} - small
    made: list[_Chunk] = []
    last: dict[str, _Chunk] = {}
    parts: dict[str, list[_Chunk]] = {}
    for file, start, stop in ranges:
        if file in small:
            if file not in parts:
                begins = range(0, sizes[file], most)
                parts[file] = [_Chunk(file, begin, min(begin + most, sizes[file])) for begin in begins]
                made += parts[file]
            for part in parts[file][start // most : -(-stop // most)]:
                part.wanted += min(stop, part.stop) - max(start, part.start)
            continue
        while start < stop:
            chunk = last.get(file)
            if file in whole:
                while chunk is None or chunk.stop <= start:
                    begin = chunk.stop if chunk else 0
                    chunk = last[file] = _Chunk(file, begin, min(begin + most, sizes[file]))
                    made.append(chunk)
            elif chunk is None or not 0 <= start - chunk.stop <= GAP or start >= chunk.start + most:
                chunk = last[file] = _Chunk(file, start, start)
                made.append(chunk)
            end = min(stop, chunk.stop if file in whole else chunk.start + most)
            chunk.wanted += end - start
            chunk.stop = max(chunk.stop, end)
            start = end
    for file in whole:
        while (stop := last[file].stop) < sizes[file]:
            last[file] = _Chunk(file, stop, min(stop + most, sizes[file]))
            made.append(last[file])
    return made


@contextmanager
def read_ahead(
    works: Sequence[TensorWork], base: Checkpoint, residual: Checkpoint | None = None
) -> Iterator[list[str]]:  # fmt: skip
    """Tell all stores of the Hub what the blocks of a fuse will read, in their order; in the end compare the hashes.

    Gives the files that cannot be compared.
    """
    expected: dict[RangeStore, list[Range]] = {}
    factors: set[tuple[int, str]] = set()

    def will_read(checkpoint: Checkpoint, name: str, first: int = 0, last: int | None = None) -> None:
        if isinstance(checkpoint.store, RangeStore):
            spec = checkpoint[name]
            item = ITEM_BYTES[spec.dtype]
            stop = spec.start + (spec.size_bytes if last is None else last * item)
            if stop > spec.start + first * item:
                expected.setdefault(checkpoint.store, []).append((spec.file, spec.start + first * item, stop))

    for work in works:
        for number in work.todo:
            first, last = work.range(*work.blocks[number])
            for part in work.reads(number):
                will_read(*part)
            if work.added:
                continue
            origins = {id(base): base}
            for d in work.taking:
                target, saved = d.targets.get(work.name), d.names.get(work.name)
                if number == work.todo[0]:
                    for name in target.reads if target else ():
                        if name != saved and (id(d), name) not in factors:
                            factors.add((id(d), name))  # experts share theirs
                            will_read(d.files, name)
                if saved:
                    will_read(d.files, saved, first, last)
                    origins[id(d.origin)] = d.origin
            for checkpoint in origins.values():
                will_read(checkpoint, work.name, first, last)
            if residual is not None and work.name in residual:
                will_read(residual, work.name, first, last)
    if not expected:
        yield []
        return
    with ThreadPoolExecutor(REQUESTS) as pool:
        for store, ranges in expected.items():
            store.expect(ranges, AHEAD // len(expected), pool)
        try:
            yield sorted(file for store in expected for file in store.unchecked)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for store in expected:
        store.finish()
