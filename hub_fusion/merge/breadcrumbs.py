"""Masking outliers and small changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import as_rows, as_sum, row_ranks, weighted_sum

if TYPE_CHECKING:
    import torch


@merge_method("Breadcrumbs", source="https://arxiv.org/abs/2312.06795", judged="seen-task", by_rows=True)
def breadcrumbs(
    deltas: torch.Tensor, weights: torch.Tensor, *, gamma: float = 0.1, density: float = 0.2, scale: float = 0.4
) -> torch.Tensor:  # fmt: skip
    """The sum of task vectors without their largest and smallest changes, times `scale` (Davari & Belilovsky 2023).

    Within each row (along the last dimension) the ⌊gamma·n⌋ largest magnitudes go, and of the rest the ⌈density·rest⌉
    largest stay. The defaults are those of the authors' code. mergekit masks whole tensors, and drops a small tensor
    altogether where ⌊gamma·n⌋ is 0; here nothing is cut off there.
    """
    import math

    rows = as_rows(deltas)
    size = rows.shape[-1]
    first = min(int(gamma * size), max(size - 1, 0))
    last = first + math.ceil(density * (size - first))
    from_largest = size - 1 - row_ranks(rows)
    kept = rows * ((from_largest >= first) & (from_largest < last))
    return weighted_sum(kept.reshape(deltas.shape), as_sum(weights) * scale)
