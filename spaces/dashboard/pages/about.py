"""About: what this is in a few sentences, and the questions that people ask."""

from __future__ import annotations

from datetime import datetime

from drawing import render
from query import Query
from view import View
from words import REPO


def draw(view: View, query: Query, now: datetime) -> str:
    """The page."""
    data = view.data
    base = data.base if REPO.fullmatch(data.base) else ""
    files = f"{data.endpoint}/{base}/resolve" if base else ""
    record = view.record(view.newest)
    return render("about.html", query=query, base=base, root=data.root, files=files, newest=view.newest,
                  epsilon=record.epsilon if record else None, tried=len(data.attempts),
                  published=len([a for a in view.generations if a.generation]))  # fmt: skip
