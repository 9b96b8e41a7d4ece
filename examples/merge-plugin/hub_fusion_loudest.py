"""A merge method in a package of its own: hub_fusion finds it by the entry point in pyproject.toml."""

import torch

from hub_fusion.merge import merge_method


@merge_method("Loudest", source="https://arxiv.org/abs/2405.17461", judged="seen-task")
def loudest(deltas: torch.Tensor, weights: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """For every element the change of the largest magnitude, + where two are equal, times `scale`.

    Weights do not count. Of EMR-Merging it is the elected magnitude, without an election of signs.
    Example: deltas [[3, −1], [1, −2]] give [3, −2].
    """
    highest, lowest = deltas.amax(dim=0), deltas.amin(dim=0)
    return torch.where(highest >= -lowest, highest, lowest) * scale
