"""What rounding to 16 bits lost, kept beside the weights, so that the next fuse starts from the unrounded state.

A loop adds a small change in every round. In bfloat16 a change below 1/512 of a weight rounds away, each time
anew; with the residual it adds up until it shows. The residual of a tensor is (sum before rounding − stored weight) in
bfloat16, so weight + residual has 16 significant bits for bfloat16 weights (error at most 2⁻¹⁷ of the weight) and 19
for float16.

It lies in ``fusion/residual-NNNNN-of-NNNNN.st``: safetensors format and the weights' names, under a suffix that
patterns for weights do not fetch. Its metadata name the sha256 of the weights it belongs to; beside others it is
ignored.
Finetuners see the rounded weights alone, so contributions are compared with those.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hub_fusion.errors import HeaderError, WeightsError
from hub_fusion.weights import kernels, writer
from hub_fusion.weights.checkpoint import Checkpoint, TensorSpec, file_sha256
from hub_fusion.weights.codec import is_finite, narrow, widen
from hub_fusion.weights.kinds import is_parameter, kind_of
from hub_fusion.weights.names import some
from hub_fusion.weights.remote import RESIDUAL

if TYPE_CHECKING:
    from hub_fusion.weights.arithmetic import Arithmetic
    from hub_fusion.weights.places import Place
    from hub_fusion.weights.reading import Array, Origins
    from hub_fusion.weights.tensors import TensorWork

FOLDER, DTYPE, BINDING = "fusion", "BF16", "weights_sha256"
UNBOUND = "0" * 64  # until the weights are written and their sha256 is known
Layout = dict[str, list[TensorSpec]]


def carries(spec: TensorSpec) -> bool:
    """Whether rounding loses anything of a tensor: 16-bit floats that are fused."""
    return spec.dtype in ("BF16", "F16") and kind_of(spec.name) != "task" and is_parameter(spec)


def plan_residual(layout: Layout) -> Layout:
    """The residual's files, one for each file of weights that has tensors of 16 bits, under ``fusion/``."""
    found: Layout = {}
    for number, specs in enumerate(layout.values(), start=1):
        file = f"{FOLDER}/residual-{number:05}-of-{len(layout):05}.st"
        if kept := [TensorSpec(s.name, DTYPE, s.shape, file, 0, 0) for s in specs if carries(s)]:
            found[file] = writer.place(kept, {BINDING: UNBOUND})
    return found


def prepare(out: Path, layout: Layout) -> None:
    """Make the residual's files at their full size, not bound yet."""
    for file, specs in layout.items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        writer.allocate(out, file, specs, {BINDING: UNBOUND})


def reopen(out: Path, layout: Layout) -> bool:
    """As writer.reopen; not bound yet."""
    return writer.reopen(out, layout, {file: {BINDING: UNBOUND} for file in layout})


def bind(out: Path, layout: Layout, weights_sha256: str) -> None:
    """Say which weights the residual belongs to, and give its files their names."""
    for file, specs in layout.items():
        writer.write_header(out, file, specs, {BINDING: weights_sha256})
    writer.rename(out, layout)


def residual_files(folder: Path) -> list[str]:
    """The residual's files in a base's folder."""
    names = (f"{FOLDER}/{path.name}" for path in sorted((folder / FOLDER).glob("residual-*.st*")))
    return [name for name in names if RESIDUAL.fullmatch(name.removesuffix(".partial"))]


def remove(folder: Path) -> None:
    """Take a residual, whole or half written, out of a folder."""
    for file in residual_files(folder):
        (folder / file).unlink()


def open_residual(base: Checkpoint, place: Place) -> Checkpoint | None:
    """The residual beside a base, if there is one. Raises HeaderError for one that does not fit the base."""
    if isinstance(place, Path):
        files = [file for file in residual_files(place) if not file.endswith(".partial")]
        found = Checkpoint(place, files) if files else None
    else:
        found = place.residual()
    if found is None:
        return None
    remedy = f"delete {FOLDER}/residual-*.st there, or fetch it again"
    expected = {name: spec.shape for name, spec in base.items() if carries(spec)}
    given = {name: spec.shape if spec.dtype == DTYPE else None for name, spec in found.items()}
    wrong = sorted(n for n in expected.keys() | given.keys() if given.get(n) is None or given[n] != expected.get(n))
    if wrong:
        raise HeaderError(f"the residual of {place} has a {DTYPE} tensor for each one of 16 bits of the base, in its "
                          f"shape; {len(wrong)} differ ({some(wrong)}): {remedy}")  # fmt: skip
    bindings = {found.metadata[file].get(BINDING, "") for file in found.files}
    if len(bindings) != 1 or not re.fullmatch("[0-9a-f]{64}", next(iter(bindings))):
        raise HeaderError(f"the residual of {place} names one sha256 of weights as {BINDING} in all of its "
                          f"files, not {sorted(b[:80] for b in bindings)}: {remedy}")  # fmt: skip
    return found


def hashes_of(base: Checkpoint, place: Place) -> dict[str, str]:
    """Weight file → sha256; what the Hub says of its files, the files themselves on this machine."""
    if isinstance(place, Path):
        return file_hashes(base)
    return {file: place.files[file].sha256 or "" for file in base.files}


def binding(residual: Checkpoint) -> str:
    """The sha256 of the weights that an opened residual belongs to."""
    return residual.metadata[residual.files[0]][BINDING]


def file_hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """File → sha256 of a checkpoint on this machine."""
    return {file: file_sha256(checkpoint.folder / file) for file in checkpoint.files}


def fuse_keeping(
    arithmetic: Arithmetic, work: TensorWork, base: Checkpoint, residual: Checkpoint | None, start: int, stop: int
) -> tuple[Array, Array]:
    """Rows [start, stop) of an output tensor as they are stored, and what rounding lost of them (bfloat16).

    They are those of base + residual + change. Raises WeightsError if any is not finite.
    """
    first, last = work.range(start, stop)
    origins: Origins = {}
    merged = None
    if work.taking:
        merged = arithmetic.change(work, start, stop, origins)
    there = origins.get(id(base))
    if there is None:
        there = arithmetic.wide(base, work.name, first, last, "base")
    total = np.array(there)
    if residual is not None and work.name in residual:
        lost = arithmetic.wide(residual, work.name, first, last, "residual")
        kernels.add(total, lost, np.float32(1), total)
    if merged is not None:
        kernels.add(total, merged, np.float32(arithmetic.step), total)
    stored = narrow(total, work.out.dtype)
    if not is_finite(stored, work.out.dtype):
        raise WeightsError(
            f"the fused tensor {work.name} is not finite: the base or its residual holds NaN or infinity there, or "
            f"values are too large for {work.out.dtype} (bf16 and fp32 reach further than fp16)"
        )
    return stored, narrow(total - widen(stored, work.out.dtype), DTYPE)
