"""Methods that set singular values of whole matrices, in float64; tensors of other shapes get the mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import as_sum, largest, mean_of_agreeing, weighted_sum

if TYPE_CHECKING:
    import torch

RANK = 1e-6  # of the largest singular value: what is smaller is rounding, and its direction arbitrary


@merge_method("TSV-M", source="https://arxiv.org/abs/2412.00081", judged="seen-task", whole=True)
def tsv_m(deltas: torch.Tensor, weights: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """The strongest singular directions of every task matrix, made orthogonal, summed (Gargiulo et al. 2024).

    Of each of n matrices the ⌊min(rows, columns)/n⌋ largest singular triples stay; left and right vectors of all are
    replaced by the nearest orthonormal sets; the result is multiplied by `scale` (the authors search up to 3).
    With more contributions than min(rows, columns), the largest triples stay.
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
    used = s > s.max() * RANK
    return ((u * (used * s.sum() / used.sum().clamp_min(1))) @ vh * scale).to(deltas.dtype)


@merge_method("Iso-CTS", source="https://arxiv.org/abs/2502.04959", judged="seen-task", whole=True)
def iso_cts(deltas: torch.Tensor, weights: torch.Tensor, *, common: float = 0.8, scale: float = 1.0) -> torch.Tensor:
    """As Iso-C, but the weakest directions of the sum make room for each task's own (Marczak et al. 2025).

    The `common` share of the sum's singular triples stays, rounded as in the authors' code (danielm1405/iso-merging) so
    that the rest divides by the contributions; of each task matrix without that left space the strongest triples join.
    Left and right vectors are replaced by the nearest orthonormal sets, all singular values by their mean, times
    `scale`. With so many contributions that none gets a direction of its own, this is Iso-C. Directions without length
    take no part, where the authors' code lets them in as they come.
    """
    import torch

    if deltas.dim() != 3 or not deltas.any():
        return weighted_sum(deltas, weights)
    n, rank = len(deltas), min(deltas.shape[1:])
    own = min(round((rank - int(rank * common)) / n), rank // n)
    shared = rank - n * own
    u, s, vh = _svd(weighted_sum(deltas, as_sum(weights)))
    u = u[:, :shared]
    triples = [(u, s[:shared], vh[:shared])]
    for delta, c in zip(deltas, as_sum(weights), strict=True):
        rest = (delta * c).double()
        left, sigma, right = _svd(rest - u @ (u.T @ rest))
        triples.append((left[:, :own], sigma[:own], right[:own]))
    sigma = torch.cat([t[1] for t in triples])
    used = sigma > sigma.max() * RANK
    left = _orthonormal(torch.cat([t[0] for t in triples], dim=1)[:, used])
    right = _orthonormal(torch.cat([t[2] for t in triples], dim=0)[used])
    return (left @ right * sigma[used].mean() * scale).to(deltas.dtype)


@merge_method("Subspace boosting", source="https://arxiv.org/abs/2506.16506", judged="base", whole=True)
def subspace_boosting(
    deltas: torch.Tensor, weights: torch.Tensor, *, beta: float = 0.2, inner: Literal["mean", "ties"] = "mean",
    density: float = 0.2, scale: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """A merged task matrix whose small singular values are raised (Skorobogat et al. 2025), times `scale`.

    The matrix is merged by `inner`: the mean, or TIES with `density`. Where the singular values, largest first, first
    add up to the share `beta` of their sum lies the cutoff: all smaller ones are raised to its value. The published
    code cuts at 0.01 to 0.2; 1 raises none. Only as many values as the matrix has rank are raised.
    Example: singular values 4, 3, 2, 1 with beta ½ become 4, 3, 3, 3, as 4 + 3 is the first sum of at least 5.
    """
    merged = combine(inner, deltas, weights, density)
    if deltas.dim() != 3 or not merged.any():
        return merged * scale
    u, s, vh = _svd(merged)
    cutoff = s[min(int((s.cumsum(0) < beta * s.sum()).sum()), len(s) - 1)]
    raised = s.clamp_min(cutoff) * (s > s.max() * RANK)
    return ((u * raised) @ vh * scale).to(deltas.dtype)


def combine(inner: str, deltas: torch.Tensor, weights: torch.Tensor, density: float) -> torch.Tensor:
    """The mean of whole tensors, or what TIES makes of them, in the deltas' dtype."""
    if inner == "mean":
        return weighted_sum(deltas, weights.to(deltas.dtype))
    count = math.ceil(density * deltas[0].numel())
    return mean_of_agreeing(largest(deltas, count), weights.to(deltas.dtype))


def _svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    return torch.linalg.svd(matrix.double(), full_matrices=False)


def _orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal rows or columns, P·Qᵀ of its singular value decomposition.

    Where vectors are linearly dependent the nearest partial isometry: what it has no rank for stays 0.
    """
    u, s, vh = _svd(matrix)
    used = s > s.max() * RANK
    return u[:, used] @ vh[used]
