"""What a merge method is to the engine: a formula, and the options, inputs and needs that it declares."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from hub_fusion.errors import MergeError

if TYPE_CHECKING:
    import torch

    from hub_fusion.merge.inputs import Stack

    Formula = Callable[..., torch.Tensor]
    Ranks = Callable[[int, Mapping[str, Any]], tuple[int, int]]  # elements, options → ranks [first, last) to keep
    Whole = bool | Callable[[Mapping[str, Any]], bool]  # options → whether all rows are needed at once

INPUTS = frozenset({"keep", "gram", "noise", "fisher", "activations"})
STATISTICS = frozenset({"fisher", "activations"})  # None where contributions brought none
PASSES = frozenset({"keep", "gram"})  # need every element of the tensor before the first result
SHARE, POSITIVE = (0.0, 1.0), (0.0, math.inf)
RANGES = {  # of options that mean the same in every method
    "alpha": SHARE, "beta": SHARE, "common": SHARE, "density": SHARE, "gamma": SHARE, "select": SHARE,
    "trim": (0.0, 0.5), "floor": POSITIVE, "ridge": POSITIVE, "cap": POSITIVE, "iterations": POSITIVE,
}  # fmt: skip


@dataclass(frozen=True)
class MergeMethod:
    """A registered formula with what the engine needs to know about it."""

    name: str
    title: str
    source: str
    judged: Literal["base", "seen-task"]
    formula: Formula
    whole: bool = False  # sees all rows at once; with some options only, where `whole_for` is given
    whole_for: Callable[[Mapping[str, Any]], bool] | None = None
    by_rows: bool = False
    ranks: Ranks | None = None
    signed: bool = False  # takes negative weights; they are then divided by the sum of their magnitudes
    aliases: tuple[str, ...] = ()
    one_by_one: bool = False  # takes an `inputs.Stack` of deltas and activations
    plugin: str = ""  # the distribution that brought it

    @property
    def options(self) -> dict[str, Any]:
        """Option → default."""
        return {p.name: p.default for p in self._keywords() if p.default is not p.empty}

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Option → its possible values, of those annotated with Literal."""
        return {p.name: values for p in self._keywords() if (values := _literal(p.annotation))}

    @property
    def inputs(self) -> frozenset[str]:
        """What the engine must make for it: of keep, gram, noise, fisher, activations."""
        return frozenset(p.name for p in self._keywords() if p.default is p.empty)

    @property
    def one_pass(self) -> bool:
        """Whether every element of the deltas is needed only once: no threshold and no Gram matrix comes first."""
        return not self.inputs & PASSES

    def _keywords(self) -> list[inspect.Parameter]:
        return _keywords(self.formula)

    def bind(self, options: Mapping[str, Any]) -> BoundMethod:
        """The formula with its options set. Raises MergeError for an unknown option or a value it cannot have."""
        known, choices = self.options, self.choices
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
                raise MergeError(f"merge method {self.name!r} has no option {name!r}; {hint}")
            if name in choices and value not in choices[name]:
                values = ", ".join(map(str, choices[name]))
                raise MergeError(f"option {name!r} of {self.name!r} is one of {values}, not {value!r}")
            if not _is_like(value, known[name]):
                raise MergeError(f"option {name!r} of {self.name!r} is like {known[name]!r}, not {value!r}")
        for name, (low, high) in RANGES.items():
            if name in options and not low <= options[name] <= high:
                bounds = f"between {low:g} and {high:g}" if math.isfinite(high) else f"at least {low:g}"
                raise MergeError(f"option {name!r} of {self.name!r} is {bounds}, not {options[name]!r}")
        whole = self.whole_for(known | dict(options)) if self.whole_for else self.whole
        return BoundMethod(replace(self, whole=whole), dict(options))


@dataclass(frozen=True)
class BoundMethod:
    """A method with its options set; calling it applies the formula. ``method.whole`` is that of these options."""

    method: MergeMethod
    options: dict[str, Any]  # those that were given

    def __call__(
        self, deltas: torch.Tensor | Stack, weights: torch.Tensor, **inputs: torch.Tensor | Stack | None
    ) -> torch.Tensor:
        """The merged delta; `inputs` are those that ``method.inputs`` names, statistics only if there are any.

        Raises MergeError for a result of another shape, and for whatever a plug-in's method raises.
        """
        absent, method = dict.fromkeys(self.method.inputs & STATISTICS), self.method
        who = f"merge method {method.name!r}" + (f" of {method.plugin}" if method.plugin else "")
        try:
            merged = method.formula(deltas, weights, **absent | inputs, **self.options)
        except Exception as error:
            if not method.plugin or isinstance(error, MergeError):
                raise
            raise MergeError(f"{who} cannot merge {list(deltas.shape)}: {type(error).__name__}: {error}") from error
        shape = getattr(merged, "shape", None)
        if shape != deltas.shape[1:]:
            given = type(merged).__name__ if shape is None else list(shape)
            raise MergeError(f"{who} must give {list(deltas.shape[1:])}, not {given}")
        return merged

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All options, with their defaults where none were given."""
        return self.method.options | self.options

    def ranks(self, size: int) -> tuple[int, int]:
        """Of `size` elements, the ranks [first, last) of magnitude to keep; rank 0 is the largest."""
        assert self.method.ranks is not None
        first, last = self.method.ranks(size, self.settings)
        return max(first, 0), min(max(last, first), size)


def _is_like(value: Any, default: Any) -> bool:
    """Whether an option's value is of its default's type; whole numbers are fractions too, None stands for any type."""
    if isinstance(default, float):
        return type(value) in (int, float) and math.isfinite(value)
    return default is None or type(value) is type(default)


@cache
def _keywords(formula: Formula) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(formula).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _literal(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, which is a string in modules that postpone annotations; of anything else none."""
    if not isinstance(annotation, str):
        return tuple(get_args(annotation)) if getattr(annotation, "__origin__", None) is Literal else ()
    match = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", annotation)
    return tuple(ast.literal_eval(f"({match[1]},)")) if match else ()
