"""Writing a checkpoint in the base's layout: the same shards in the same order, every tensor at a known offset.

Main process: `prepare` makes ``FILE.partial`` with header and full size; any process: `write` fills its tensors in;
main process again: `finish` hashes, syncs and renames. The bytes do not depend on who wrote what, or when.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from math import prod
from pathlib import Path

from hub_fusion.weights.checkpoint import INDEX, ITEM_BYTES, SINGLE, Checkpoint, TensorSpec


def plan_layout(base: Checkpoint, drop: Collection[str], dtype: str | None = None) -> dict[str, list[TensorSpec]]:
    """Output file → its tensors with future offsets: the base's layout without `drop`, floats in `dtype` if given.

    Files that would be empty are left out.
    """
    layout: dict[str, list[TensorSpec]] = {}
    for file in base.files:
        kept = sorted((s for s in base.values() if s.file == file and s.name not in drop), key=lambda s: s.start)
        if not kept:
            continue
        specs, offset = [], 0
        for spec in kept:
            out = dtype if dtype and spec.dtype in ("F16", "BF16", "F32", "F64") else spec.dtype
            size = prod(spec.shape) * ITEM_BYTES[out]
            specs.append(TensorSpec(spec.name, out, spec.shape, file, offset, size))
            offset += size
        start = len(_header(specs, base.metadata[file]))
        layout[file] = [TensorSpec(**{**vars(s), "start": s.start + start}) for s in specs]
    return layout


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
        start = specs[0].start
        end = max((s.start + s.size_bytes for s in specs), default=start)
        with (out / f"{file}.partial").open("wb") as handle:
            handle.write(_header(specs, base.metadata[file], start))
            handle.truncate(end)


def write(out: Path, spec: TensorSpec, data: memoryview, offset_bytes: int = 0) -> None:
    """Put bytes of one tensor (from `offset_bytes` within it) in their place."""
    with (out / f"{spec.file}.partial").open("r+b") as handle:
        handle.seek(spec.start + offset_bytes)
        handle.write(data)


def finish(out: Path, layout: dict[str, list[TensorSpec]]) -> dict[str, str]:
    """Sync and rename all files, write the index of a sharded checkpoint; gives file → sha256."""
    hashes = {}
    for file in layout:
        partial = out / f"{file}.partial"
        with partial.open("rb") as handle:
            hashes[file] = hashlib.file_digest(handle, "sha256").hexdigest()
            os.fsync(handle.fileno())
        partial.rename(out / file)
    if list(layout) != [SINGLE]:
        weight_map = {spec.name: file for file, specs in layout.items() for spec in specs}
        total = sum(spec.size_bytes for specs in layout.values() for spec in specs)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return hashes
