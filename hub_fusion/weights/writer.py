"""Writing a checkpoint in the base's layout: the same shards in the same order, every tensor at a known offset.

Main process: `prepare` makes ``FILE.partial`` with header and full size; any process: an `Output` fills its tensors in;
main process again: `finish` syncs and renames. The bytes do not depend on who wrote what, or when.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from hub_fusion.weights import journal
from hub_fusion.weights.checkpoint import FLOATS, INDEX, ITEM_BYTES, SINGLE, Checkpoint, TensorSpec, file_sha256
from hub_fusion.weights.descriptors import SHARED, Open
from hub_fusion.weights.vocabulary import longer

HASH_BYTES = 2**20


def plan_layout(
    base: Checkpoint, drop: Collection[str], dtype: str | None = None, added: Mapping[str, int] | None = None
) -> dict[str, list[TensorSpec]]:  # fmt: skip
    """Output file → its tensors with future offsets: the base's layout without `drop`, floats in `dtype` if given.

    `added` says how many rows more some tensors get. Files that would be empty are left out.
    """
    layout: dict[str, list[TensorSpec]] = {}
    for file in base.files:
        kept = sorted((s for s in base.values() if s.file == file and s.name not in drop), key=lambda s: s.start)
        if not kept:
            continue
        converted = [replace(s, dtype=dtype) if dtype and s.dtype in FLOATS else s for s in kept]
        converted = [longer(s, added[s.name]) if added and s.name in added else s for s in converted]
        layout[file] = place(converted, base.metadata[file])
    return layout


def place(specs: list[TensorSpec], metadata: dict[str, str]) -> list[TensorSpec]:
    """The tensors of one file, in this order, with their sizes and offsets."""
    sized, offset = [], 0
    for spec in specs:
        size = prod(spec.shape) * ITEM_BYTES[spec.dtype]
        sized.append(TensorSpec(spec.name, spec.dtype, spec.shape, spec.file, offset, size))
        offset += size
    start = len(_header(sized, metadata))
    return [TensorSpec(s.name, s.dtype, s.shape, s.file, s.start + start, s.size_bytes) for s in sized]


def _header(specs: list[TensorSpec], metadata: dict[str, str], start: int = 0) -> bytes:
    """Length and JSON of a file, padded so that the data begins at a multiple of 8."""
    data: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    for spec in specs:
        offsets = [spec.start - start, spec.start - start + spec.size_bytes]
        data[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": offsets}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def prepare(out: Path, base: Checkpoint, layout: dict[str, list[TensorSpec]]) -> None:
    """Make all output files at their full size under ``FILE.partial``, headers written."""
    out.mkdir(parents=True, exist_ok=True)
    for file, specs in layout.items():
        allocate(out, file, specs, base.metadata[file])


def allocate(out: Path, file: str, specs: list[TensorSpec], metadata: dict[str, str]) -> None:
    """Make one file at its full size under ``FILE.partial``, its header written."""
    with (out / f"{file}.partial").open("wb") as handle:
        handle.truncate(max(s.start + s.size_bytes for s in specs))
    write_header(out, file, specs, metadata)


def write_header(out: Path, file: str, specs: list[TensorSpec], metadata: dict[str, str]) -> None:
    """Write the header of a partial file, or write it anew with metadata of the same length."""
    with (out / f"{file}.partial").open("r+b") as handle:
        handle.write(_header(specs, metadata, specs[0].start))


def reopen(out: Path, layout: dict[str, list[TensorSpec]], metadata: Mapping[str, dict[str, str]]) -> bool:
    """Make ready to go on with files that a killed run has left; False if they are not all there in their size.

    Their headers are written anew: a machine that went down may have lost those of files without a finished block.
    """
    for file, specs in layout.items():
        partial, done = out / f"{file}.partial", out / file
        if not partial.exists() and done.exists():
            done.rename(partial)  # killed while it gave the files their names
        end = max(s.start + s.size_bytes for s in specs)
        if not partial.exists() or partial.stat().st_size != end:
            return False
        write_header(out, file, specs, metadata[file])
    return True


class Output:
    """The partial files of a fuse, open for writing; several threads and processes may write at once."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._unsynced: set[str] = set()
        self._lock = threading.Lock()

    def write(self, spec: TensorSpec, data: Any, offset_bytes: int = 0) -> None:
        """Put bytes of one tensor (from `offset_bytes` within it) in their place."""
        left, offset = memoryview(data).cast("B"), spec.start + offset_bytes
        opened = self._open(spec.file)
        try:
            while left.nbytes:
                written = os.pwrite(opened.descriptor, left, offset)
                left, offset = left[written:], offset + written
        finally:
            SHARED.give_back(opened)
        with self._lock:
            self._unsynced.add(spec.file)

    def sync(self) -> None:
        """Wait until what has been written is on the disk."""
        with self._lock:
            unsynced, self._unsynced = self._unsynced, set()
        for file in sorted(unsynced):
            opened = self._open(file)
            try:
                journal.sync(opened.descriptor)
            finally:
                SHARED.give_back(opened)

    def close(self) -> None:
        """Give the descriptors back; call it when nobody writes."""
        SHARED.close(self)

    def _open(self, file: str) -> Open:
        return SHARED.take(self, f"{self.out}/{file}.partial", os.O_RDWR)


