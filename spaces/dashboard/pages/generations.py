"""Generations: every attempt, published or not, and two of them side by side."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from drawing import render
from lineage import Attempt, Unreadable
from query import Query
from view import Key, View, key_words

from pages.compare import compare

WINDOW = 50
SORTS = {"newest": "newest first", "oldest": "oldest first", "score": "best first", "gain": "largest gain first"}


def draw(view: View, query: Query, now: datetime) -> str:
    """The page."""
    key = view.metric(query)
    sort = query["sort"] if query["sort"] in SORTS else "newest"
    rows = ordered(view, key, sort)
    start = min(query.offset, max(0, len(rows) - 1)) // WINDOW * WINDOW
    pair = two(view, query)
    return render(
        "generations.html", query=query, words=key_words(key), sorts=SORTS, sort=sort, total=len(rows), start=start,
        rows=[row(view, attempt, key) for attempt in rows[start : start + WINDOW]], window=WINDOW,
        chosen=view.chosen(query), names=list(view.by_name)[::-1], compared=compare(view, *pair) if pair else None,
        metrics=[(name, key_words(k), k == key) for name, k in view.metrics.items() if len(k) == 2],
    )  # fmt: skip


def two(view: View, query: Query) -> tuple[Attempt, Attempt] | None:
    """The generations to compare: those asked for, or the chosen one with its parent."""
    b = view.by_name.get(query["b"]) or view.chosen(query)
    parent = view.by_name.get(f"gen-{b.parent}") if b and b.parent is not None else None
    a = view.by_name.get(query["a"]) or parent or (view.generations[0] if view.generations else None)
    return (a, b) if a and b and a is not b else None


def ordered(view: View, key: Key | None, sort: str) -> list[Attempt | Unreadable]:
    """All attempts; those without the number that is sorted by come last."""
    rows = list(view.data.attempts) if sort == "oldest" else list(reversed(view.data.attempts))
    if sort in ("score", "gain"):
        rows.sort(key=lambda a: -_value(view, a, key, sort))
    return rows


def _value(view: View, attempt: Attempt | Unreadable, key: Key | None, sort: str) -> float:
    score = view.score(attempt, key)
    if sort == "gain" and isinstance(attempt, Attempt) and key:
        score = attempt.differences.get((key[0], key[1]))
    return score.mean if score else -1000.0


def row(view: View, attempt: Attempt | Unreadable, key: Key | None) -> dict[str, Any]:
    """One line of the table."""
    if isinstance(attempt, Unreadable):
        return {"attempt": attempt, "problem": attempt.problem}
    change = attempt.differences.get((key[0], key[1])) if key else None
    return {"attempt": attempt, "problem": "", "score": view.score(attempt, key), "change": change}
