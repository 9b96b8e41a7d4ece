"""Drop and rescale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hub_fusion.merge import merge_method
from hub_fusion.merge.parts import mean_of_agreeing, restore_norm, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import torch


def by_norm(options: Mapping[str, Any]) -> bool:
    """Whether the norm of the whole tensor is kept, which takes all of its rows at once."""
    return bool(options["rescale"] == "norm")


@merge_method(
    "DARE", source="https://arxiv.org/abs/2311.03099", judged="seen-task", whole=by_norm, aliases=("dare_linear",)
)
def dare(
    deltas: torch.Tensor, weights: torch.Tensor, *, noise: torch.Tensor, density: float = 0.1, scale: float = 1.0,
    rescale: Literal["density", "norm"] = "density",
) -> torch.Tensor:  # fmt: skip
    """The mean of task vectors of which a random `density` stays, divided by it (Yu et al. 2023), times `scale`.

    The drop rate 1 − density is 0.9, which the paper found harmless for finetunes whose changes are small. The expected
    value is the mean. The authors divide by the density; mergekit keeps each tensor's L1 norm, rescale "norm", which
    takes whole tensors in memory.
    Example: delta [2, 4] with noise [0.05, 0.7] and density 0.1 gives [20, 0]; with rescale "norm" [6, 0].
    """
    return weighted_sum(_drop(deltas, noise, density, rescale), weights) * scale


@merge_method("DARE-TIES", source="https://arxiv.org/abs/2311.03099", judged="seen-task", whole=by_norm)
def dare_ties(
    deltas: torch.Tensor, weights: torch.Tensor, *, noise: torch.Tensor, density: float = 0.1, scale: float = 1.0,
    rescale: Literal["density", "norm"] = "density", votes: Literal["total", "frequency"] = "total",
    divisor: Literal["weights", "count", "none"] = "weights",
) -> torch.Tensor:  # fmt: skip
    """DARE's random dropping in place of TIES' trimming (Yu et al. 2023), times `scale`.

    Sign election, and the mean of those that agree, as in `ties`; `rescale` as in `dare`.
    """
    return mean_of_agreeing(_drop(deltas, noise, density, rescale), weights, votes, divisor) * scale


def _drop(deltas: torch.Tensor, noise: torch.Tensor, density: float, rescale: str) -> torch.Tensor:
    import torch

    if rescale == "norm":
        return restore_norm(torch.where(noise < density, deltas, 0.0), deltas)
    return torch.where(noise < density, deltas / density, 0.0) if density else torch.zeros_like(deltas)
