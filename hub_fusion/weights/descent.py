"""Does a checkpoint on disk descend from a base? Finds MLP blocks by their names and gives two to `lineage_check`.

Covered: the names transformers uses for dense MLPs. Not covered: biases, experts, fused gate and up, convolutions, and
whatever `lineage_check` does not cover.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub_fusion.weights.lineage_check import MLP, match_units
from hub_fusion.weights.names import match_names

if TYPE_CHECKING:
    from hub_fusion.weights.checkpoint import Checkpoint, TensorSpec
    from hub_fusion.weights.reading import Reader

PAIRS = {"gate_proj": "down_proj", "up_proj": "down_proj", "intermediate.dense": "output.dense", "fc1": "fc2",
         "c_fc": "c_proj", "lin1": "lin2", "wi": "wo", "wi_0": "wo", "wi_1": "wo"}  # fmt: skip
MOST_UNITS = 1024  # evenly spaced ones of a wider block: those of a finetune match each other all the same


@dataclass(frozen=True)
class Block:
    """The names of one MLP block's matrices, and whether they are stored as (inputs, units), as Conv1D does."""

    fc1: tuple[str, ...]
    fc2: str
    transposed: bool


@dataclass(frozen=True)
class Descent:
    """The worst of the blocks looked at: share of units in place, and what permuting them wins (`Matching`)."""

    descends: bool
    fixed: float
    gain: float


def find_blocks(specs: Mapping[str, TensorSpec]) -> list[Block]:
    """The MLP blocks of a checkpoint, in the order of its tensors."""
    found: dict[str, list[str]] = {}
    for name in specs:
        for into, out in PAIRS.items():
            head = name.removesuffix(f"{into}.weight")
            if head != name and (not head or head.endswith(".")) and f"{head}{out}.weight" in specs:
                found.setdefault(f"{head}{out}.weight", []).append(name)
    blocks = []
    for last, first in found.items():
        shape, back = specs[first[0]].shape, specs[last].shape
        transposed = ".c_fc." in f".{first[0]}" and len(shape) == 2 and shape[1] > shape[0]
        if len(shape) == len(back) == 2 and back == shape[::-1] and all(specs[n].shape == shape for n in first):
            blocks.append(Block(tuple(first), last, transposed))
    return blocks


def descent(base: Checkpoint, other: Checkpoint, reader: Reader) -> Descent | None:
    """Whether the first block and the one at two thirds of the depth descend; None where the base has no MLP block.

    Raises WeightsError where the tensors do not fit the base's or hold NaN or infinity.
    """
    names = match_names(base, other).names
    blocks = [b for b in find_blocks(base) if all(n in names for n in (*b.fc1, b.fc2))]
    chosen = sorted({0, 2 * len(blocks) // 3}) if blocks else []
    matchings = []
    for block in (blocks[i] for i in chosen):
        theirs = Block(tuple(names[n] for n in block.fc1), names[block.fc2], block.transposed)
        matchings.append(match_units(_read(base, block, reader), _read(other, theirs, reader)))
    if not matchings:
        return None
    worst = max(matchings, key=lambda m: m.gain)
    return Descent(worst.descends, worst.fixed, worst.gain)


def _read(checkpoint: Checkpoint, block: Block, reader: Reader) -> MLP:
    import numpy as np

    into = [reader.whole(checkpoint, name) for name in block.fc1]
    out = reader.whole(checkpoint, block.fc2)
    if block.transposed:
        into, out = [matrix.T for matrix in into], out.T
    units = out.shape[1]
    at = np.unique(np.linspace(0, units - 1, min(units, MOST_UNITS)).astype(int))
    return MLP(np.concatenate([matrix[at] for matrix in into], axis=1), out[:, at])
