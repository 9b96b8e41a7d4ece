"""Drop and rescale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import mean_of_agreeing, weighted_sum

if TYPE_CHECKING:
    import torch


@merge_method("DARE", source="https://arxiv.org/abs/2311.03099", judged="seen-task")
def dare(
    deltas: torch.Tensor, weights: torch.Tensor, *, noise: torch.Tensor, density: float = 0.1, scale: float = 1.0
) -> torch.Tensor:  # fmt: skip
    """The mean of task vectors of which a random `density` stays, divided by it (Yu et al. 2023), times `scale`.

    The drop rate 1 − density is 0.9, which the paper found harmless for finetunes whose changes are small. The expected
    value is the mean. mergekit's rescaling keeps the L1 norm; this one divides by the density, as the authors do.
    Example: delta [2, 4] with noise [0.05, 0.7] and density 0.1 gives [20, 0].
    """
    return weighted_sum(_drop(deltas, noise, density), weights) * scale


@merge_method("DARE-TIES", source="https://arxiv.org/abs/2311.03099", judged="seen-task")
def dare_ties(
    deltas: torch.Tensor, weights: torch.Tensor, *, noise: torch.Tensor, density: float = 0.1, scale: float = 1.0
) -> torch.Tensor:  # fmt: skip
    """DARE's random dropping in place of TIES' trimming (Yu et al. 2023), times `scale`.

    Sign election, and the mean of those that agree, as in `ties`.
    """
    return mean_of_agreeing(_drop(deltas, noise, density), weights) * scale


def _drop(deltas: torch.Tensor, noise: torch.Tensor, density: float) -> torch.Tensor:
    import torch

    return torch.where(noise < density, deltas / density, 0.0) if density else torch.zeros_like(deltas)
