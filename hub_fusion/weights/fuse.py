"""Fusing whole checkpoints: a plan from headers, then tensors streamed through a merge method into place.

For every tensor of the base: read the base's rows and every contribution's change of them, merge, add, write at its
offset. Body tensors take all contributions; shared heads (language-model heads, poolers) those that have them, with
the weights scaled up to 1; task heads are left out, or kept as the base has them. Tied weights are stored once and so
fused once. Memory holds one block of rows of all contributions, whatever the size of model or tensor. Many processes
share the tensors by bytes and write into the same files: the bytes do not depend on how many they are.
Not covered: going on with a killed fuse (it starts over).
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hub_fusion.errors import WeightsError
from hub_fusion.merge import BoundMethod, find_method
from hub_fusion.weights import writer
from hub_fusion.weights.checkpoint import FLOATS, TORCH_NAMES, Checkpoint, TensorSpec
from hub_fusion.weights.deltas import Deltas, Source, rows_of
from hub_fusion.weights.names import kind_of
from hub_fusion.weights.slices import BLOCK_ELEMENTS, Slices

if TYPE_CHECKING:
    import torch

    from hub_fusion.weights.compute import Compute


STALE = (".bin", ".h5", ".msgpack", ".pt", ".pth", ".ckpt", ".onnx", ".gguf", ".safetensors", ".safetensors.index.json",
         ".bin.index.json")  # fmt: skip
Progress = Callable[[int, int], None]  # bytes written so far by this process, and of its share


@dataclass(frozen=True)
class FusePlan:
    """Everything that decides the bytes of a fused checkpoint."""

    base: Path
    out: Path
    sources: tuple[Source, ...]
    method: str = "mean"
    options: Mapping[str, Any] = field(default_factory=dict)
    step: float = 1.0  # part of the way from the base to the merged model
    heads: Literal["drop", "keep"] = "drop"
    dtype: str | None = None  # safetensors name of the output's float dtype; None: the base's
    seed: int = 0  # of methods with randomness


@dataclass(frozen=True)
class FuseReport:
    """What came of it."""

    files: dict[str, str]  # weight file → sha256
    tensors: int
    bytes_written: int
    processes: int
    device: str
    seconds: float
    dropped: tuple[str, ...]  # task heads left out

    @property
    def weights_sha256(self) -> str:
        """One hash for the whole checkpoint."""
        return weights_sha256(self.files)


def weights_sha256(files: Mapping[str, str]) -> str:
    """sha256 over the sorted ``file sha256`` lines of a checkpoint."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def folder_sha256(folder: Path) -> str:
    """`FuseReport.weights_sha256` of a checkpoint that is on disk already."""
    hashes = {}
    for file in Checkpoint.open(folder).files:
        with (folder / file).open("rb") as handle:
            hashes[file] = hashlib.file_digest(handle, "sha256").hexdigest()
    return weights_sha256(hashes)


def fuse(plan: FusePlan, compute: Compute, progress: Progress | None = None) -> FuseReport:
    """Carry out a plan in all processes (see Compute.together); the output folder loads with from_pretrained.

    Raises WeightsError, listing all offenders, before a single weight is read (or, if the result is not finite, after);
    MergeError for a bad method or option.
    """
    began = time.monotonic()
    formula, base, opened, dropped = _open(plan)
    layout = writer.plan_layout(base, dropped, plan.dtype)
    specs = [spec for file in layout.values() for spec in file]
    if compute.is_main:
        remove_checkpoint(plan.out)
        writer.prepare(plan.out, base, layout)
    compute.barrier()
    share = _shares(specs, compute.processes)[compute.rank]
    total, done, not_finite = sum(spec.size_bytes for spec in share), 0, list[str]()
    for spec in share:
        taking = [d for d in opened if d.source.weight and d.takes_part(spec.name)]
        tensor = Slices(plan, spec, taking, formula, compute.device)
        for start, stop in tensor.blocks:
            rows = _fused_rows(plan, base, spec, tensor, formula, start, stop, compute.device)
            if taking and not rows.isfinite().all():
                not_finite.append(spec.name)
                break
            data = _bytes(rows)
            row_bytes = spec.size_bytes // (spec.shape[0] if spec.shape else 1)
            writer.write(plan.out, spec, data, start * row_bytes)
            done += len(data)
            if progress:
                progress(done, total)
    _check_finite(sorted(name for names in compute.gather(not_finite) for name in names))
    files: dict[str, str] = {}
    if compute.is_main:
        files = writer.finish(plan.out, layout)
        copy_side_files(plan.base, plan.out)
    compute.barrier()
    size = sum(spec.size_bytes for spec in specs)
    return FuseReport(files, len(specs), size, compute.processes, compute.device, time.monotonic() - began, dropped)


def _check_finite(names: list[str]) -> None:
    """Raise WeightsError, in every process alike, if tensors of the result hold NaN or infinity."""
    if names:
        raise WeightsError(
            f"{len(names)} fused tensors are not finite ({', '.join(names[:3])}): an input holds NaN or infinity, "
            "or values too large for the output's dtype (bf16 and fp32 reach further than fp16)"
        )


