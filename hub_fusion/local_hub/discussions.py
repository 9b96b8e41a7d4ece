"""Discussions and pull requests over HTTP: open, list, show, comment, edit, hide, rename, change status, merge."""

import json
import sqlite3
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub import events, history, pulls, threads
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.store import Repo
from hub_fusion.local_hub.threads import Thread
from hub_fusion.local_hub.users import User, check_can_discuss, manages, may_write_to

PAGE = 50
STATUSES = {"open": ("open", "draft"), "closed": ("closed", "merged")}
TYPES = {"discussion": 0, "pull_request": 1}
Opened = tuple[Repo, Thread, User]


def listing(call: Call) -> Response:
    """One page, newest first, of all or of those of a type, status or author."""
    query = call.request.query_params
    page = int(query.get("p", "0")) if query.get("p", "0").isascii() and query.get("p", "0").isdigit() else 0
    kind, status, author = query.get("type") or "all", query.get("status") or "all", query.get("author")
    if kind not in ("all", *TYPES) or status not in ("all", *STATUSES):
        raise HubError(400, f'"type" must be all, {", ".join(TYPES)}; "status" all, {", ".join(STATUSES)}.')
    with call.store.db.read() as con:
        repo = call.repo(con)
        found = [
            thread
            for thread in threads.select(con, "repo=? ORDER BY num DESC", (repo.id,))
            if (kind == "all" or thread.pull == TYPES[kind])
            and (status == "all" or thread.status in STATUSES[status])
            and (not author or thread.author_name.lower() == author.lower())
        ]
        start = min(page, 10**6) * PAGE
        shown = [threads.show(con, repo, thread) for thread in found[start : start + PAGE]]
    closed = sum(thread.status in STATUSES["closed"] for thread in found)
    return answer({"count": len(found), "start": start, "numClosedDiscussions": closed, "discussions": shown})


def create(call: Call) -> Response:
    """A discussion or, with "pullRequest", a draft of a pull request to main."""
    request = call.json()
    title = threads.title_of(request.get("title"))
    text = threads.text_of(request.get("description") or "", "description")
    with call.store.db.write() as con:
        repo = call.repo(con)
        user = check_can_discuss(con, call.user, repo)
        if request.get("pullRequest"):
            thread = pulls.open_pull(con, repo, user, title, text, start=repo.head, target=history.MAIN, status="draft")
        else:
            thread = threads.open_thread(con, repo, user, title, text)
        events.thread_event(con, call, repo, events.CREATE, thread)
        if thread.pull:
            events.content_event(con, call, repo, thread.ref, None, repo.head)
    url = f"{call.base}/{repo.url_path}/discussions/{thread.num}"
    return answer({"num": thread.num, "pullRequest": bool(thread.pull), "url": url})


def details(call: Call) -> Response:
    """A thread with all its events and, for a pull request, its changes; with ``diff=1`` the diff too."""
    with call.store.db.read() as con:
        repo = call.repo(con)
        thread = threads.find(con, repo, call.params["num"])
        shown = threads.show(con, repo, thread) | {"events": threads.events(con, thread), "locked": False}
        if thread.pull:
            shown |= pulls.details(con, call, repo, thread, diff=call.flag("diff"))
    return answer(shown)


def comment(call: Call) -> Response:
    """Say something."""
    text = _said(call.json().get("comment"), "comment")
    with call.store.db.write() as con:
        repo, thread, user = _open(con, call)
        message = threads.comment(con, thread, user, text)
        events.thread_event(con, call, repo, events.CREATE, thread, message)
    return answer({"newMessage": message})


def edit(call: Call) -> Response:
    """Say it in other words: one's own comments only, unless hidden. The former wording is kept."""
    text = _said(call.json().get("content"), "content")
    with call.store.db.write() as con:
        repo, thread, user = _open(con, call)
        row, data = _comment(con, call, thread)
        if row["author"] != user.id or data["hidden"]:
            raise HubError(403, "Only your own comments can be edited, and none that is hidden.")
        data |= {"edited": True, "history": [data["latest"], *data["history"]], "latest": threads.version(text, user)}
        shown = _update(con, row, data)
        events.thread_event(con, call, repo, events.UPDATE, thread, shown)
    return answer({"updatedComment": shown})


def hide(call: Call) -> Response:
    """Take a comment and all its wordings away, for ever: its author's or the repository's owner's right."""
    with call.store.db.write() as con:
        repo, thread, user = _open(con, call)
        row, data = _comment(con, call, thread)
        if row["author"] != user.id and not may_write_to(con, user, repo.owner, repo.id):
            raise HubError(403, "Only its author and those who may write to the repository can hide a comment.")
        latest = threads.version(threads.HIDDEN, user)
        data |= {"hidden": True, "hiddenBy": user.name, "latest": latest, "history": []}
        shown = _update(con, row, data)
        events.thread_event(con, call, repo, events.UPDATE, thread, shown)
    return answer({"updatedComment": shown})


