"""Merge methods: one pure function a file, registered by `@merge_method`.

A method sees some rows of one tensor of all contributions, stacked first in canonical order: ``deltas`` float32 of
shape (contributions, rows, …), ``weights`` float32 of shape (contributions,) adding up to 1. It returns the merged
delta of shape (rows, …). It never sees names, files, devices or the Hub.

The signature is the schema. Keyword-only arguments with defaults are the recipe's options; those without are inputs
that the engine makes for it (see `inputs.py`):

* ``keep`` bool like ``deltas``: the elements whose magnitude has one of the ranks that the method's `ranks` names;
* ``gram`` float64 (contributions, contributions): inner products of the deltas over the *whole* tensor;
* ``noise`` float32 like ``deltas``, uniform in [0, 1): the same for the same seed, tensor, contribution and element.

A method with `whole=True` sees all rows at once, at the price of memory for contributions × tensor; one with
`by_rows=True` never sees a part of a row along the last dimension.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal

from hub_fusion.errors import MergeError

if TYPE_CHECKING:
    import torch

    Formula = Callable[..., torch.Tensor]
    Ranks = Callable[[int, Mapping[str, Any]], tuple[int, int]]  # elements, options → ranks [first, last) to keep

INPUTS = frozenset({"keep", "gram", "noise"})
RANGES = {"density": (0.0, 1.0), "trim": (0.0, 0.5)}  # of options that mean the same in every method


@dataclass(frozen=True)
class MergeMethod:
    """A registered formula with what the engine needs to know about it."""

    name: str
    title: str
    source: str
    judged: Literal["base", "seen-task"]
    formula: Formula
    whole: bool = False
    by_rows: bool = False
    ranks: Ranks | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Option → default."""
        return {p.name: p.default for p in self._keywords() if p.default is not p.empty}

    @property
    def inputs(self) -> frozenset[str]:
        """What the engine must make for it: of keep, gram, noise."""
        return frozenset(p.name for p in self._keywords() if p.default is p.empty)

    def _keywords(self) -> list[inspect.Parameter]:
        return [p for p in inspect.signature(self.formula).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def bind(self, options: Mapping[str, Any]) -> BoundMethod:
        """The formula with its options set. Raises MergeError for an unknown option or a value of another type."""
        known = self.options
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
                raise MergeError(f"merge method {self.name!r} has no option {name!r}; {hint}")
            if not _is_like(value, known[name]):
                raise MergeError(f"option {name!r} of {self.name!r} is like {known[name]!r}, not {value!r}")
        for name, (low, high) in RANGES.items():
            if name in options and not low <= options[name] <= high:
                given = options[name]
                raise MergeError(f"option {name!r} of {self.name!r} is between {low:g} and {high:g}, not {given!r}")
        return BoundMethod(self, dict(options))


@dataclass(frozen=True)
class BoundMethod:
    """A method with its options set; calling it applies the formula."""

    method: MergeMethod
    options: dict[str, Any]

    def __call__(self, deltas: torch.Tensor, weights: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """The merged delta; `inputs` are those that ``method.inputs`` names."""
        return self.method.formula(deltas, weights, **inputs, **self.options)

    def ranks(self, size: int) -> tuple[int, int]:
        """Of `size` elements of a tensor, the ranks [first, last) of magnitude to keep; rank 0 is the largest."""
        assert self.method.ranks is not None
        first, last = self.method.ranks(size, self.method.options | self.options)
        return max(first, 0), min(max(last, first), size)


def _is_like(value: Any, default: Any) -> bool:
    """Whether an option's value is of its default's type; whole numbers are fractions too, None stands for any type."""
    if isinstance(default, float):
        return type(value) in (int, float) and math.isfinite(value)
    return default is None or type(value) is type(default)


_METHODS: dict[str, MergeMethod] = {}


def merge_method(
    title: str, *, source: str, judged: Literal["base", "seen-task"], whole: bool = False, by_rows: bool = False,
    ranks: Ranks | None = None,
) -> Callable[[Formula], Formula]:  # fmt: skip
    """Register a formula under its function's name. Raises MergeError if it asks for an input that does not exist."""

    def register(formula: Formula) -> Formula:
        method = MergeMethod(formula.__name__, title, source, judged, formula, whole, by_rows, ranks)
        unknown = method.inputs - INPUTS
        if unknown or ("keep" in method.inputs) != (ranks is not None):
            raise MergeError(
                f"merge method {method.name!r} asks for {sorted(unknown) or sorted(method.inputs)}; there are "
                f"{sorted(INPUTS)}, and keep needs ranks. An option has a default"
            )
        _METHODS[formula.__name__] = method
        return formula

    return register


def merge_methods() -> dict[str, MergeMethod]:
    """All methods by name."""
    for module in iter_modules(__path__):
        if module.name in ("inputs", "parts"):
            continue
        import_module(f"{__name__}.{module.name}")
    return dict(sorted(_METHODS.items()))


def find_method(name: str) -> MergeMethod:
    """A method by name. Raises MergeError listing the known ones."""
    methods = merge_methods()
    if name not in methods:
        raise MergeError(f"there is no merge method {name!r}; there are {', '.join(methods)}")
    return methods[name]