class RunningHashes:
    """sha256 of the partial files while they are being written, by a thread that follows the finished bytes."""

    def __init__(self, out: Path, layout: dict[str, list[TensorSpec]]) -> None:
        self.out = out
        self._ends = {file: max(s.start + s.size_bytes for s in specs) for file, specs in layout.items()}
        self._starts = {file: min(s.start for s in specs) for file, specs in layout.items()}
        self._ready: dict[str, list[tuple[int, int]]] = {file: [] for file in layout}
        self._changed, self._stopped = threading.Condition(), False
        self.digests: dict[str, str] = {}
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def done(self, spec: TensorSpec, start: int, stop: int) -> None:
        """Bytes [start, stop) of a tensor are in their place."""
        with self._changed:
            heapq.heappush(self._ready[spec.file], (spec.start + start, spec.start + stop))
            self._changed.notify()

    def finish(self) -> dict[str, str]:
        """Wait for the last byte; gives file → sha256."""
        self._thread.join()
        if self._failure:
            raise self._failure
        return self.digests

    def stop(self) -> None:
        """Give up; nobody will ask."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            buffer = bytearray(HASH_BYTES)
            for file, end in self._ends.items():
                digest = hashlib.sha256()
                with (self.out / f"{file}.partial").open("rb", buffering=0) as handle:
                    at, known = 0, self._starts[file]
                    while at < end:
                        known = self._known(file, known, at)
                        if self._stopped:
                            return
                        while at < known:
                            count = handle.readinto(memoryview(buffer)[: known - at])
                            digest.update(memoryview(buffer)[:count])
                            at += count
                self.digests[file] = digest.hexdigest()
        except OSError as error:
            self._failure = error

    def _known(self, file: str, known: int, at: int) -> int:
        """How far the file is complete; waits until that is beyond `at`."""
        ready = self._ready[file]
        with self._changed:
            while not self._stopped:
                while ready and ready[0][0] <= known:
                    known = max(known, heapq.heappop(ready)[1])
                if known > at:
                    return known
                self._changed.wait()
        return known


def hash_files(out: Path, layout: dict[str, list[TensorSpec]], threads: int) -> dict[str, str]:
    """sha256 of the partial files, several at once."""
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(layout, pool.map(file_sha256, [out / f"{file}.partial" for file in layout]), strict=True))


def finish(out: Path, layout: dict[str, list[TensorSpec]]) -> None:
    """Sync and rename all files, write the index of a sharded checkpoint."""
    rename(out, layout)
    if list(layout) != [SINGLE]:
        weight_map = {spec.name: file for file, specs in layout.items() for spec in specs}
        total = sum(spec.size_bytes for specs in layout.values() for spec in specs)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    _sync_names(out)


def rename(out: Path, layout: Collection[str]) -> None:
    """Sync partial files and give them their names."""
    for file in layout:
        partial = out / f"{file}.partial"
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.rename(out / file)
    for folder in {(out / file).parent for file in layout}:
        _sync_names(folder)


def _sync_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
