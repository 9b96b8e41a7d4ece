"""Merge methods: one pure function a file, registered by `@merge_method`.

A method sees one tensor (or, where it is elementwise, any flat slice of one) of all contributions, stacked first in
canonical order: ``deltas`` float32 of shape (contributions, *shape), ``weights`` float32 of shape (contributions,)
adding up to 1. It returns the merged delta of shape ``shape``. It never sees names, files, devices or the Hub.
Keyword-only arguments with defaults are the recipe's options: the signature is the schema.
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


@dataclass(frozen=True)
class MergeMethod:
    """A registered formula with what the engine needs to know about it."""

    name: str
    title: str
    source: str
    judged: Literal["base", "seen-task"]
    formula: Formula

    @property
    def options(self) -> dict[str, Any]:
        """Option → default."""
        parameters = inspect.signature(self.formula).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def bind(self, options: Mapping[str, Any]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The formula with its options set. Raises MergeError for an unknown option or a value of another type."""
        known = self.options
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
                raise MergeError(f"merge method {self.name!r} has no option {name!r}; {hint}")
            if not _is_like(value, known[name]):
                raise MergeError(f"option {name!r} of {self.name!r} is like {known[name]!r}, not {value!r}")
        return lambda deltas, weights: self.formula(deltas, weights, **options)


def _is_like(value: Any, default: Any) -> bool:
    """Whether an option's value is of its default's type; whole numbers are fractions too, None stands for any type."""
    if isinstance(default, float):
        return type(value) in (int, float) and math.isfinite(value)
    return default is None or type(value) is type(default)


_METHODS: dict[str, MergeMethod] = {}


def merge_method(title: str, *, source: str, judged: Literal["base", "seen-task"]) -> Callable[[Formula], Formula]:
    """Register a formula under its function's name."""

    def register(formula: Formula) -> Formula:
        _METHODS[formula.__name__] = MergeMethod(formula.__name__, title, source, judged, formula)
        return formula

    return register


def merge_methods() -> dict[str, MergeMethod]:
    """All methods by name."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return dict(sorted(_METHODS.items()))


def find_method(name: str) -> MergeMethod:
    """A method by name. Raises MergeError listing the known ones."""
    methods = merge_methods()
    if name not in methods:
        raise MergeError(f"there is no merge method {name!r}; there are {', '.join(methods)}")
    return methods[name]
