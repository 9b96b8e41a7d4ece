"""Numbers that are well-formed and hard to believe. They are shown, each with the reason for the doubt.

Published tables do hold such things: scores under another task's name, a difference that is not that of the scores.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from lineage import Attempt, Score, Unreadable

FAR = 0.25  # a change of a mean in one generation; real ones are a few points
OFF = 0.02  # between a paired difference and that of the two means
COLUMNS, APART, BETTER = 5, 0.05, 3.0  # see about_tasks


def about_attempt(attempt: Attempt, parent: Attempt | Unreadable | None) -> tuple[str, ...]:
    """What is odd about the scores beside those of the parent; of another suite nothing can be said."""
    if parent is None:
        return (f"its parent gen-{attempt.parent} is not in the index",)
    if isinstance(parent, Unreadable) or parent.suite != attempt.suite:
        return ()
    found = []
    for metric, score in attempt.scores.items():
        before, told = parent.scores.get(metric), attempt.differences.get(metric)
        if before is None:
            continue
        change = score.mean - before.mean
        what = f"{metric[1]} on the {metric[0]} examples"
        if abs(change) > FAR:
            found.append(f"{what} changed by {100 * change:+.1f} points, more than one generation can be expected to")
        if told is not None and abs(told.mean - change) > OFF:
            found.append(
                f"{what}: the scores differ by {100 * change:+.1f} points, the record says {100 * told.mean:+.1f}"
            )
    return tuple(found)


def about_tasks(
    tasks: Mapping[tuple[str, str, str], Score], parent: Mapping[tuple[str, str, str], Score]
) -> tuple[str, ...]:
    """Whether scores seem to stand under other tasks' names.

    They do if at least five tasks differ from the parent's by 5 points on average, and by less than a third of that
    once both are put in order of size: then the numbers are the parent's, in other places.
    """
    found = []
    for role, protocol in dict.fromkeys((r, p) for _, r, p in tasks):
        names = [name for name, r, p in tasks if (r, p) == (role, protocol) and (name, r, p) in parent]
        if len(names) < COLUMNS:
            continue
        ours, theirs = ([scores[name, role, protocol].mean for name in names] for scores in (tasks, parent))
        before, after = _apart(ours, theirs), _apart(sorted(ours), sorted(theirs))
        if before >= APART and after * BETTER <= before:
            found.append(f"{protocol} on the {role} examples: scores seem to stand under other tasks' names")
    return tuple(found)


def _apart(ours: list[float], theirs: list[float]) -> float:
    return statistics.fmean(abs(a - b) for a, b in zip(ours, theirs, strict=True))
