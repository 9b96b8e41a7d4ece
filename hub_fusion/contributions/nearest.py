"""Which generation a finetune started from, measured on a few slices of its tensors: kilobytes, whatever its size.

A finetune lies near its origin: what it learned has little to do with where the base went meanwhile. Take the line from
one generation to another; the finetune, projected onto it, lies at 0 if it started from the first and at 1 if it
started from the second, give or take chance, which the number of weights makes small. A slice votes for the generation
from which the projections towards all others stay below the middle by four standard errors, if there is one; the
origin is what all slices that vote agree on. Slices that training never touched (rows of tokens that did not occur,
frozen layers) are equal to the origin's, and are sure. Not covered: adapters, whose factors tell nothing of the weights
beneath; generations that do not differ in the slices; a finetune that learned just what the base learned after its
origin.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import HubError, HubUnreachable, WeightsError
from hub_fusion.records import Contribution
from hub_fusion.weights.checkpoint import FLOATS, ITEM_BYTES, TensorSpec
from hub_fusion.weights.codec import STORED, widen
from hub_fusion.weights.kinds import is_parameter, kind_of
from hub_fusion.weights.names import match_names
from hub_fusion.weights.remote import checkpoint_headers
from hub_fusion.weights.vocabulary import with_rows_of

if TYPE_CHECKING:
    import numpy as np

    from hub_fusion.hub import Hub

SLICES, ELEMENTS = 8, 8192  # 256 kB of a checkpoint in float32
MOST = 12  # generations that are compared: those nearest to what card or date say
ERRORS = 4.0
Slice = tuple[str, int, int]  # a tensor of the base, the first of its elements and how many


@dataclass
class Nearest:
    """Slices of the generations of a base, read as they are needed. `commits`: generation → commit."""

    hub: Hub
    base: str
    commits: Mapping[int, str]
    _specs: dict[int, dict[str, TensorSpec]] = field(default_factory=dict, init=False)
    _values: dict[int, list[np.ndarray]] = field(default_factory=dict, init=False)

    def generation(self, c: Contribution, guess: int, possible: Collection[int]) -> int | None:
        """The one of the `possible` generations that a finetune certainly started from; `guess` says where to look
        first, and of equal ones which. None where the weights do not tell, or cannot be read. Raises HubUnreachable.

        A generation that holds the finetune's own change is as near to it as its origin, so it is not `possible`.
        """
        if c.relation != "finetune" or len(possible) < 2:
            return None
        near = sorted(possible, key=lambda number: (abs(number - guess), number))[:MOST]
        try:
            theirs = self._of(c)
            return nearest(theirs, {number: self._of_generation(number) for number in near})
        except HubUnreachable:
            raise
        except (HubError, WeightsError, KeyError):
            return None  # the screen reads the same headers and refuses it with a reason

    def _of(self, c: Contribution) -> list[np.ndarray]:
        specs = checkpoint_headers(self.hub, c.repo, c.sha)
        names = match_names(self._smallest(), specs).names
        return _read(self.hub, c.repo, c.sha, specs, [(names[name], at, n) for name, at, n in self._slices()])

    def _of_generation(self, number: int) -> list[np.ndarray]:
        if number not in self._values:
            slices = self._slices()
            self._values[number] = _read(self.hub, self.base, self.commits[number], self._spec(number), slices)
        return self._values[number]

    def _spec(self, number: int) -> dict[str, TensorSpec]:
        if number not in self._specs:
            self._specs[number] = checkpoint_headers(self.hub, self.base, self.commits[number])
        return self._specs[number]

    def _smallest(self) -> dict[str, TensorSpec]:
        """The newest one's tensors, with no more tokens than the root has."""
        return with_rows_of(self._spec(max(self.commits)), self._spec(min(self.commits)))

    def _slices(self) -> list[Slice]:
        """A slice of each of some tensors of the body, spread over the model as its weights are."""
        specs = self._smallest()
        body = [s for n, s in specs.items() if kind_of(n) == "body" and is_parameter(s) and s.dtype in FLOATS]
        ends, total = [], 0
        for spec in body:
            total += prod(spec.shape)
            ends.append(total)
        chosen: dict[str, Slice] = {}
        for number in range(SLICES):
            middle = total * (2 * number + 1) // (2 * SLICES)
            spec, end = next((s, e) for s, e in zip(body, ends, strict=True) if e > middle)
            size = prod(spec.shape)
            count = min(ELEMENTS, size)
            chosen.setdefault(spec.name, (spec.name, min(middle - (end - size), size - count), count))
        return list(chosen.values())


def _read(hub: Hub, repo: str, sha: str, specs: Mapping[str, TensorSpec], slices: list[Slice]) -> list[np.ndarray]:
    """These slices as float64. Raises WeightsError for tensors that are too short, no floats or not finite."""
    import numpy as np

    parts = []
    for name, first, count in slices:
        spec = specs[name]
        if spec.dtype not in FLOATS or prod(spec.shape) < first + count:
            raise WeightsError(f"{repo}@{sha[:8]}: {name} is not as in the base")
        item = ITEM_BYTES[spec.dtype]
        begin = spec.start + first * item
        raw: Any = np.frombuffer(hub.read_range(repo, spec.file, sha, begin, begin + count * item), STORED[spec.dtype])
        values = widen(raw, spec.dtype).astype(np.float64)
        if len(raw) != count or not np.isfinite(values).all():
            raise WeightsError(f"{repo}@{sha[:8]}/{spec.file} ends before {name} does, or holds NaN or infinity")
        parts.append(values)
    return parts


def nearest(theirs: list[np.ndarray], generations: Mapping[int, list[np.ndarray]]) -> int | None:
    """What all slices agree on that are sure of anything; of generations with equal slices the first."""
    found = {_vote(slice, {number: slices[i] for number, slices in generations.items()})
             for i, slice in enumerate(theirs)} - {None}  # fmt: skip
    return found.pop() if len(found) == 1 else None


def _vote(slice: np.ndarray, generations: Mapping[int, np.ndarray]) -> int | None:
    """The generation from which every other one certainly lies beyond the middle; the first of equal ones."""
    distances = {number: float(((slice - values) ** 2).sum()) for number, values in generations.items()}
    best = min(distances, key=lambda number: distances[number])  # of equal ones the first
    residual, told = slice - generations[best], False
    for values in generations.values():
        step = values - generations[best]
        length = float((step**2).sum())
        if length == 0:
            continue  # itself, or one with the same weights there
        told = True
        along = float((residual * step).sum()) / length
        error = sqrt(float(((residual * step) ** 2).sum())) / length
        if along + ERRORS * error >= 0.5:
            return None
    return best if told else None
