"""Trim, elect sign, merge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

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
    deltas: torch.Tensor, weights: torch.Tensor, *, keep: torch.Tensor, density: float = 0.2, scale: float = 1.0,
    within: Literal["tensor", "model"] = "tensor", votes: Literal["total", "frequency"] = "total",
    divisor: Literal["weights", "count", "none"] = "weights",
) -> torch.Tensor:  # fmt: skip
    """The mean, element by element, of the large changes that agree with the majority (Yadav et al. 2023).

    Trim: of each task vector the `density` largest magnitudes stay. Elect: the sign of the weighted sum of what is
    left, + where that is 0. Merge: the weighted mean of those with the elected sign; times `scale` (λ).
    Implementations differ, hence the options. `within`: the authors trim the whole model at once ("model"), mergekit
    and PEFT every tensor by itself. `votes`: PEFT can count signs ("frequency"), and leaves weights out of the vote.
    `divisor`: "weights" of those that agree, as mergekit normalises; PEFT divides by their "count"; "none" gives the
    sum, mergekit without normalising. Ties at the threshold go to the lowest index, where the authors keep them all.
    Example: trimmed deltas [[3, −1], [1, 0], [−2, −3]] with equal weights give [2, −2]; with divisor none [4, −4].
    """
    return mean_of_agreeing(deltas * keep, weights, votes, divisor) * scale
