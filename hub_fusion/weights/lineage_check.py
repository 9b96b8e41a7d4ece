"""Does a checkpoint descend from a base? Git Re-Basin's weight matching, used as a test and not for merging.

The units of a hidden layer can be permuted without changing what the network computes. Units of a finetune stay where
the base has them, so the permutation that best matches the two is the identity. Another one means that the other model
was trained from elsewhere, or that its units were shuffled to hide where it comes from.

Covered: the two matrices of an MLP block (Ainsworth et al. 2022, arXiv 2209.04836, section 3.2: with one permutation
its weight matching is one linear assignment problem, solved exactly). Gated MLPs: give gate and up side by side as one
`fc1` with twice the columns. Not covered: attention heads, the residual stream, scaled or rotated units, and a model
that was trained from elsewhere towards the base's weights. Only the block that is given is judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub_fusion.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class MLP:
    """The weights of one block as PyTorch stores them."""

    fc1: np.ndarray  # (units, inputs)
    fc2: np.ndarray  # (outputs, units)
    bias: np.ndarray | None = None  # (units,), of fc1


@dataclass(frozen=True)
class Matching:
    """The best permutation of the other model's units, and how it compares with leaving them where they are."""

    permutation: np.ndarray  # (units,) int: unit i of the base matches unit permutation[i] of the other
    fixed: float  # share of units that match the unit of the same index
    gain: float  # similarity won by permuting, as a share of the best: 0 for the identity, about 1 for strangers

    @property
    def descends(self) -> bool:
        """Whether the identity is as good as optimal; dead units, all nearly 0, may swap places in a finetune too."""
        return self.gain <= 0.01


def match_units(base: MLP, other: MLP) -> Matching:
    """Match the hidden units of two blocks by their incoming and outgoing weights.

    The similarity of unit i of the base and unit j of the other is the inner product of their rows of `fc1`, biases and
    columns of `fc2`; the permutation maximises its sum. What all units of a block have in common says nothing about the
    match, and is subtracted first. O(units²·inputs) and at most O(units³): seconds for 3,072 units.
    Raises WeightsError if the shapes differ or a value is not finite.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    ours, theirs = _units(base), _units(other)
    if ours.shape != theirs.shape or base.fc1.shape != other.fc1.shape:
        raise WeightsError(
            f"blocks of one architecture have the same shapes, not fc1 {base.fc1.shape} and {other.fc1.shape}, fc2 "
            f"{base.fc2.shape} and {other.fc2.shape}, or a bias in one of them only"
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise WeightsError("weights to match are finite: these hold NaN or infinity")
    similarity = (ours - ours.mean(axis=0)) @ (theirs - theirs.mean(axis=0)).T
    _, permutation = linear_sum_assignment(similarity, maximize=True)
    here, best = np.trace(similarity), similarity[np.arange(len(ours)), permutation].sum()
    fixed = float((permutation == np.arange(len(ours))).mean()) if len(ours) else 1.0
    return Matching(permutation, fixed, float((best - here) / best) if best > here else 0.0)


def _units(block: MLP) -> np.ndarray:
    """(units, inputs + outputs [+ 1]) float64: everything that belongs to each hidden unit."""
    import numpy as np

    if block.fc1.ndim != 2 or block.fc2.ndim != 2 or block.fc1.shape[0] != block.fc2.shape[1]:
        raise WeightsError(
            f"fc1 (units, inputs) and fc2 (outputs, units) share their units, not {block.fc1.shape}, {block.fc2.shape}"
        )
    parts = [block.fc1, block.fc2.T, *([] if block.bias is None else [block.bias.reshape(-1, 1)])]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts], axis=1)
