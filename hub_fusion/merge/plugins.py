"""Merge methods that other distributions bring, through the entry point group `hub_fusion.merge_methods`.

    [project.entry-points."hub_fusion.merge_methods"]
    halfway = "my_package.halfway"

An entry point names a module, or a function in one, that is decorated with `@merge_method`; name it like its method, so
that an error can say who should have brought that. Loading runs the distribution's code, as importing it would: only
what is installed in this environment is ever loaded. One that fails never stops the others.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub_fusion.merge.method import MergeMethod

GROUP = "hub_fusion.merge_methods"
_tried: dict[tuple[str, str], str] = {}  # distribution, entry point → what is wrong with it, or nothing


def load(methods: dict[str, MergeMethod]) -> dict[str, str]:
    """Load every entry point of the group, each once, by distribution and name; entry point → what is wrong with it."""
    for point in sorted(entry_points(group=GROUP), key=lambda p: (_distribution(p), p.name)):
        brought_by = _distribution(point)
        if (brought_by, point.name) in _tried:
            continue
        before, wrong = set(methods), ""
        try:
            point.load()
        except Exception as error:  # a stranger's module may raise anything
            wrong = f"{type(error).__name__}: {error}"
        package = point.module.partition(".")[0]
        mine = [n for n, m in methods.items() if n not in before or m.formula.__module__.partition(".")[0] == package]
        for name in mine:
            methods[name] = replace(methods[name], plugin=brought_by)
        if not mine and not wrong:
            wrong = "it registers no method; decorate a function with @merge_method"
        note = f"the plug-in {brought_by} cannot bring {point.name!r}: {wrong}"
        _tried[brought_by, point.name] = note if wrong else ""
    return {name: note for (_, name), note in _tried.items() if note}


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "of an unknown distribution"
