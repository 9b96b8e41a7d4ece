"""Parts of a record that say how the candidate was chosen and how the task vectors lie to each other."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

from fields import Malformed, clean, finite, needed, number, rows, some, text, whole
from lineage import LIKELIHOODS, Analysis, Canary, Contamination, Line, Retained, Rule, Score, Trial

MOST_VECTORS = 128  # rows and columns of a table of cosines
MOST_LAYERS = 2000
MOST_POINTS = 200  # of a line
ROUNDED = 0.0001
SLACK = 0.001  # accuracies are rounded, so an interval may miss its mean by a little
LEAST = {"scores": 0.0, "differences": -1.0, "tasks": 0.0, "means": 0.0, "heads": 0.0}  # others: no bounds


def read_score(item: Mapping[str, Any], name: str) -> Score:
    """A mean with its interval; `name` says what is measured and so how far it can go. Raises Malformed."""
    mean, low, high = (number(item, part) for part in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        raise Malformed(f"{name} holds one without mean, low or high")
    if not low <= mean + SLACK <= high + 2 * SLACK:
        raise Malformed(f"{name} holds {mean:g} in [{low:g}, {high:g}], which is not low ≤ mean ≤ high")
    least = LEAST.get(name)
    if least is not None and not least - SLACK <= low <= high <= 1 + SLACK:
        raise Malformed(f"{name} holds {mean:g} in [{low:g}, {high:g}], which is not {least:g} ≤ low ≤ mean ≤ high ≤ 1")
    return Score(mean, low, high)


def read_rule(data: Mapping[str, Any]) -> Rule:
    """A rule of the gate. Raises Malformed."""
    change, allowed = number(data, "change"), number(data, "allowed")
    if change is None or allowed is None or not isinstance(data.get("passed"), bool):
        raise Malformed("a rule has no change, no allowed loss or does not say whether it was passed")
    return Rule(needed(data, "name", 20), text(data, "against", 20), text(data, "task", 60), data["passed"], change,
                number(data, "low"), number(data, "high"), allowed)  # fmt: skip


def read_canary(data: Mapping[str, Any]) -> Canary:
    """What became of a canary. Raises Malformed."""
    change, allowed = number(data, "change"), number(data, "allowed")
    if change is None or allowed is None or not isinstance(data.get("passed"), bool):
        raise Malformed("a canary has no change, no allowed loss or does not say whether it held")
    tripped = {name for name in rows(data, "tripped_by")[:1000] if isinstance(name, str)}
    return Canary(needed(data, "name", 64), data["passed"], change, allowed, len(tripped))


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


def read_line(data: Mapping[str, Any]) -> Line:
    """The line from the parent to the candidate: from 0 to 1, with the barrier of its own values. Raises Malformed."""
    protocol, barrier = needed(data, "protocol", 40), number(data, "barrier")
    at, values = ([finite(v, f"one of {n}") for v in rows(data, n)[:MOST_POINTS]] for n in ("at", "values"))
    if len(at) < 2 or len(at) != len(values) or (at[0], at[-1]) != (0.0, 1.0) or at != sorted(set(at)):
        raise Malformed("its line does not go from 0 to 1 with a value at each point")
    if protocol not in LIKELIHOODS and not all(0 <= v <= 1 for v in values):
        raise Malformed("its line has accuracies that are not from 0 to 1")
    deepest = max(values[0] + s * (values[-1] - values[0]) - v for s, v in zip(at, values, strict=True))
    if barrier is None or abs(barrier - deepest) > 2 * ROUNDED:
        raise Malformed(f"its line falls {deepest:g} below the chord, and its barrier is {barrier}")
    return Line(protocol, tuple(zip(at, values, strict=True)), barrier)


def read_left_out(data: Mapping[str, Any], *, in_nats: bool) -> tuple[str, Score]:
    """A contribution and the change without it, one of the `entries`. Raises Malformed."""
    return needed(data, "name", 300), read_score(some(data, "value"), "nats" if in_nats else "differences")


def read_retained(data: Mapping[str, Any]) -> Retained:
    """What became of a seen task. Raises Malformed."""
    protocol = needed(data, "protocol", 40)
    kind = "nats" if protocol in LIKELIHOODS else "differences"
    over = [read_score(some(data, name), kind) for name in ("over_parent", "over_root")]
    return Retained(text(data, "task", 60), protocol, *over)


def read_contamination(data: Mapping[str, Any], generation: int) -> Contamination:
    """A task that is not held out in `generation`. Raises Malformed."""
    named, since = rows(data, "contributions")[:20], whole(data, "since")
    since = generation if since is None else since
    if not 1 <= since <= generation:
        raise Malformed(f"a task is not held out since gen-{since}, which is no generation up to this one")
    return Contamination(needed(data, "task", 60), tuple(clean(n, 300) for n in named if isinstance(n, str)), since)


def listed(data: Mapping[str, Any], name: str) -> list[Any]:
    """The list called `name`, or what stands there as its only row, so that what cannot be read costs itself alone."""
    value = data.get(name)
    return value if isinstance(value, list) else [] if value is None else [value]


def entries(data: Mapping[str, Any], name: str) -> list[Any]:
    """The entries of the object called `name` as rows {name, value}; like `listed` for what is no object."""
    value = data.get(name)
    return [{"name": n, "value": v} for n, v in value.items()] if isinstance(value, dict) else listed(data, name)


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
