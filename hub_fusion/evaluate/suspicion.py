"""Rows of a ranking that should not be believed as they stand: told with the reason, never left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from hub_fusion.evaluate.permuted import find_permutation
from hub_fusion.records import Record, Score

OTHERS = 3  # models that a score is compared with, at least
MARGIN = 0.05  # above the best of them, and …
SPREADS = 5.0  # … above it by so many standard deviations of theirs (by the median absolute deviation)
MAD = 1.4826

Row = Mapping[str, Score]  # task → score by one protocol


class Flag(Record):
    """Why a row is suspicious: below_majority, above_others, permuted or same_weights."""

    code: str
    protocol: str | None = None
    task: str | None = None
    reason: str


def find_flags(
    protocol: str, rows: Mapping[str, Row], majority: Mapping[str, float], reference: str | None
) -> Iterator[tuple[str, Flag]]:
    """(model, flag) of every suspicion about accuracies by one protocol.

    `majority` is, per task, the share of the most frequent label among the test examples. Columns are compared with
    the reference's, without one with the median of the other models.
    """
    for model, row in rows.items():
        others = [other for name, other in rows.items() if name != model]
        for task, score in row.items():
            there = [other[task] for other in others if task in other]
            for code, reason in (
                ("below_majority", _below(score, majority.get(task))),
                ("above_others", _above(score, there)),
            ):
                if reason:
                    yield model, Flag(code=code, protocol=protocol, task=task, reason=reason)
        if permuted := _permuted(model, row, rows, reference):
            yield model, Flag(code="permuted", protocol=protocol, reason=permuted)


def _below(score: Score, majority: float | None) -> str:
    if majority is None or score.high >= majority:
        return ""
    return (
        f"{score.mean:.3f} is below the {majority:.3f} that always answering the most frequent label gives: "
        "the model is damaged, or its tokenizer is another model's"
    )


def _above(score: Score, others: list[Score]) -> str:
    if len(others) < OTHERS:
        return ""
    means = np.array([other.mean for other in others])
    spread = MAD * float(np.median(np.abs(means - np.median(means))))
    best = max(others, key=lambda other: other.mean)
    if score.low <= max(other.high for other in others) or score.mean - best.mean <= max(MARGIN, SPREADS * spread):
        return ""
    return f"{score.mean:.3f} where the next best has {best.mean:.3f}: was the model trained on this task?"


def _permuted(model: str, row: Row, rows: Mapping[str, Row], reference: str | None) -> str:
    if reference is not None and reference in rows:
        if model == reference:
            return ""
        compared, words = {task: score.mean for task, score in rows[reference].items()}, "the reference's"
    else:
        others = [other for name, other in rows.items() if name != model]
        if len(others) < OTHERS:
            return ""
        shared = set(row).intersection(*others)
        compared = {task: float(np.median([other[task].mean for other in others])) for task in shared}
        words = "the others' median"
    found = find_permutation({task: score.mean for task, score in row.items()}, compared)
    if found is None:
        return ""
    named = [f"{a} like {b}" for a, b in found.columns.items() if a != b][:3]
    return (
        f"columns look permuted: {found.before:.3f} from {words} on average, {found.after:.3f} after moving "
        f"{found.moved} of {len(found.columns)} ({', '.join(named)} …): compare means only"
    )