def rename(call: Call) -> Response:
    """Another title."""
    title = threads.title_of(call.json().get("title"))
    with call.store.db.write() as con:
        repo, thread, user = _own(con, call)
        con.execute("UPDATE threads SET title=? WHERE id=?", (title, thread.id))
        event = threads.add_event(con, thread, user, "title-change", {"from": thread.title, "to": title})
        events.thread_event(con, call, repo, events.UPDATE, replace(thread, title=title))
    return answer({"newTitle": event})


def change_status(call: Call) -> Response:
    """Open or close. What is merged stays so."""
    request = call.json()
    status, text = request.get("status"), request.get("comment")
    if not isinstance(status, str) or status not in STATUSES:
        raise HubError(400, f'"status" must be one of {", ".join(STATUSES)}.')
    with call.store.db.write() as con:
        repo, thread, user = _own(con, call)
        if thread.status == "merged":
            raise HubError(400, f"Pull request {thread.num} is merged: its status cannot change.")
        if text:
            message = threads.comment(con, thread, user, threads.text_of(text, "comment"))
            events.thread_event(con, call, repo, events.CREATE, thread, message)
        event = threads.set_status(con, thread, user, str(status))
        events.thread_event(con, call, repo, events.UPDATE, replace(thread, status=str(status)))
    return answer({"newStatus": event})


def merge(call: Call) -> Response:
    """Bring a pull request into its target: one commit; 409 if both sides changed the same file."""
    text = call.json().get("comment")
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        thread = threads.find(con, repo, call.params["num"])
        assert call.user is not None
        old, new = pulls.merge(con, call, repo, thread, call.user)
        merged = threads.find(con, repo, thread.num)
        if text:
            message = threads.comment(con, merged, call.user, threads.text_of(text, "comment"))
            events.thread_event(con, call, repo, events.CREATE, merged, message)
        events.content_event(con, call, repo, thread.target or history.MAIN, old, new)
        events.thread_event(con, call, repo, events.UPDATE, merged)
    return answer({"mergeCommitId": new})


def _open(con: sqlite3.Connection, call: Call) -> Opened:
    """(repository, thread, caller) where the caller may take part."""
    repo = call.repo(con)
    user = check_can_discuss(con, call.user, repo)
    return repo, threads.find(con, repo, call.params["num"]), user


def _own(con: sqlite3.Connection, call: Call) -> Opened:
    """The same, where the caller opened the thread or may write to the repository."""
    repo, thread, user = _open(con, call)
    if thread.author != user.id and not manages(con, user, repo.owner, repo.id):
        raise HubError(403, "Only its author and those who may write to the repository can change a discussion.")
    return repo, thread, user


def _said(value: object, key: str) -> str:
    text = threads.text_of(value, key)
    if not text.strip():
        raise HubError(400, f'"{key}" must not be empty.')
    return text


def _comment(con: sqlite3.Connection, call: Call, thread: Thread) -> tuple[sqlite3.Row, dict[str, Any]]:
    row = con.execute(
        "SELECT thread_events.*, accounts.name FROM thread_events JOIN accounts ON accounts.id=author"
        " WHERE thread=? AND thread_events.hex=? AND type='comment'",
        (thread.id, call.params["comment"]),
    ).fetchone()
    if row is None:
        raise HubError(404, "Comment not found")
    return row, json.loads(row["data"])


def _update(con: sqlite3.Connection, row: sqlite3.Row, data: dict[str, Any]) -> dict[str, Any]:
    con.execute("UPDATE thread_events SET data=? WHERE id=?", (json.dumps(data), row["id"]))
    return threads.show_event(dict(row) | {"data": json.dumps(data)})


_THREAD = f"{API_REPO}/discussions/{{num}}"
ROUTES = [
    Route("GET", f"{API_REPO}/discussions", listing),
    Route("POST", f"{API_REPO}/discussions", create),
    Route("GET", _THREAD, details),
    Route("POST", f"{_THREAD}/comment", comment),
    Route("POST", f"{_THREAD}/comment/{{comment}}/edit", edit),
    Route("POST", f"{_THREAD}/comment/{{comment}}/hide", hide),
    Route("POST", f"{_THREAD}/title", rename),
    Route("POST", f"{_THREAD}/status", change_status),
    Route("POST", f"{_THREAD}/merge", merge),
]
