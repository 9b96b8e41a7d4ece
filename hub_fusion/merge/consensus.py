"""Consensus of task masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import as_sum, weighted_sum

if TYPE_CHECKING:
    import torch


@merge_method("Consensus (TALL masks)", source="https://arxiv.org/abs/2405.07813", judged="seen-task")
def consensus(
    deltas: torch.Tensor, weights: torch.Tensor, *, threshold: float = 0.4, agree: int = 2, scale: float = 0.3
) -> torch.Tensor:  # fmt: skip
    """The sum of task vectors where it matters to at least `agree` of them, times `scale` (Wang et al. 2024).

    A sum's element matters to a contribution where |δᵢ| > threshold·|Σδ − δᵢ|. Elements that matter to fewer ("selfish"
    or "catastrophic" weights) stay at the base. The authors choose the threshold on validation data, from 0.2 to 0.6;
    with fewer contributions than `agree`, all of them must agree.
    """
    coefficients = as_sum(weights)
    total = weighted_sum(deltas, coefficients)
    votes = sum(
        (delta * c).abs() > threshold * (total - delta * c).abs() for delta, c in zip(deltas, coefficients, strict=True)
    )
    return total * (votes >= min(agree, len(deltas))) * scale
