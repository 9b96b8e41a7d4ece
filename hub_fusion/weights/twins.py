"""Compiled twins of torch formulas, for the CPU: the same bytes without torch (tests hold them together).

A twin gets the deltas, float32 (contributions, elements), which it may overwrite, and what the engine knows about the
tensor; it fills `out`, float32 (elements,). Methods without a twin run as the torch function that defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hub_fusion.merge import BoundMethod
from hub_fusion.weights import kernels, strips
from hub_fusion.weights.cuts import Cut
from hub_fusion.weights.tensors import COMPILED_ELEMENTS, SUM_ELEMENTS, TORCH_ELEMENTS


@dataclass(frozen=True)
class Around:
    """Where a block lies: the index of its first element in the tensor, and what was found out about the tensor."""

    first: int
    cuts: Sequence[tuple[Cut, Cut]] = ()  # of every contribution: those before the first cut go, then up to the second
    keys: Sequence[tuple[int, int]] = ()  # of every contribution's noise


Twin = Callable[[np.ndarray, np.ndarray, Around, Mapping[str, Any], np.ndarray], None]
_TWINS: dict[str, tuple[Twin, Mapping[str, tuple[Any, ...]]]] = {}


def _twin(name: str, **only: tuple[Any, ...]) -> Callable[[Twin], Twin]:
    """Register the twin of a method; `only` are the values of options that it covers."""

    def register(twin: Twin) -> Twin:
        _TWINS[name] = twin, only
        return twin

    return register


@dataclass(frozen=True)
class Strips:
    """How strips.fuse_strips computes a method."""

    kind: int
    weights: Callable[[np.ndarray], np.ndarray]
    density: float = 1.0
    scale: float = 1.0


def find_strips(formula: BoundMethod) -> Strips | None:
    """The parameters of the compiled way through whole blocks, for the methods that have one."""
    options = formula.settings
    density, scale = options.get("density", 1.0), options.get("scale", 1.0)
    name = formula.method.name
    if find_twin(formula) is None or not density:
        return None
    if name == "mean":
        return Strips(strips.LINEAR, lambda weights: weights)
    if name == "task_arithmetic":
        return Strips(strips.LINEAR, partial(_as_sum, scale=scale))
    kind = {"ties": strips.TIES, "dare": strips.DARE, "dare_ties": strips.DARE_TIES}.get(name)
    return None if kind is None else Strips(kind, lambda weights: weights, density, scale)


def _as_sum(weights: np.ndarray, scale: float) -> np.ndarray:
    """Coefficients of a sum rather than a mean, as merge.parts has them."""
    coefficients: np.ndarray = weights * np.float32(len(weights)) * np.float32(scale)
    return coefficients


def block_elements(formula: BoundMethod) -> int:
    """How many elements of all contributions together a block has on the CPU."""
    whole = find_strips(formula)
    if whole and whole.kind == strips.LINEAR:
        return SUM_ELEMENTS
    return COMPILED_ELEMENTS if find_twin(formula) else TORCH_ELEMENTS


def find_twin(formula: BoundMethod) -> Twin | None:
    """The twin of a method with these options, if there is one."""
    found = _TWINS.get(formula.method.name)
    if found is None:
        return None
    twin, only = found
    options = formula.settings
    return twin if all(options.get(name, values[0]) in values for name, values in only.items()) else None


@_twin("mean")
def _mean(deltas: np.ndarray, weights: np.ndarray, around: Around, options: Mapping[str, Any], out: np.ndarray) -> None:
    kernels.weighted_sum(deltas, weights, out)


@_twin("task_arithmetic")
def _task_arithmetic(
    deltas: np.ndarray, weights: np.ndarray, around: Around, options: Mapping[str, Any], out: np.ndarray
) -> None:
    kernels.weighted_sum(deltas, _as_sum(weights, options["scale"]), out)


@_twin("ties", votes=("total",), divisor=("weights",))
def _ties(deltas: np.ndarray, weights: np.ndarray, around: Around, options: Mapping[str, Any], out: np.ndarray) -> None:
    for delta, (lead, last) in zip(deltas, around.cuts, strict=True):
        for cut, inside in ((last, True), (lead, False)):
            index = min(max(cut.index - around.first, 0), len(delta))
            if cut != (Cut.ALL if inside else Cut.NONE):
                kernels.trim(delta, np.int32(cut.bits), index, inside)
    kernels.mean_of_agreeing(deltas, weights, np.float32(options["scale"]), out)


def _drop(deltas: np.ndarray, around: Around, density: float) -> None:
    """DARE's random dropping, in place."""
    if not density:
        deltas[:] = 0
        return
    for delta, (key0, key1) in zip(deltas, around.keys, strict=True):
        start, first = 0, around.first
        while start < len(delta):  # a block may cross a multiple of 2³²
            stop = min(len(delta), start + 2**32 - (first & 0xFFFFFFFF))
            kernels.drop(delta[start:stop], np.uint32(first & 0xFFFFFFFF), np.uint32(first >> 32), np.uint32(key0),
                         np.uint32(key1), np.float32(density))  # fmt: skip
            first, start = first + stop - start, stop


@_twin("dare", rescale=("density",))
def _dare(deltas: np.ndarray, weights: np.ndarray, around: Around, options: Mapping[str, Any], out: np.ndarray) -> None:
    _drop(deltas, around, options["density"])
    kernels.weighted_sum(deltas, weights, out)
    out *= np.float32(options["scale"])


@_twin("dare_ties", rescale=("density",), votes=("total",), divisor=("weights",))
def _dare_ties(
    deltas: np.ndarray, weights: np.ndarray, around: Around, options: Mapping[str, Any], out: np.ndarray
) -> None:
    _drop(deltas, around, options["density"])
    kernels.mean_of_agreeing(deltas, weights, np.float32(options["scale"]), out)
