"""Descent on the interference between task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import as_sum, weighted_sum

if TYPE_CHECKING:
    import torch

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as everywhere


@merge_method("WUDI", source="https://arxiv.org/abs/2503.08099", judged="seen-task", whole=True)
def wudi(
    deltas: torch.Tensor, weights: torch.Tensor, *, iterations: int = 300, rate: float = 1e-5, scale: float = 1.0,
    others: Literal["mean", "base"] = "mean",
) -> torch.Tensor:  # fmt: skip
    """The task matrix that interferes least with each one's rows, Σ ‖(M − δᵢ)δᵢᵀ‖²/‖δᵢ‖² (Cheng et al. 2025), scaled.

    Adam from the sum of the task matrices, without data, as in the authors' code (nathanielyvo/WUDI-Merging): 300
    steps of `rate` 1e-5. A step is absolute, so no element moves more than about iterations·rate from the sum. The
    gradient is the closed one, 2·(M·C − B) with C = Σ δᵢᵀδᵢ/‖δᵢ‖², so a step costs rows·columns² however many there
    are; in float64. That is work for a GPU: a matrix of 768·3072 takes ten minutes on one CPU core. Weights count
    relative to their mean.
    `others`: tensors that are no matrices get the mean, or stay at the "base" as with the authors, who also leave
    embeddings there; here these are matrices like the rest.
    """
    import torch

    if deltas.dim() != 3:
        return weighted_sum(deltas, weights) * (others == "mean")
    parts = deltas.double() * as_sum(weights).double().reshape(-1, 1, 1)
    squares = parts.square().sum(dim=(1, 2))
    merged = parts.sum(dim=0)
    interference = torch.zeros(deltas.shape[2], deltas.shape[2], dtype=torch.float64, device=deltas.device)
    wanted = torch.zeros_like(merged)
    for part, square in zip(parts, squares, strict=True):
        if square > 0:
            own = part.T @ part / square
            interference += own
            wanted += part @ own
    first, second = torch.zeros_like(merged), torch.zeros_like(merged)
    for step in range(1, iterations + 1):
        gradient = (merged @ interference - wanted) * 2
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = (second / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
        merged.addcdiv_(first, spread, value=-rate / (1 - BETAS[0] ** step))
    return (merged * scale).to(deltas.dtype)
