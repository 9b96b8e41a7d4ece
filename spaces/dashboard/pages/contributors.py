"""Contributors: who gave what to which generation, and for what was set aside why and what its author can do."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from datetime import datetime
from typing import Any

from drawing import render
from query import Query
from view import Row, View
from words import repo_url

WINDOW, MOST_ACCOUNTS, MOST_SAVED = 50, 36, 20_000
SORTS = {"newest": "newest first", "name": "by name", "account": "by account", "weight": "largest share first"}
COLUMNS = ("status", "generation", "repo", "sha", "author", "task", "datasets", "license", "relation", "origin",
           "known_by", "weight", "cosine", "norm", "scale", "stage", "code", "reason", "fix")  # fmt: skip


def draw(view: View, query: Query, now: datetime) -> str:
    """The page."""
    rows = found(view, query)
    sort = query["sort"] if query["sort"] in SORTS else "newest"
    start = min(query.offset, max(0, len(rows) - 1)) // WINDOW * WINDOW
    people = accounts(view, query["sort"] == "account")
    return render(
        "contributors.html", query=query, sorts=SORTS, sort=sort, total=len(rows), all=len(view.rows), start=start,
        window=WINDOW, rows=[(row, repo_url(view.data.endpoint, row.repo, row.sha)) for row in
                             rows[start : start + WINDOW]], names=list(view.by_name)[::-1],
        accounts=people[:MOST_ACCOUNTS], more=max(0, len(people) - MOST_ACCOUNTS), count_all=len(people),
        counts=Counter(row.status for row in view.rows), now=now, reasons=reasons(view),
    )  # fmt: skip


def found(view: View, query: Query) -> list[Row]:
    """The contributions that pass the filters, in the order that was asked for."""
    words, account = query["q"].casefold().split(), query["account"]
    generation = view.by_name[query["gen"]].generation if query["gen"] in view.by_name else None
    rows = [
        row for row in view.rows
        if (not query["status"] or row.status == query["status"])
        and (generation is None or row.generation == generation)
        and (not account or row.author == account)
        and all(word in haystack(row) for word in words)
    ]  # fmt: skip
    if query["sort"] in ("name", "account"):
        rows.sort(key=lambda row: ((row.author if query["sort"] == "account" else row.repo).casefold(), row.repo))
    elif query["sort"] == "weight":
        rows.sort(key=lambda row: -((row.credit.weight if row.credit else None) or 0.0))
    return rows


def haystack(row: Row) -> str:
    """The text of a row that a search looks at."""
    c, r = row.credit, row.refusal
    more = (c.task, c.license, c.relation, *c.datasets) if c else (r.code, r.reason) if r else ()
    return " ".join((row.repo, row.author, *more)).casefold()


def accounts(view: View, by_name: bool = False) -> list[tuple[str, int]]:
    """Account → contributions that were fused, in all generations; most first."""
    counts = view.data.contributors or Counter(row.author for row in view.rows if row.status == "fused")
    return sorted(counts.items(), key=lambda item: (0 if by_name else -item[1], item[0].casefold()))


def reasons(view: View) -> list[tuple[str, int]]:
    """The codes of refusals, most frequent first."""
    return Counter(row.refusal.code for row in view.rows if row.refusal).most_common(8)


def saved(view: View, query: Query, kind: str) -> str:
    """What the filters let through as CSV or JSON, at most 20,000 rows."""
    rows = [values(row) for row in found(view, query)[:MOST_SAVED]]
    if kind != "csv":
        return json.dumps(rows, indent=1, ensure_ascii=False)
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def values(row: Row) -> dict[str, Any]:
    """A row by its columns; None where it says nothing."""
    known: dict[str, Any] = dict.fromkeys(COLUMNS)
    known |= {"status": row.status, "repo": row.repo, "sha": row.sha, "author": row.author,
              "generation": None if row.generation is None else f"gen-{row.generation}"}  # fmt: skip
    if c := row.credit:
        known |= {name: getattr(c, name) for name in ("task", "license", "relation", "known_by", "weight", "cosine",
                                                      "norm", "scale")}  # fmt: skip
        known |= {"datasets": " ".join(c.datasets), "origin": None if c.generation is None else f"gen-{c.generation}"}
    if r := row.refusal:
        known |= {name: getattr(r, name) for name in ("stage", "code", "reason", "fix")}
    return known


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value
