"""Methods that look at lengths and angles of the task vectors, tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import largest, mean_of_agreeing, weighted_sum

if TYPE_CHECKING:
    import torch

FLAT = 1e-8  # eigenvalues of the directions' Gram matrix below this are a dimension that they do not span


@merge_method("Model Stock", source="https://arxiv.org/abs/2403.19522", judged="base")
def model_stock(deltas: torch.Tensor, weights: torch.Tensor, *, gram: torch.Tensor) -> torch.Tensor:
    """The mean, shortened by how little the task vectors agree: t·Σ wᵢ·δᵢ (Jang et al. 2024).

    t = n·c/(1 + (n−1)·c) with c the mean cosine of the pairs, between 0 and 1. One contribution alone is taken whole;
    where the vectors are orthogonal nothing is left of them.
    """
    import torch

    n = len(deltas)
    lengths = gram.diagonal().clamp_min(0).sqrt()
    pairs = lengths.outer(lengths)
    cosines = torch.where(pairs > 0, gram / pairs.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    c = float((cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))) if n > 1 else 1.0
    c = min(max(c, 0.0), 1.0)
    return weighted_sum(deltas, weights * (n * c / (1 + (n - 1) * c)))


@merge_method("Karcher mean", source="https://doi.org/10.1002/cpa.3160300502", judged="base", aliases=("slerp",))
def karcher(deltas: torch.Tensor, weights: torch.Tensor, *, gram: torch.Tensor, iterations: int = 10) -> torch.Tensor:
    """The mean of the directions on the sphere, times the mean length; for two contributions this is SLERP.

    Per tensor, on task vectors: iterated logarithmic and exponential maps (Karcher 1977) from the normalised mean, in
    coordinates that the Gram matrix gives. Implementations that take whole weights, where all finetunes are nearly
    parallel, give almost the mean. Directions that cancel have no mean; the weighted mean is given then.
    Example: orthogonal deltas of length 1 with equal weights give length 1 between them, where the mean has length √½.
    """
    import torch

    w, tiny = weights.double(), torch.finfo(torch.float64).tiny
    lengths = gram.diagonal().clamp_min(0).sqrt()
    inverse = torch.where(lengths > 0, 1 / lengths.clamp_min(tiny), 0.0)
    squares, axes = torch.linalg.eigh(gram * inverse.outer(inverse))
    axes, roots = axes[:, squares > FLAT], squares[squares > FLAT].sqrt()
    directions = axes * roots  # (contributions, rank): of length 1, with the angles of the task vectors
    point = w @ directions
    if float(point.norm()) < 1e-6:
        return weighted_sum(deltas, weights)
    point = point / point.norm()
    for _ in range(iterations):
        cosines = (directions @ point).clamp(-1, 1)
        angles = cosines.acos()
        usable = (lengths > 0) & (angles < torch.pi - 1e-4)  # the opposite direction lies no way in particular
        rates = torch.where(angles > 1e-9, angles / angles.sin().clamp_min(tiny), 1.0) * w * usable
        tangent = rates @ directions - (rates * cosines).sum() * point
        step = tangent.norm()
        if float(step) < 1e-12:
            break
        point = point * step.cos() + tangent / step * step.sin()
        point = point / point.norm()
    coefficients = (axes / roots) @ point * inverse * (w * lengths).sum()
    return weighted_sum(deltas, coefficients.to(deltas.dtype))


@merge_method(
    "SCE", source="https://arxiv.org/abs/2408.07990", judged="seen-task", whole=lambda options: options["select"] < 1
)
def sce(deltas: torch.Tensor, weights: torch.Tensor, *, gram: torch.Tensor, select: float = 1.0) -> torch.Tensor:
    """Contributions weigh as their squared length; then the mean of those with the elected sign (Wan et al. 2024).

    The weights within a tensor are wᵢ·‖δᵢ‖² over their sum: a long task vector dominates, so norms should be capped.
    The paper first selects the share `select` of the elements whose variance between contributions is largest, of
    those where it is not 0, and zeroes the rest; below 1 this takes whole tensors in memory. Ties go to the lowest
    index; one contribution alone has no variance, and is taken whole. Signs are elected before lengths count, as in
    the authors' code in mergekit, by Σ wᵢ·δᵢ.
    Example: deltas [[2, 1], [1, −2]] have equal lengths, and give [1½, −2].
    """
    import torch

    if select < 1 and len(deltas) > 1:
        middle = deltas.mean(dim=0, dtype=torch.float64)
        variance = torch.stack([(delta - middle).square() for delta in deltas]).mean(dim=0)
        deltas = deltas * (largest(variance.unsqueeze(0), int(select * int(variance.count_nonzero())))[0] > 0)
        gram = deltas.reshape(len(deltas), -1).double().square().sum(dim=1).diag()
    squares = gram.diagonal().clamp_min(0) * weights.double()
    shares = squares / squares.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return mean_of_agreeing(deltas, shares.to(deltas.dtype), electors=weights)
