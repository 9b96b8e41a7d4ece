"""Magnitude-based dropping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hub_fusion.merge import merge_method
from hub_fusion.merge.dare import by_norm
from hub_fusion.merge.parts import as_rows, mean_of_agreeing, restore_norm, row_ranks, weighted_sum

if TYPE_CHECKING:
    import torch

SOURCE = "https://arxiv.org/abs/2406.11617"


@merge_method("DELLA", source=SOURCE, judged="seen-task", by_rows=True, whole=by_norm)
def della(
    deltas: torch.Tensor, weights: torch.Tensor, *, noise: torch.Tensor, density: float = 0.7, window: float = 0.14,
    scale: float = 1.1, rescale: Literal["density", "norm"] = "density",
    votes: Literal["total", "frequency"] = "total", divisor: Literal["weights", "count", "none"] = "weights",
) -> torch.Tensor:  # fmt: skip
    """As DARE-TIES, but larger changes are kept more often (Deep et al. 2024: MagPrune), times `scale`.

    Within each row (along the last dimension) the probability to stay rises linearly with the rank of the magnitude,
    from density − window/2 to density + window/2; what stays is divided by its probability. Rows of one element use the
    density. The defaults are those of the authors' code. mergekit keeps each tensor's L1 norm instead, rescale "norm"
    (whole tensors in memory), and its epsilon is window/2. `votes` and `divisor` as in `ties`.
    """
    return mean_of_agreeing(_drop(deltas, noise, density, window, rescale), weights, votes, divisor) * scale


@merge_method("DELLA without election", source=SOURCE, judged="seen-task", by_rows=True, whole=by_norm)
def della_linear(
    deltas: torch.Tensor, weights: torch.Tensor, *, noise: torch.Tensor, density: float = 0.7, window: float = 0.14,
    scale: float = 1.1, rescale: Literal["density", "norm"] = "density",
) -> torch.Tensor:  # fmt: skip
    """The mean of task vectors thinned out as in `della`, without an election of signs, times `scale`.

    What mergekit calls della_linear; its expected value is the mean times `scale`.
    """
    return weighted_sum(_drop(deltas, noise, density, window, rescale), weights) * scale


def _drop(deltas: torch.Tensor, noise: torch.Tensor, density: float, window: float, rescale: str) -> torch.Tensor:
    import torch

    rows = as_rows(deltas)
    last = max(rows.shape[-1] - 1, 1)
    position = row_ranks(rows) / last if rows.shape[-1] > 1 else torch.full_like(rows, 0.5)
    probability = (density - window / 2 + window * position).clamp(0, 1).to(deltas.dtype)
    stays = noise.reshape(rows.shape) < probability
    if rescale == "norm":
        return restore_norm(torch.where(stays, rows, 0.0).reshape(deltas.shape), deltas)
    dropped = torch.where(stays, rows / probability.clamp_min(torch.finfo(rows.dtype).tiny), 0.0)
    return dropped.reshape(deltas.shape)
