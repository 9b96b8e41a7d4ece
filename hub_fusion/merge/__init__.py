"""Merge methods: one pure function a file, registered by `@merge_method`.

A method sees some rows of one tensor of all contributions, stacked first in canonical order: ``deltas`` float32 of
shape (contributions, rows, …), ``weights`` float32 of shape (contributions,) adding up to 1. It returns the merged
delta of shape (rows, …). It never sees names, files, devices or the Hub.

The signature is the schema. Keyword-only arguments with defaults are the recipe's options; one annotated
``Literal["a", "b"]`` takes no other values. Those without defaults are inputs that the engine makes for it:

* ``keep`` bool like ``deltas``: the elements whose magnitude has one of the ranks that the method's `ranks` names,
  among those of the tensor, or of the contribution's whole task vector where the option ``within`` is "model";
* ``gram`` float64 (contributions, contributions): inner products of the deltas over the *whole* tensor;
* ``noise`` float32 like ``deltas``, uniform in [0, 1): the same for the same seed, tensor, contribution and element;
* ``fisher`` float32 like ``deltas``: diagonals of the Fisher information, each contribution's divided by the L2 norm
  over its whole model; None unless every contribution has one for this tensor;
* ``activations`` float32 (contributions, columns, columns): XᵀX/n of a linear layer's inputs; None likewise.

A method with ``whole=True`` (or a function of the options that says so) sees all rows at once, at the price of memory
for contributions × tensor; one with ``by_rows=True`` never sees a part of a row along the last dimension. One with
``one_by_one=True`` needs one contribution at a time of a tensor that has ``activations``: there both come as an
`inputs.Stack`, which makes them as it is gone through, so that memory does not grow with the contributions. One with
``signed=True`` takes negative weights: they are divided by the sum of their magnitudes and need not add up to 1.

Other distributions bring methods through the entry point group `hub_fusion.merge_methods` (see `plugins.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal

from hub_fusion.errors import MergeError
from hub_fusion.merge.method import INPUTS, BoundMethod, MergeMethod

if TYPE_CHECKING:
    from hub_fusion.merge.method import Formula, Ranks, Whole

__all__ = ["BoundMethod", "MergeMethod", "broken_plugins", "find_method", "merge_method", "merge_methods"]

_METHODS: dict[str, MergeMethod] = {}


def merge_method(
    title: str, *, source: str, judged: Literal["base", "seen-task"], whole: Whole = False, by_rows: bool = False,
    ranks: Ranks | None = None, signed: bool = False, aliases: tuple[str, ...] = (), one_by_one: bool = False,
) -> Callable[[Formula], Formula]:  # fmt: skip
    """Register a formula under its function's name.

    Raises MergeError if it asks for an input that does not exist, or if the name or an alias is taken.
    """

    def register(formula: Formula) -> Formula:
        always, depends = (False, whole) if callable(whole) else (whole, None)
        method = MergeMethod(
            formula.__name__,
            title,
            source,
            judged,
            formula,
            always,
            depends,
            by_rows,
            ranks,
            signed,
            aliases,
            one_by_one=one_by_one,
        )
        unknown = method.inputs - INPUTS
        if unknown or ("keep" in method.inputs) != (ranks is not None):
            raise MergeError(
                f"merge method {method.name!r} asks for {sorted(unknown) or sorted(method.inputs)}; there are "
                f"{sorted(INPUTS)}, and keep needs ranks. An option has a default"
            )
        if not formula.__module__.startswith(f"{__name__}."):
            _load_own()  # so that nobody takes the name of one that was not imported yet
        taken = _taken()
        for name in (method.name, *aliases):
            if name in taken and _home(taken[name].formula) != _home(formula):
                raise MergeError(f"the name {name!r} is that of {taken[name].title} already; choose another one")
        _METHODS[method.name] = method
        return formula

    return register


def merge_methods() -> dict[str, MergeMethod]:
    """All methods by name, those of plug-ins too."""
    from hub_fusion.merge import plugins

    _load_own()
    plugins.load(_METHODS)
    return dict(sorted(_METHODS.items()))


def find_method(name: str) -> MergeMethod:
    """A method by name or alias; plug-ins are loaded only for a name that is not built in.

    Raises MergeError listing the known ones, or naming the distribution that should have brought it and could not.
    """
    _load_own()
    if name not in (known := _taken()):
        methods = merge_methods()
        known = _taken()
        broken = broken_plugins()
        if name not in known and name in broken:
            raise MergeError(broken[name])
        if name not in known:
            notes = "".join(f"; {note}" for note in broken.values())
            raise MergeError(f"there is no merge method {name!r}; there are {', '.join(methods)}{notes}")
    return known[name]


def broken_plugins() -> dict[str, str]:
    """Entry point → why its method is not there, naming the distribution."""
    from hub_fusion.merge import plugins

    _load_own()
    return plugins.load(_METHODS)


def _load_own() -> None:
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


def _taken() -> dict[str, MergeMethod]:
    """Every name and alias."""
    return {name: method for method in _METHODS.values() for name in (method.name, *method.aliases)}


def _home(formula: Formula) -> tuple[str, str]:
    return formula.__module__, formula.__name__
