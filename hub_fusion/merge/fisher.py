"""Averages weighted by how much each parameter matters to a contribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import weighted_sum

if TYPE_CHECKING:
    import torch


@merge_method("Fisher-weighted mean", source="https://arxiv.org/abs/2111.09832", judged="seen-task")
def fisher(
    deltas: torch.Tensor, weights: torch.Tensor, *, fisher: torch.Tensor | None, floor: float = 1e-6
) -> torch.Tensor:  # fmt: skip
    """For every element Σ wᵢ·Fᵢ·δᵢ / Σ wᵢ·Fᵢ, with Fᵢ the diagonal Fisher information (Matena & Raffel 2021).

    `fisher` has the shape of `deltas`; without it the weighted mean. Each contribution's Fisher information comes
    divided by its L2 norm over the whole model, as in the authors' code (mmatena/model_merging), and is at least
    `floor`, so that where nobody cares all count alike. The authors raise the unnormalised values to the floor, and by
    default those of the first ("target") model only; here no contribution is the target.
    Example: deltas [[2], [4]] with Fisher [[3], [1]] and equal weights give [2½].
    """
    import torch

    if fisher is None:
        return weighted_sum(deltas, weights)
    total = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
    merged = torch.zeros_like(total)
    for delta, information, weight in zip(deltas, fisher, weights.double(), strict=True):
        importance = information.double().clamp_min(floor) * weight
        total += importance
        merged += importance * delta
    known = total > 0
    return (merged / total.where(known, 1.0)).to(deltas.dtype).where(known, weighted_sum(deltas, weights))
