"""Analysis: how the fused task vectors lie to each other, how far each layer moved, and what was tried on the way."""

from __future__ import annotations

from datetime import datetime
from statistics import fmean
from typing import Any

from charts.bars import diverging
from charts.heat import cosines, drift
from charts.lines import over_generations, path
from drawing import render
from lineage import Attempt, Record, Retained
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
        path=walked(record), without=without(record),
        retention=forgotten(record), in_nats=bool(record and record.in_nats),
        trials=list(record.trials)[:MOST_TRIALS] if record else [],
        more_trials=max(0, len(record.trials) - MOST_TRIALS) if record else 0,
        control=diverging([(metric_words(m), s) for m, s in record.control.items()]) if record else [],
    )  # fmt: skip


def walked(record: Record | None) -> dict[str, Any] | None:
    """The line from the parent to the candidate, or the steps that were tried where the record has none."""
    if record is None:
        return None
    if record.line is None:
        return path(record.path)
    found = path(record.line.points)
    return found and found | {"barrier": record.line.barrier}


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
    if record is None:
        return []
    tried = {t.contribution: t.change for t in record.trials if t.kind == "without" and t.change}
    rows = [(name.partition("@")[0], change) for name, change in (record.left_out or tried).items()]
    return diverging(sorted(rows, key=lambda row: -row[1].mean)[:MOST_TRIALS])


def forgotten(record: Record | None) -> list[Retained]:
    """The mean over the tasks that contributors trained on, then what lost most since gen-0."""
    found = record.retention if record else ()
    return sorted(found, key=lambda r: (bool(r.task), r.over_root.mean))[:MOST_TRIALS]
