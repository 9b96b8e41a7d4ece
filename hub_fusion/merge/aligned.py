"""Methods that merge whole matrices in coordinates which all contributions share; other tensors go to the inner method.

With "mean" as the inner method the coordinates make no difference, up to rounding. Decompositions in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hub_fusion.merge import merge_method
from hub_fusion.merge.subspace import RANK, combine

if TYPE_CHECKING:
    import torch


@merge_method("KnOTS", source="https://arxiv.org/abs/2410.19735", judged="seen-task", whole=True)
def knots(
    deltas: torch.Tensor, weights: torch.Tensor, *, inner: Literal["ties", "mean"] = "ties", density: float = 0.2,
    scale: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """TIES on task matrices written in a common basis of their outputs (Stoica et al. 2024), times `scale`.

    U·Σ·[V₁ … Vₙ] is the singular value decomposition of all matrices side by side; the Σ·Vᵢ are merged by `inner` and
    multiplied by U; TIES keeps the `density` largest of each. Singular values below 10⁻⁶ of the largest are dropped
    (the authors' code, gstoica27/KnOTS: below 10⁻⁵). The authors trim the coordinates of all layers at once and put
    biases beside their matrices; here every tensor is trimmed by itself.
    """
    if deltas.dim() != 3 or not deltas.any():
        return combine(inner, deltas, weights, density) * scale
    exact = deltas.double()
    basis = _span(exact)
    return (basis @ combine(inner, basis.T @ exact, weights, density) * scale).to(deltas.dtype)


@merge_method("Core space", source="https://arxiv.org/abs/2509.17786", judged="seen-task", whole=True)
def core_space(
    deltas: torch.Tensor, weights: torch.Tensor, *, inner: Literal["ties", "mean"] = "ties", density: float = 0.2,
    scale: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """TIES on task matrices written in common bases of their outputs and inputs (Panariello et al. 2025), × `scale`.

    Mᵢ = Uᵀ·δᵢ·V, merged by `inner`, gives U·M·Vᵀ; U and V span all outputs and inputs of the δᵢ, so nothing is lost,
    and adapters of different ranks meet. The authors take the bases from the LoRA factors B and A, here they are
    singular vectors of the dense matrices side by side: the same spaces, turned within themselves, so that TIES gives
    other numbers. Every tensor is trimmed by itself, to `density`.
    """
    if deltas.dim() != 3 or not deltas.any():
        return combine(inner, deltas, weights, density) * scale
    exact = deltas.double()
    left, right = _span(exact), _span(exact.transpose(1, 2))
    return (left @ combine(inner, left.T @ exact @ right, weights, density) @ right.T * scale).to(deltas.dtype)


def _span(matrices: torch.Tensor) -> torch.Tensor:
    """Left singular vectors (rows, rank) of matrices (n, rows, columns) side by side, by the smaller of two ways."""
    import torch

    n, rows, columns = matrices.shape
    if rows <= n * columns:
        squares, vectors = torch.linalg.eigh(sum(matrix @ matrix.T for matrix in matrices))
        return vectors[:, squares > squares.max() * RANK**2].flip(1)
    u, s, _ = torch.linalg.svd(torch.cat(list(matrices), dim=1), full_matrices=False)
    return u[:, s > s.max() * RANK]
