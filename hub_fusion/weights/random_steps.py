"""A control: is it the direction of the updates, or would any movement of that length do?

Public adapters with random weights did as well as trained ones in one study of merging (arXiv 2602.12323), so a merge
that does not beat random steps of equal length has shown nothing. A random step moves every number of a tensor by the
same amount, up or down by a coin that is tossed with the counter-based noise of the merge methods: its length is exact
for a tensor of any size, and the bytes are the same on every machine. Blocks are streamed, in any number of shards.
The result is in float32 whatever the base is in: 16 bits would round most of so small a movement away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np

from hub_fusion.errors import WeightsError
from hub_fusion.merge.inputs import noise_at, noise_keys
from hub_fusion.weights import writer
from hub_fusion.weights.checkpoint import FLOATS, Checkpoint, TensorSpec
from hub_fusion.weights.codec import widen
from hub_fusion.weights.fuse import copy_side_files, remove_checkpoint
from hub_fusion.weights.kinds import is_parameter
from hub_fusion.weights.vocabulary import same_but_rows

BLOCK_ELEMENTS = 4_000_000
DIGITS = 6  # of a norm that decides bytes: sums of squares differ in the last ones from machine to machine


def random_walk(root: Path, out: Path, *, norms: Sequence[float], seed: int) -> None:
    """`root` and one random step after another, of these Euclidean lengths over all float parameters together.

    Example: norms [3, 4] end at a distance of about 5, since random directions are nearly orthogonal.
    """
    base = Checkpoint.open(root)
    count = sum(prod(spec.shape) for spec in base.values() if _moves(spec))
    sizes = [norm / math.sqrt(max(count, 1)) for norm in norms]
    _write(base, root, out, lambda spec: sizes if _moves(spec) else [], seed)


def random_step(parent: Path, candidate: Path, out: Path, *, seed: int) -> float:
    """`parent` and one random step that is in every tensor as long as the candidate's; gives the whole length.

    Tensor by tensor, because a direction drawn over the whole model would lie in the embeddings almost alone. Raises
    WeightsError where the two have no float tensor in common.
    """
    base = Checkpoint.open(parent)
    norms = tensor_norms(base, Checkpoint.open(candidate))
    if not norms:
        raise WeightsError(f"{candidate} has no float tensor of {parent}: a random step would have no length")
    sizes = {name: norm / math.sqrt(prod(base[name].shape)) for name, norm in norms.items() if norm}
    _write(base, parent, out, lambda spec: [sizes[spec.name]] if spec.name in sizes else [], seed)
    return math.sqrt(sum(norm * norm for norm in norms.values()))


def tensor_norms(base: Checkpoint, other: Checkpoint) -> dict[str, float]:
    """‖other − base‖ of every float tensor that both have, in six digits; of vocabularies the tokens that both have."""
    found: dict[str, float] = {}
    for name, spec in base.items():
        if (
            name not in other
            or not same_but_rows(name, spec, other[name])
            or not {spec.dtype, other[name].dtype} <= FLOATS
        ):
            continue
        total, size = 0.0, min(prod(spec.shape), prod(other[name].shape))
        for first in range(0, size, BLOCK_ELEMENTS):
            last = min(first + BLOCK_ELEMENTS, size)
            ours, theirs = (widen(c.raw(name, first, last), c[name].dtype).astype(np.float64) for c in (base, other))
            total += float(np.square(theirs - ours).sum())
        found[name] = float(f"{math.sqrt(total):.{DIGITS}g}")
    return found


def _moves(spec: TensorSpec) -> bool:
    return spec.dtype in FLOATS and is_parameter(spec)


def _write(
    base: Checkpoint, source: Path, out: Path, sizes_of: Callable[[TensorSpec], Sequence[float]], seed: int
) -> None:
    """The base in `out` in float32; every number of a tensor moved by ± each of its `sizes_of` in turn."""
    remove_checkpoint(out)
    layout = writer.plan_layout(base, (), "F32")
    writer.prepare(out, base, layout)
    output = writer.Output(out)
    for spec in (spec for specs in layout.values() for spec in specs):
        size, item = prod(spec.shape), spec.size_bytes // max(prod(spec.shape), 1)
        for first in range(0, size, BLOCK_ELEMENTS):
            last = min(first + BLOCK_ELEMENTS, size)
            block = base.raw(spec.name, first, last)
            if spec.dtype == "F32":
                block = _moved(widen(block, base[spec.name].dtype), spec, first, sizes_of(spec), seed)
            output.write(spec, block, first * item)
    output.close()
    copy_side_files(source, out)
    writer.finish(out, layout)


def _moved(block: np.ndarray, spec: TensorSpec, first: int, sizes: Sequence[float], seed: int) -> np.ndarray:
    """Elements of a tensor from the flat index `first` on, float32, after all steps."""
    import torch

    values = np.array(block, np.float32)
    for number, size in enumerate(sizes):
        index = torch.arange(first, first + len(values), dtype=torch.int64)
        up = noise_at(index, *noise_keys(seed, spec.name, f"random step {number}")).numpy() < 0.5
        values += np.where(up, np.float32(size), -np.float32(size))
    return values
