"""ColD Fusion's average."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.merge import merge_method

if TYPE_CHECKING:
    import torch


@merge_method("Mean", source="https://arxiv.org/abs/2212.01378", judged="base", aliases=("linear",))
def mean(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted mean of the task vectors, Σ wᵢ·δᵢ with Σ wᵢ = 1; with equal weights the average of ColD Fusion.

    Don-Yehiya et al. 2022, section 3. Published implementations average the finetunes themselves. That is the same when
    all started from one generation; with task vectors a contribution that started from an earlier one stays useful.
    Relative weights (``--weights 2,1``) are divided by their sum before they arrive here: the weighted mean, "linear"
    in other tools, "uniform soup" with equal ones.
    Example: deltas [[2, 0], [4, 2]] with weights [½, ½] give [3, 1].
    """
    merged = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        merged.add_(delta * weight)
    return merged
