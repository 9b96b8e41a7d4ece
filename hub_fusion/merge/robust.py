"""Averages that a few bad contributions cannot move far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import weighted_sum

if TYPE_CHECKING:
    import torch

ITERATIONS = 200


@merge_method("Coordinate-wise median", source="https://arxiv.org/abs/1803.01498", judged="base")
def median(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """For every element the median of the contributions (Yin et al. 2018).

    Of an even number it is the mean of the middle two. Weights do not count. Task vectors of different tasks are nearly
    orthogonal, and then medians lie close to the base.
    Example: deltas [[1], [2], [90]] give [2].
    """
    ordered = deltas.sort(dim=0).values
    n = len(deltas)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@merge_method("Coordinate-wise trimmed mean", source="https://arxiv.org/abs/1803.01498", judged="base")
def trimmed_mean(deltas: torch.Tensor, weights: torch.Tensor, *, trim: float = 0.1) -> torch.Tensor:
    """For every element the mean without the ⌊trim·n⌋ largest and smallest (Yin et al. 2018).

    Weights do not count. At least one is left; below 1/trim contributions nothing is trimmed.
    Example: deltas [[0], [2], [4], [90]] with trim ¼ give [3].
    """
    n = len(deltas)
    cut = min(int(trim * n), (n - 1) // 2)
    return deltas.sort(dim=0).values[cut : n - cut].mean(dim=0)


@merge_method("Geometric median", source="https://arxiv.org/abs/1912.13445", judged="base")
def geometric_median(deltas: torch.Tensor, weights: torch.Tensor, *, gram: torch.Tensor) -> torch.Tensor:
    """The point with the least weighted sum of distances to the task vectors, tensor by tensor (Pillutla et al. 2019).

    Weiszfeld's iteration, in the coordinates of the Gram matrix: the point is always Σ cᵢ·δᵢ. For orthogonal vectors
    of one length it is the mean; less than half of the weight, however bad, cannot move it arbitrarily far.
    """
    import torch

    w = weights.double()
    coefficients = w.clone()
    squares = gram.diagonal()
    smallest = 1e-12 * float(squares.max().clamp_min(0).sqrt()) + torch.finfo(torch.float64).tiny
    for _ in range(ITERATIONS):
        along = gram @ coefficients
        distances = (squares - 2 * along + coefficients @ along).clamp_min(0).sqrt().clamp_min(smallest)
        new = w / distances
        new = new / new.sum()
        done = torch.allclose(new, coefficients, rtol=0, atol=1e-10)
        coefficients = new
        if done:
            break
    return weighted_sum(deltas, coefficients.to(deltas.dtype))
