"""Discussions and pull requests in the database: their rows, their events, and the shapes the client parses.

A thread is numbered within its repository; a pull request is a thread with a ref, ``refs/pr/<num>``. What may be done
is decided by the callers, in `discussions` and `pulls`.
"""

import html
import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from hub_fusion.local_hub.db import iso, new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.store import Repo
from hub_fusion.local_hub.users import User

MAX_TITLE_CHARS, MAX_TEXT_CHARS = 300, 65_536
HIDDEN = "This comment has been hidden"


@dataclass(frozen=True)
class Thread:
    """A row of `threads` with the names of its author and its repository."""

    id: int
    hex: str
    repo: int
    num: int
    title: str
    status: str
    pull: int
    author: int
    created: int
    target: str | None
    merged: str | None
    author_name: str
    author_hex: str

    @property
    def ref(self) -> str:
        """Where a pull request's commits are."""
        return f"refs/pr/{self.num}"


def open_thread(
    con: sqlite3.Connection,
    repo: Repo,
    author: User,
    title: str,
    description: str,
    *,
    status: str = "open",
    target: str | None = None,
) -> Thread:
    """A new thread with its first comment; with a `target` branch, a pull request."""
    last = con.execute("SELECT MAX(num) FROM threads WHERE repo=?", (repo.id,)).fetchone()[0]
    con.execute(
        "INSERT INTO threads (hex, repo, num, title, status, pull, author, created, target)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (new_hex_id(), repo.id, (last or 0) + 1, title, status, target is not None, author.id, now_ms(), target),
    )
    thread = find(con, repo, (last or 0) + 1)
    comment(con, thread, author, description)
    return thread


def find(con: sqlite3.Connection, repo: Repo, num: int | str) -> Thread:
    """The thread of this number; 404."""
    number = int(num) if str(num).isascii() and str(num).isdigit() and len(str(num)) < 10 else 0
    rows = select(con, "repo=? AND num=?", (repo.id, number))
    if not rows:
        raise HubError(404, f"Discussion {str(num)[:20]} not found")
    return rows[0]


def select(con: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> list[Thread]:
    """The threads for which `where` (a constant of this package) holds."""
    rows = con.execute(
        "SELECT threads.*, accounts.name AS author_name, accounts.hex AS author_hex"  # noqa: S608 - constants
        f" FROM threads JOIN accounts ON accounts.id=threads.author WHERE {where}",
        values,
    )
    return [Thread(**row) for row in rows]


def add_event(con: sqlite3.Connection, thread: Thread, author: User, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """Note an event; returns it as the client parses it."""
    event = {"hex": new_hex_id(), "type": kind, "created": now_ms(), "name": author.name, "data": json.dumps(data)}
    con.execute(
        "INSERT INTO thread_events (hex, thread, type, author, created, data) VALUES (?, ?, ?, ?, ?, ?)",
        (event["hex"], thread.id, kind, author.id, event["created"], event["data"]),
    )
    return show_event(event)


def comment(con: sqlite3.Connection, thread: Thread, author: User, text: str) -> dict[str, Any]:
    """A comment, unedited."""
    data = {"edited": False, "hidden": False, "latest": version(text, author), "history": []}
    return add_event(con, thread, author, "comment", data)


def set_status(con: sqlite3.Connection, thread: Thread, author: User, status: str, **more: str) -> dict[str, Any]:
    """Another status, and the event that says so."""
    con.execute("UPDATE threads SET status=?, merged=? WHERE id=?", (status, more.get("mergeCommitId"), thread.id))
    return add_event(con, thread, author, "status-change", {"status": status, **more})


def version(text: str, author: User) -> dict[str, Any]:
    """One wording of a comment. Rendering is escaping: markdown is left to those who show it."""
    rendered = f"<p>{html.escape(text)}</p>"
    return {"raw": text, "html": rendered, "updatedAt": iso(now_ms()), "author": {"name": author.name}}


def events(con: sqlite3.Connection, thread: Thread) -> list[dict[str, Any]]:
    """All that happened in a thread, oldest first."""
    rows = con.execute(
        "SELECT thread_events.*, accounts.name FROM thread_events JOIN accounts ON accounts.id=author"
        " WHERE thread=? ORDER BY thread_events.id",
        (thread.id,),
    )
    return [show_event(dict(row)) for row in rows]


def show_event(row: dict[str, Any]) -> dict[str, Any]:
    """An event as the client parses it."""
    return {
        "id": row["hex"],
        "type": row["type"],
        "createdAt": iso(row["created"]),
        "author": {"name": row["name"], "type": "user"},
        "data": json.loads(row["data"]),
    }


def show(con: sqlite3.Connection, repo: Repo, thread: Thread) -> dict[str, Any]:
    """A thread as lists show it."""
    comments = con.execute(
        "SELECT COUNT(*) FROM thread_events WHERE thread=? AND type='comment'", (thread.id,)
    ).fetchone()[0]
    return {
        "num": thread.num,
        "title": thread.title,
        "status": thread.status,
        "author": {"name": thread.author_name, "type": "user"},
        "createdAt": iso(thread.created),
        "isPullRequest": bool(thread.pull),
        "pinned": False,
        "repo": {"name": repo.full_name, "type": repo.kind},
        "numComments": comments,
    }


def title_of(value: object) -> str:
    """The text as a title: one line; 400."""
    text = " ".join(_text(value, "title", MAX_TITLE_CHARS).split())
    if len(text) < 1:
        raise HubError(400, '"title" must not be empty.')
    return text


def text_of(value: object, key: str) -> str:
    """The text of a comment; 400."""
    return _text(value, key, MAX_TEXT_CHARS)


def _text(value: object, key: str, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise HubError(400, f'"{key}" must be a string of at most {limit} characters.')
    return value.encode("utf-8", "replace").decode()
