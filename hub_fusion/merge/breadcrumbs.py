"""Masking outliers and small changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import as_rows, as_sum, mean_of_agreeing, row_ranks, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import torch

SOURCE = "https://arxiv.org/abs/2312.06795"


def _by_tensor(options: Mapping[str, Any]) -> bool:
    return bool(options["within"] == "tensor")


@merge_method("Breadcrumbs", source=SOURCE, judged="seen-task", by_rows=True, whole=_by_tensor)
def breadcrumbs(
    deltas: torch.Tensor, weights: torch.Tensor, *, gamma: float = 0.1, density: float = 0.2, scale: float = 0.4,
    within: Literal["row", "tensor"] = "row",
) -> torch.Tensor:  # fmt: skip
    """The sum of task vectors without their largest and smallest changes, times `scale` (Davari & Belilovsky 2023).

    Within each row (along the last dimension) the ⌊gamma·n⌋ largest magnitudes go, and of the rest the ⌈density·rest⌉
    largest stay. The defaults are those of the authors' code. mergekit masks whole tensors, within "tensor" (which
    takes them in memory), and its density counts all n: its d is d/(1 − gamma) here.
    Example: the row [9, 3, −2, 1] with gamma ¼, density ⅔ and scale 1 gives [0, 3, −2, 0].
    """
    return weighted_sum(_masked(deltas, gamma, density, within), as_sum(weights) * scale)


@merge_method("Breadcrumbs-TIES", source=SOURCE, judged="seen-task", by_rows=True, whole=_by_tensor)
def breadcrumbs_ties(
    deltas: torch.Tensor, weights: torch.Tensor, *, gamma: float = 0.1, density: float = 0.2, scale: float = 1.0,
    within: Literal["row", "tensor"] = "row", votes: Literal["total", "frequency"] = "total",
    divisor: Literal["weights", "count", "none"] = "weights",
) -> torch.Tensor:  # fmt: skip
    """Breadcrumbs' mask in place of TIES' trimming: the mean of what is left and agrees in sign, times `scale`.

    A combination that mergekit brought; `gamma`, `density`, `within` as in `breadcrumbs`, `votes` and `divisor` as in
    `ties`.
    """
    return mean_of_agreeing(_masked(deltas, gamma, density, within), weights, votes, divisor) * scale


def _masked(deltas: torch.Tensor, gamma: float, density: float, within: str) -> torch.Tensor:
    rows = as_rows(deltas) if within == "row" else deltas.reshape(len(deltas), 1, -1)
    size = rows.shape[-1]
    first = min(int(gamma * size), max(size - 1, 0))
    last = first + math.ceil(density * (size - first))
    from_largest = size - 1 - row_ranks(rows)
    kept = rows * ((from_largest >= first) & (from_largest < last))
    return kept.reshape(deltas.shape)
