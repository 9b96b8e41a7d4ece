"""Linear layers merged by regression on their inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hub_fusion.errors import MergeError
from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import weighted_sum

if TYPE_CHECKING:
    import torch

    from hub_fusion.merge.inputs import Stack


@merge_method("RegMean", source="https://arxiv.org/abs/2212.09849", judged="seen-task", by_rows=True, one_by_one=True)
def regmean(
    deltas: torch.Tensor | Stack, weights: torch.Tensor, *, activations: torch.Tensor | Stack | None,
    alpha: float = 0.9, ridge: float = 1e-6, normalise: Literal["trace", "none"] = "trace",
    missing: Literal["refuse", "pool"] = "refuse",
) -> torch.Tensor:  # fmt: skip
    """The matrix whose outputs are closest to those of every finetune on its own inputs (Jin et al. 2023).

    (Σ wᵢ·δᵢ·Gᵢ)·(Σ wᵢ·Gᵢ)⁻¹ for weights (out, in) and Gram matrices Gᵢ = XᵢᵀXᵢ/n of the layer's inputs, shape (in, in),
    with their off-diagonal elements times `alpha` (the authors' code, bloomberg/dataless-model-merging, takes 0.9 down
    to 0.1 where models are less robust, 1 for none). Before that `ridge` times the mean diagonal element is added to
    each diagonal: inputs that no token reached get the weighted mean, and fewer tokens than inputs do no harm. Tensors
    without Gram matrices (biases, norms, embeddings) get the weighted mean. float64, Cholesky.
    `normalise`: each matrix comes divided by its mean diagonal element ("trace"), so that nobody wins by scaling it.
    That loses what the authors keep ("none"): whose inputs are longer counts for more in that layer.
    Contributions are gone through twice, one after another, so that memory holds one matrix, not one of each.
    `missing`: contributions without statistics are an error ("refuse"), or get the mean of the others' ("pool").
    Example: deltas [[[2]], [[4]]] with G [[[3]], [[1]]] and equal weights give [[2½]].
    Not covered: RegMean++, whose inputs come from the merged layers below; it needs data when merging.
    """
    import torch

    if activations is None or len(deltas.shape) != 3:
        return weighted_sum(deltas, weights)
    columns = deltas.shape[2]
    if activations.shape[1:] != (columns, columns):
        raise MergeError(
            f"Gram matrices of a layer with {columns} inputs have the shape ({columns}, {columns}), not "
            f"{tuple(activations.shape[1:])}: were these statistics made with another model?"
        )
    means = torch.stack([gram.diagonal().double().mean() for gram in activations])
    lift = ridge * float((means * weights.double()).sum())
    target = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=weights.device)
    total = torch.zeros((columns, columns), dtype=torch.float64, device=weights.device)
    for delta, gram, weight in zip(deltas, activations, weights.double(), strict=True):
        own = gram.double()
        own = (own + own.T).div_(2)
        diagonal = own.diagonal().clone()
        own.mul_(alpha).diagonal().copy_(diagonal)
        own.mul_(weight).diagonal().add_(weight * lift)
        target += delta.double() @ own
        total += own
    if not total.any():
        return weighted_sum(deltas, weights)
    factor, failed = torch.linalg.cholesky_ex(total)
    if failed:
        raise MergeError(
            f"the Gram matrices of a layer with {columns} inputs do not add up to a positive definite one: collect "
            f"statistics over more tokens, lower alpha from {alpha:g}, or raise ridge from {ridge:g}"
        )
    return torch.cholesky_solve(target.T, factor).T.to(deltas.dtype).contiguous()
