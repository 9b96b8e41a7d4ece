"""Early stopping: train while accuracy on a part of the training examples rises, and keep the best model of all looks.

The part is split off by the seed, so that every checkpoint is stopped by the same examples; test parts are never looked
at. The learning rate falls as if training went on to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.recipe import EarlyStopping

if TYPE_CHECKING:
    import torch


def split_dev(examples: int, stop: EarlyStopping, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows to train on and rows to stop by, of `examples` (at least 2); neither is empty.

    Example: of 100 with share 0.1, 90 and 10 rows.
    """
    size = min(max(round(examples * stop.share), 1), stop.at_most, examples - 1)
    order = np.random.default_rng([seed, examples, 1]).permutation(examples)
    return np.sort(order[size:]), np.sort(order[:size])


class Watch:
    """Looks at a model every so many examples; `accuracy` measures it on the part that was split off."""

    def __init__(self, stop: EarlyStopping, epoch: int, accuracy: Callable[[], float]) -> None:
        self.stop, self.accuracy = stop, accuracy
        self.every = stop.every or epoch
        self._next, self._waited = self.every, 0
        self._best, self._reference = -1.0, -1.0
        self._kept: dict[str, torch.Tensor] = {}

    def enough(self, model: torch.nn.Module, shown: int) -> bool:
        """Whether `patience` looks in a row have gained less than `min_gain`; looks if `shown` examples are due one."""
        if shown < self._next:
            return False
        self._next += self.every * -(-(shown - self._next + 1) // self.every)
        now = self.accuracy()
        if now > self._best:
            self._best = now
            self._kept = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
        if now >= self._reference + self.stop.min_gain:
            self._reference, self._waited = now, 0
        else:
            self._waited += 1
        return self._waited >= self.stop.patience

    def restore(self, model: torch.nn.Module) -> None:
        """Give the model the weights of the best look, the first of equally good ones; nothing without a look."""
        if self._kept:
            model.load_state_dict(self._kept)
