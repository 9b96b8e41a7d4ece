"""Parts of a record that say how the candidate was chosen and how the task vectors lie to each other."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

from fields import Malformed, clean, finite, needed, number, rows, some, text, whole
from lineage import Analysis, Rule, Score, Trial

MOST_VECTORS = 128  # rows and columns of a table of cosines
MOST_LAYERS = 2000


def read_rule(data: Mapping[str, Any]) -> Rule:
    """A rule of the gate. Raises Malformed."""
    change, allowed = number(data, "change"), number(data, "allowed")
    if change is None or allowed is None or not isinstance(data.get("passed"), bool):
        raise Malformed("a rule has no change, no allowed loss or does not say whether it was passed")
    return Rule(needed(data, "name", 20), text(data, "against", 20), text(data, "task", 60), data["passed"], change,
                number(data, "low"), number(data, "high"), allowed)  # fmt: skip


def read_trial(data: Mapping[str, Any]) -> Trial:
    """A measurement on the way to the candidate. Raises Malformed."""
    step, candidate = number(data, "step"), number(data, "candidate")
    if step is None or candidate is None:
        raise Malformed("a trial has no step or no result")
    change = some(data, "change")
    mean, low, high = (number(change, part) for part in ("mean", "low", "high"))
    known = None if mean is None or low is None or high is None else Score(mean, low, high)
    return Trial(needed(data, "kind", 20), text(data, "contribution", 300), whole(data, "members") or 0, step,
                 candidate, known, data.get("accepted") is True)  # fmt: skip


def read_analysis(data: Mapping[str, Any]) -> Analysis | None:
    """The tables over the contributions and the drift by layer; None where there are none. Raises Malformed."""
    if not data:
        return None
    names = tuple(clean(name, 300) for name in rows(data, "contributions") if isinstance(name, str))
    drift = list(some(data, "drift").items())[:MOST_LAYERS]
    small = len(names) <= MOST_VECTORS
    return Analysis(
        contributions=names if small else (),
        cosines=_table(data, "cosines", len(names)) if small else (),
        opposed=_table(data, "opposed", len(names)) if small else (),
        spectrum=_numbers(rows(data, "spectrum")[:MOST_VECTORS], "spectrum"),
        directions=number(data, "directions") or 0.0,
        drift={clean(layer, 120): finite(value, "a drift") for layer, value in drift},
    )


def _table(data: Mapping[str, Any], name: str, size: int) -> tuple[array[float], ...]:
    """A square table with numbers from −1 to 1, or none."""
    table = tuple(_numbers(row, name) for row in rows(data, name))
    if table and (len(table) != size or any(len(row) != size for row in table)):
        raise Malformed(f"its {name} are not a table of {size} by {size}")
    if any(max(row) > 1.001 or min(row) < -1.001 for row in table):
        raise Malformed(f"its {name} are not all from -1 to 1")
    return table


def _numbers(values: Any, name: str) -> array[float]:
    """As an array, since lists of so many numbers would fill the memory."""
    try:
        found = array("d", values if isinstance(values, list) else "?")
    except (TypeError, OverflowError):
        raise Malformed(f"its {name} are not lists of numbers") from None
    if not all(map(math.isfinite, found)):
        raise Malformed(f"its {name} are not all finite")
    return found
