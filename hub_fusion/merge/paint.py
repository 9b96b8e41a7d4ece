"""Going part of the way to the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import weighted_sum

if TYPE_CHECKING:
    import torch


@merge_method("PAINT", source="https://arxiv.org/abs/2208.05592", judged="base")
def paint(deltas: torch.Tensor, weights: torch.Tensor, *, alpha: float = 0.5) -> torch.Tensor:
    """Interpolation from the base to the mean of the finetunes: `alpha`·Σ wᵢ·δᵢ (Ilharco et al. 2022).

    With one finetune (1 − α)·θ₀ + α·θ₁, as in WiSE-FT too. The authors choose α on held-out data, so that a new task is
    learned and the old ones stay; ½ stands for that choice. `hub-fusion fuse --step`, and the steps that a recipe
    tries, do the same for every method.
    Example: deltas [[2, 0], [4, 2]] with equal weights and α = ½ give [1½, ½].
    """
    return weighted_sum(deltas, weights * alpha)