def describe(plan: FusePlan) -> dict[str, Any]:
    """What a plan would read, write and need, from headers alone. Raises as `fuse` does before it reads weights."""
    formula, base, opened, dropped = _open(plan)
    sources = [d.source for d in opened]
    specs = [spec for file in writer.plan_layout(base, dropped, plan.dtype).values() for spec in file]
    block = max((max(prod(s.shape[1:]), prod(s.shape) if formula.method.whole else 0) for s in specs), default=0)
    read = [sum(d.files[n].size_bytes for n in d.used) for d in opened]
    return {
        "method": plan.method,
        "step": plan.step,
        "tensors": len(specs),
        "bytes": sum(s.size_bytes for s in specs),
        "dropped": list(dropped),
        "memory_bytes": 4 * max(BLOCK_ELEMENTS, block) * (len(sources) + 3),
        "sources": [{"key": s.key, "relation": s.relation, "weight": s.weight, "scale": s.scale, "bytes": size}
                    for s, size in zip(sources, read, strict=True)],
    }  # fmt: skip


def _open(plan: FusePlan) -> tuple[BoundMethod, Checkpoint, list[Deltas], tuple[str, ...]]:
    """The bound method, the base, the sources in canonical order, the heads to drop; from headers, after all checks."""
    formula = find_method(plan.method).bind(plan.options)
    base = Checkpoint.open(plan.base)
    sources = sorted(plan.sources, key=lambda s: s.key)
    _check(plan, sources)
    opened = [Deltas(source, base, plan.base) for source in sources]
    return formula, base, opened, tuple(sorted(n for n in base if plan.heads == "drop" and kind_of(n) == "task"))


def _fused_rows(
    plan: FusePlan, base: Checkpoint, spec: TensorSpec, tensor: Slices, formula: BoundMethod, start: int, stop: int,
    device: str,
) -> torch.Tensor:  # fmt: skip
    """Rows [start, stop) of the output tensor, in its output dtype, on the CPU."""
    import torch

    dtype = getattr(torch, TORCH_NAMES[spec.dtype])
    if base[spec.name].dtype not in FLOATS or not tensor.taking or kind_of(spec.name) == "task":
        stored = base.read(spec.name)
        return (stored.reshape(1) if stored.dim() == 0 else stored[start:stop]).to(dtype)
    deltas = tensor.deltas(start, stop)
    merged = formula(deltas, tensor.weights, **tensor.inputs(deltas, start))
    merged = merged.masked_fill(merged == 0, -0.0)  # x + (−0) is x for every x, but −0 + 0 is 0: no change stays none
    return rows_of(base, spec.name, start, stop, device).add_(merged, alpha=plan.step).to(device="cpu", dtype=dtype)


def _bytes(rows: torch.Tensor) -> memoryview:
    import torch

    return rows.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _shares(specs: list[TensorSpec], processes: int) -> list[list[TensorSpec]]:
    """Tensors split over processes: the largest first, each to whoever has the fewest bytes so far."""
    shares: list[list[TensorSpec]] = [[] for _ in range(processes)]
    load = [0] * processes
    for spec in sorted(specs, key=lambda s: (-s.size_bytes, s.name)):
        lightest = load.index(min(load))
        shares[lightest].append(spec)
        load[lightest] += spec.size_bytes + 4096  # a tensor costs something however small it is
    return shares


def _check(plan: FusePlan, sources: list[Source]) -> None:
    keys = [s.key for s in sources]
    if not keys:
        raise WeightsError("nothing to fuse: give at least one contribution")
    if len(set(keys)) != len(keys):
        raise WeightsError(f"a contribution is named twice: {', '.join(sorted(k for k in keys if keys.count(k) > 1))}")
    weights = [s.weight for s in sources]
    if any(w < 0 for w in weights) or not 0 < sum(weights) < math.inf:
        raise WeightsError(f"weights and their sum must be finite, not negative and not all zero: {weights}")
    if any(not 0 <= s.scale < math.inf for s in sources) or not 0 < plan.step <= 1:
        scales = [s.scale for s in sources]
        raise WeightsError(f"scales are finite and not negative, the step is in (0, 1]: {scales}, {plan.step}")
    if plan.dtype is not None and plan.dtype not in FLOATS:
        raise WeightsError(f"there is no output dtype {plan.dtype!r}; there are {', '.join(sorted(FLOATS))}")
    if plan.out.resolve() in {p.resolve() for s in sources for p in (s.folder, s.origin)} | {plan.base.resolve()}:
        raise WeightsError(f"{plan.out} is an input: choose another output folder")
    if plan.out.exists() and not plan.out.is_dir():
        raise WeightsError(f"{plan.out} is not a folder: choose another output folder")


def remove_checkpoint(folder: Path) -> None:
    """Take an earlier checkpoint, whole or half written, out of a folder; weights under other names stay."""
    for path in folder.glob("model*.safetensors*") if folder.is_dir() else ():
        if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?(\.partial)?", path.name):
            path.unlink()


def copy_side_files(base: Path, out: Path) -> None:
    """Configuration, tokenizer and processor files of the base; no weights of any format, no card, no code."""
    for path in sorted(base.iterdir()):
        skip = path.name.startswith(".") or path.name == "README.md" or path.name.endswith((*STALE, ".py", ".partial"))
        if path.is_file() and not skip:
            shutil.copyfile(path, out / path.name)
