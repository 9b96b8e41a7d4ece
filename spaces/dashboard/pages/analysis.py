"""Analysis: how the fused task vectors lie to each other, how far each layer moved, and what was tried on the way."""

from __future__ import annotations

from datetime import datetime
from statistics import fmean
from typing import Any

from charts.bars import diverging
from charts.heat import cosines, drift
from charts.lines import over_generations, path
from drawing import render
from lineage import Attempt, Record
from query import Query
from view import View
from words import metric_words

MOST_TRIALS = 40


def draw(view: View, query: Query, now: datetime) -> str:
    """The page."""
    chosen = view.chosen(query)
    record = view.record(chosen)
    moved = drifts(view, chosen)
    return render(
        "analysis.html", query=query, chosen=chosen, record=record, names=[a.name for a in view.generations[::-1]],
        cosines=similarity(record), drift=drift(moved) if moved else None,
        mean_drift=over_generations([(name, fmean(values.values())) for name, values in moved]), moved=len(moved),
        path=path(record.path) if record else None, without=without(record), trials=list(record.trials)[:MOST_TRIALS]
        if record else [], more_trials=max(0, len(record.trials) - MOST_TRIALS) if record else 0,
        control=diverging([(metric_words(m), s) for m, s in record.control.items()]) if record else [],
    )  # fmt: skip


def similarity(record: Record | None) -> dict[str, Any] | None:
    """Pairwise cosines, of the heaviest contributions where there are many."""
    if not (record and record.analysis and record.analysis.cosines):
        return None
    heavy = sorted(record.credits, key=lambda c: (-(c.weight or 0), c.repo))
    found = cosines(record.analysis.contributions, record.analysis.cosines, [f"{c.repo}@{c.sha}" for c in heavy])
    return found | {"directions": record.analysis.directions, "all": len(record.analysis.contributions)}


def drifts(view: View, chosen: Attempt | None) -> list[tuple[str, Any]]:
    """Generation → layer → relative change, up to the chosen one."""
    found = []
    for attempt in view.generations:
        record = view.record(attempt)
        if record and record.analysis and record.analysis.drift:
            found.append((attempt.name, record.analysis.drift))
        if attempt is chosen:
            break
    return found


def without(record: Record | None) -> list[dict[str, Any]]:
    """Leave-one-out: the candidate's change when a contribution is left out; worst contributions first."""
    rows = [(t.contribution.partition("@")[0], t.change) for t in (record.trials if record else ())
            if t.kind == "without" and t.change]  # fmt: skip
    return diverging(sorted(rows, key=lambda row: -row[1].mean)[:MOST_TRIALS])
