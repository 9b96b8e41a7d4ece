"""Averages weighted by how much each parameter matters to a contribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import weighted_sum

if TYPE_CHECKING:
    import torch


@merge_method("Fisher-weighted mean", source="https://arxiv.org/abs/2111.09832", judged="seen-task")
def fisher(
    deltas: torch.Tensor, weights: torch.Tensor, *, fisher: torch.Tensor | None, floor: float = 1e-6,
    cap: float = 100.0, missing: Literal["refuse", "pool"] = "refuse",
) -> torch.Tensor:  # fmt: skip
    """For every element Σ wᵢ·Fᵢ·δᵢ / Σ wᵢ·Fᵢ, with Fᵢ the diagonal Fisher information (Matena & Raffel 2021).

    `fisher` has the shape of `deltas`; without it the weighted mean. Each contribution's Fisher information comes
    divided by its L2 norm over the whole model, as in the authors' code (mmatena/model_merging), and is at least
    `floor`, so that where nobody cares all count alike. The authors raise the unnormalised values to the floor, and by
    default those of the first ("target") model only; here no contribution is the target.
    No value is more than `cap` times the median of all contributions there (0: no cap), which the authors do not have:
    who claims all importance for a few elements would own them. It binds from three contributions on.
    `missing`: contributions without statistics are an error ("refuse"), or get the mean of the others' ("pool").
    Example: deltas [[2], [4]] with Fisher [[3], [1]] and equal weights give [2½].
    """
    import torch

    if fisher is None:
        return weighted_sum(deltas, weights)
    most = torch.full(deltas.shape[1:], torch.inf, dtype=torch.float64, device=deltas.device)
    if cap and len(deltas) > 2:
        order, n = fisher.clamp_min(floor).sort(dim=0).values, len(deltas)
        most = cap * (order[(n - 1) // 2].double() + order[n // 2].double()) / 2
    total = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
    merged = torch.zeros_like(total)
    for delta, information, weight in zip(deltas, fisher, weights.double(), strict=True):
        importance = information.double().clamp_min(floor).minimum(most) * weight
        total += importance
        merged += importance * delta
    known = total > 0
    return (merged / total.where(known, 1.0)).to(deltas.dtype).where(known, weighted_sum(deltas, weights))
