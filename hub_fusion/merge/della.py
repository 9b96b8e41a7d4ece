"""Magnitude-based dropping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import as_rows, mean_of_agreeing, row_ranks

if TYPE_CHECKING:
    import torch


@merge_method("DELLA", source="https://arxiv.org/abs/2406.11617", judged="seen-task", by_rows=True)
def della(
    deltas: torch.Tensor, weights: torch.Tensor, *, noise: torch.Tensor, density: float = 0.7, window: float = 0.14,
    scale: float = 1.1,
) -> torch.Tensor:  # fmt: skip
    """As DARE-TIES, but larger changes are kept more often (Deep et al. 2024: MagPrune), times `scale`.

    Within each row (along the last dimension) the probability to stay rises linearly with the rank of the magnitude,
    from density − window/2 to density + window/2; what stays is divided by its probability. Rows of one element use the
    density. The defaults are those of the authors' code. mergekit rescales by the L1 norm instead.
    """
    import torch

    rows = as_rows(deltas)
    last = max(rows.shape[-1] - 1, 1)
    position = row_ranks(rows) / last if rows.shape[-1] > 1 else torch.full_like(rows, 0.5)
    probability = (density - window / 2 + window * position).clamp(0, 1).to(deltas.dtype)
    stays = noise.reshape(rows.shape) < probability
    dropped = torch.where(stays, rows / probability.clamp_min(torch.finfo(rows.dtype).tiny), 0.0)
    return mean_of_agreeing(dropped.reshape(deltas.shape), weights) * scale
