"""Status: is the watcher alive, who waits, what was refused in this round, how old are the data."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from drawing import render
from lineage import Attempt, Status, Unreadable
from query import Query
from view import View
from words import ago, moment, repo_url

MOST = 100
TOLD = 5  # of those that changed since they were fused


def draw(view: View, query: Query, now: datetime) -> str:
    """The page."""
    data, status = view.data, view.status
    url = data.endpoint
    known = view.newest
    record = view.record(known)
    return render(
        "status.html", query=query, lights=lights(view, now), status=status, now=now,
        problem=data.status.problem if isinstance(data.status, Unreadable) else "",
        waiting=[(w, repo_url(url, w.repo, w.sha), ago(w.since, now) if w.since else "")
                 for w in (status.waiting[:MOST] if status else ())],
        refusals=[(r, repo_url(url, r.repo, r.sha)) for r in (status.refusals[:MOST] if status else ())],
        unnamed=status.queue - len(status.waiting[:MOST]) if status else 0, hidden=_hidden(status) if status else 0,
        codes=sorted(status.refused.items(), key=lambda item: (-item[1], item[0]))[:MOST] if status else (),
        rejected=[a for a in (status.rejected if status else ()) if isinstance(a, Attempt)],
        newest=known, record=record,
    )  # fmt: skip


def _hidden(status: Status) -> int:
    """How many were refused that have no row on the page."""
    return max(len(status.refusals), sum(status.refused.values())) - len(status.refusals[:MOST])


def lights(view: View, now: datetime) -> list[dict[str, Any]]:
    """Watcher, data and Hub: each with a state (ok, warn, bad), a word for it and the details."""
    data, status = view.data, view.status
    found = []
    if status is None:
        found.append({"name": "Watcher", "kind": "warn", "word": "not known",
                      "note": "No status of a watcher could be read."})  # fmt: skip
    else:
        stale = status.is_stale(now)
        found.append({
            "name": "Watcher", "kind": "bad" if stale else "ok", "word": "silent" if stale else "alive",
            "note": f"Last seen {ago(status.heartbeat, now)}, {moment(status.heartbeat)}."
            + (" It writes at least hourly, so it seems to be down." if stale else ""),
        })  # fmt: skip
        if status.last_error:
            found.append({"name": "Its last error", "kind": "warn", "word": "", "note": status.last_error})
    if status and status.later:
        told = " ".join(f"{repo}, in gen-{number}: {reason}" for repo, number, reason in status.later[:TOLD])
        more = f" And {len(status.later) - TOLD} more." if len(status.later) > TOLD else ""
        found.append({"name": "Changed since they were fused", "kind": "warn", "word": str(len(status.later)),
                      "note": told + more})  # fmt: skip
    fresh = data.read_at is not None and not data.trouble
    since = f" For {ago(data.trouble_since, now).removesuffix(' ago')} now." if data.trouble_since else ""
    found.append(
        {
            "name": "Hub",
            "kind": "ok" if fresh else "warn",
            "word": "answers" if fresh else "no answer",
            "note": (data.trouble or "Read in the background; visitors never cause a request.") + since,
        }
    )
    found.append({"name": "Data", "kind": "ok" if fresh else "warn",
                  "word": ago(data.read_at, now) if data.read_at else "none",
                  "note": f"Read {moment(data.read_at)} from {data.endpoint}." if data.read_at else
                          "Nothing was read yet."})  # fmt: skip
    return found
