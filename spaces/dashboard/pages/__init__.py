"""The pages, one module each, and the frame around them: navigation, state of the data, footer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from drawing import render
from lineage import Status, Unreadable
from query import Query
from view import View
from words import ago, count, moment, repo_url

from pages import about, analysis, contribute, contributors, generations, overview, status, tree

PAGES: dict[str, tuple[str, Callable[[View, Query, datetime], str]]] = {
    "overview": ("Overview", overview.draw),
    "lineage": ("Lineage", tree.draw),
    "generations": ("Generations", generations.draw),
    "contributors": ("Contributors", contributors.draw),
    "analysis": ("Analysis", analysis.draw),
    "contribute": ("Contribute", contribute.draw),
    "status": ("Status", status.draw),
    "about": ("About", about.draw),
}


def draw(view: View, query: Query, now: datetime) -> str:
    """The whole page that was asked for, as HTML; an unknown one is the overview."""
    page = query["show"] if query["show"] in PAGES else "overview"
    query = Query({**query.values, "show": page})
    title, content = PAGES[page]
    base = view.data.base
    return render(
        "frame.html", page=page, title=title, base=base or "No base is set", url=repo_url(view.data.endpoint, base),
        nav=[(name, words, query.link(name)) for name, (words, _) in PAGES.items()],
        warnings=warnings(view), notices=notices(view, query), age=age(view, now), content=content(view, query, now),
    )  # fmt: skip


def warnings(view: View) -> list[str]:
    """What a visitor must know before believing the page: the amber strip."""
    data, lines = view.data, []
    if data.trouble:
        shown = f" Showing data of {moment(data.read_at)}." if data.read_at else " There is nothing to show yet."
        lines.append(data.trouble + (shown if data.base else ""))
    elif data.read_at is None:
        lines.append("The Hub has not been read yet. Reload the page in a few seconds.")
    if lost := sum(isinstance(a, Unreadable) for a in data.attempts):
        lines.append(f"{count(lost, 'entry', 'entries')} of the lineage cannot be read; see Generations.")
    if isinstance(data.status, Unreadable):
        lines.append(f"The watcher's status cannot be read: {data.status.problem}.")
    elif view.status and view.status.unreadable:
        lines.append(f"{count(view.status.unreadable, 'row')} of the watcher's status cannot be read.")
    return lines


def notices(view: View, query: Query) -> list[str]:
    """What there is to say about the generation that was asked for."""
    lines, chosen = [], view.chosen(query)
    if query["gen"] and query["gen"] not in view.by_name:
        known = query["gen"].startswith("gen-") and query["gen"][4:].isdecimal() and len(query["gen"]) <= 10
        lines.append(f"{query['gen'] if known else 'That generation'} does not exist here."
                     + (f" This is {chosen.name}." if chosen else ""))  # fmt: skip
    if chosen and chosen.status == "yanked":
        record = view.record(chosen)
        why = f" Reason: {record.withdrawn}" if record and record.withdrawn else ""
        lines.append(f"⊘ {chosen.name} was withdrawn: do not start from it.{why}")
    return lines


def age(view: View, now: datetime) -> dict[str, str]:
    """How old the data are and when the watcher was seen last: the line beside the navigation."""
    data = view.data
    said = f"Data of {moment(data.read_at)}, {ago(data.read_at, now)}." if data.read_at else "No data yet."
    if not isinstance(data.status, Status):
        return {"kind": "warn" if data.trouble or data.read_at is None else "ok", "text": said}
    stale = data.status.is_stale(now)
    said += f" Watcher last seen {ago(data.status.heartbeat, now)}{': it seems to be down' if stale else ''}."
    return {"kind": "bad" if stale else "warn" if data.trouble else "ok", "text": said}
