"""Trim, elect sign, merge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import mean_of_agreeing

if TYPE_CHECKING:
    import torch


@merge_method(
    "TIES",
    source="https://arxiv.org/abs/2306.01708",
    judged="seen-task",
    ranks=lambda size, options: (0, math.ceil(options["density"] * size)),
)
def ties(
    deltas: torch.Tensor, weights: torch.Tensor, *, keep: torch.Tensor, density: float = 0.2, scale: float = 1.0
) -> torch.Tensor:  # fmt: skip
    """The mean, element by element, of the large changes that agree with the majority (Yadav et al. 2023).

    Trim: of each task vector the `density` largest magnitudes stay. Elect: the sign of the weighted sum of what is
    left, + where that is 0. Merge: the weighted mean of those with the elected sign; times `scale` (λ).
    Implementations differ: this one trims each tensor by itself, as mergekit and PEFT do, where the authors' code trims
    the whole model at once; ties at the threshold go to the lowest index; it divides by the weights that agree.
    Example: trimmed deltas [[3, −1], [1, 0], [−2, −3]] with equal weights give [2, −2].
    """
    return mean_of_agreeing(deltas * keep, weights) * scale
