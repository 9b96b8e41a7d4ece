"""Methods that work on the singular vectors of whole matrices; tensors of other shapes get the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import as_sum, weighted_sum

if TYPE_CHECKING:
    import torch


@merge_method("TSV-M", source="https://arxiv.org/abs/2412.00081", judged="seen-task", whole=True)
def tsv_m(deltas: torch.Tensor, weights: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """The strongest singular directions of every task matrix, made orthogonal, summed (Gargiulo et al. 2024).

    Of each of n matrices the ⌊min(rows, columns)/n⌋ largest singular triples stay; left and right vectors of all are
    replaced by the nearest orthonormal sets. With more contributions than min(rows, columns), the largest triples stay.
    """
    import torch

    if deltas.dim() != 3 or not deltas.any():
        return weighted_sum(deltas, weights)
    n, smaller = len(deltas), min(deltas.shape[1:])
    triples = [_svd(delta * c) for delta, c in zip(deltas, as_sum(weights), strict=True)]
    k = max(smaller // n, 1)
    left = torch.cat([u[:, :k] for u, _, _ in triples], dim=1)
    sigma = torch.cat([s[:k] for _, s, _ in triples])
    right = torch.cat([vh[:k] for _, _, vh in triples], dim=0)
    strongest = sigma.argsort(descending=True, stable=True)[:smaller]
    left, sigma, right = left[:, strongest], sigma[strongest], right[strongest]
    return ((_orthonormal(left) * sigma) @ _orthonormal(right) * scale).to(deltas.dtype)


@merge_method("Iso-C", source="https://arxiv.org/abs/2502.04959", judged="seen-task", whole=True)
def iso_c(deltas: torch.Tensor, weights: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """The summed task matrix with all singular values set to their mean (Marczak et al. 2025), times `scale`.

    The authors choose the scale on validation data. Only as many values as the sum has rank are set.
    """
    if deltas.dim() != 3 or not deltas.any():
        return weighted_sum(deltas, weights)
    u, s, vh = _svd(weighted_sum(deltas, as_sum(weights)))
    used = s > s.max() * 1e-6
    return ((u * (used * s.sum() / used.sum().clamp_min(1))) @ vh * scale).to(deltas.dtype)


def _svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    return torch.linalg.svd(matrix.double(), full_matrices=False)


def _orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal rows or columns: P·Qᵀ of its singular value decomposition."""
    u, _, vh = _svd(matrix)
    return u @ vh
