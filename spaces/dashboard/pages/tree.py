"""Lineage: the generations and what flowed into each, as a tree, or as a list on narrow screens."""

from __future__ import annotations

from datetime import datetime

from charts.tree import nodes, tree
from drawing import render
from lineage import Attempt
from query import Query
from view import View
from words import percent

WINDOW = 8  # attempts


def draw(view: View, query: Query, now: datetime) -> str:
    """The page."""
    attempts = list(reversed(view.data.attempts))
    places = {a.name: n for n, a in enumerate(attempts)}
    first = places.get(query["to"] or query["open"] or query["gen"], 0)
    if not query["to"]:
        first = max(0, min(first - 2, len(attempts) - WINDOW))
    window = attempts[first : first + WINDOW]
    found = nodes(view, window, query["open"])
    key = view.metric(query)
    scores = {id(a): percent(s.mean) for a in window if (s := view.score(a, key))}
    chosen = view.chosen(query)
    shown = [a for a in window if a.name in view.by_name]
    named = [a for a in attempts[: max(0, first - WINDOW) + 1] if a.name in view.by_name]
    older = next((a for a in attempts[first + WINDOW :] if isinstance(a, Attempt) and a.generation is not None), None)
    return render(
        "lineage.html", query=query, chosen=chosen, nodes=found, scores=scores, first=first,
        tree=tree(found, goes_on=first + WINDOW < len(attempts)), window=WINDOW, total=len(attempts),
        newer=(named[-1].name if named else "") if first else None, older=older.name if older else "",
        stop=chosen if chosen in shown else shown[0] if shown else None,
        shape=query["as"] if query["as"] in ("graph", "list") else "auto",
    )  # fmt: skip
