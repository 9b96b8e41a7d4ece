"""Adding, negating and comparing task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import as_sum, weighted_sum

if TYPE_CHECKING:
    import torch


@merge_method("Task arithmetic", source="https://arxiv.org/abs/2212.04089", judged="seen-task", signed=True)
def task_arithmetic(deltas: torch.Tensor, weights: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """The sum of the task vectors times `scale`, λ·Σ δᵢ (Ilharco et al. 2022); weights count relative to their mean.

    A sum of n grows with n: with many contributions 1/n is a sensible `scale`, and makes it the mean. A negative
    `scale` forgets what the contributions learned (the paper's negation). Weights may be negative, and count relative
    to the mean of their magnitudes: 1, 1, −1 is the paper's analogy "A is to B as C is to …", A + B − C.
    Example: deltas [[2, 0], [4, 2]] with equal weights and scale ½ give [3, 1]; with scale −1 they give [−6, −2]; with
    weights 1 and −1, which arrive here as ½ and −½, they give [−2, −2].
    """
    return weighted_sum(deltas, as_sum(weights) * scale)
