"""Variables and secrets of a Space.

Nothing here runs a Space, so the value of a secret is needed by nobody and never written down: only its name,
description and date are kept. Variables are public, as they are on the Hub.
"""

import re
import sqlite3
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub import events
from hub_fusion.local_hub.call import SPACE_REPO, Call, Route, answer
from hub_fusion.local_hub.db import iso, now_ms
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.store import Repo

VARIABLE, SECRET = "variable", "secret"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
MAX_VALUE_CHARS, MAX_TEXT_CHARS, MAX_VALUES = 2**16, 1000, 200


def show_all(con: sqlite3.Connection, repo: int, kind: str) -> dict[str, dict[str, Any]]:
    """{name: what is known of it}, as the client parses it."""
    shown = {}
    for row in con.execute("SELECT * FROM space_values WHERE repo=? AND kind=? ORDER BY key", (repo, kind)):
        shown[row["key"]] = {
            "key": row["key"],
            "description": row["description"],
            "updatedAt": iso(row["updated"]),
            **({"value": row["value"]} if kind == VARIABLE else {}),
        }
    return shown


def put(con: sqlite3.Connection, call: Call, repo: Repo, kind: str, items: object) -> None:
    """Add or change what a list of {"key", "value", ["description"]} names; tells the webhooks."""
    if not isinstance(items, list) or len(items) > MAX_VALUES:
        raise HubError(400, f'"{kind}s" must be a list of at most {MAX_VALUES}.')
    told: dict[str, str | None] = {}
    for item in items:
        key, value, text = _check(kind, item)
        told[key] = value if kind == VARIABLE else None
        con.execute(
            "INSERT OR REPLACE INTO space_values (repo, kind, key, value, description, updated)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (repo.id, kind, key, told[key], text, now_ms()),
        )
    held = con.execute("SELECT COUNT(*) FROM space_values WHERE repo=? AND kind=?", (repo.id, kind)).fetchone()[0]
    if held > MAX_VALUES:
        raise HubError(400, f"A Space has at most {MAX_VALUES} {kind}s.")
    if told:
        events.config_event(con, call, repo, {f"{kind}s": told if kind == VARIABLE else list(told)})


def _check(kind: str, item: object) -> tuple[str, str, str | None]:
    if not isinstance(item, dict):
        raise HubError(400, f'A {kind} is {{"key", "value", ["description"]}}.')
    key, value, text = (item.get(name) for name in ("key", "value", "description"))
    if not isinstance(key, str) or not NAME.fullmatch(key):
        raise HubError(400, f"The name of a {kind} has letters, digits and '_', and does not begin with a digit.")
    if not isinstance(value, str) or len(value) > MAX_VALUE_CHARS:
        raise HubError(400, f"The value of {key} must be a text of at most {MAX_VALUE_CHARS} characters.")
    if not isinstance(text, str | None) or len(text or "") > MAX_TEXT_CHARS:
        raise HubError(400, f"The description of {key} must be a text of at most {MAX_TEXT_CHARS} characters.")
    return key, value, text


def get(call: Call, kind: str) -> Response:
    """All of one kind; the names of secrets are for those who may write."""
    with call.store.db.read() as con:
        repo = call.repo(con) if kind == VARIABLE else call.writable_repo(con)
        return answer(show_all(con, repo.id, kind))


def add(call: Call, kind: str) -> Response:
    """Add or change one; answers with all."""
    item = call.json()
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        put(con, call, repo, kind, [item])
        return answer(show_all(con, repo.id, kind))


def remove(call: Call, kind: str) -> Response:
    """Remove one, which need not be there; answers with the others."""
    key = call.json().get("key")
    if not isinstance(key, str):
        raise HubError(400, f'"key" must be the name of a {kind}.')
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        gone = con.execute("DELETE FROM space_values WHERE repo=? AND kind=? AND key=?", (repo.id, kind, key))
        if gone.rowcount:
            events.config_event(con, call, repo, {f"{kind}s": {key: None} if kind == VARIABLE else [key]})
        return answer(show_all(con, repo.id, kind))


ROUTES = [
    route
    for kind in (VARIABLE, SECRET)
    for route in (
        Route("GET", f"{SPACE_REPO}/{kind}s", lambda call, kind=kind: get(call, kind)),  # type: ignore[misc]
        Route("POST", f"{SPACE_REPO}/{kind}s", lambda call, kind=kind: add(call, kind)),  # type: ignore[misc]
        Route("DELETE", f"{SPACE_REPO}/{kind}s", lambda call, kind=kind: remove(call, kind)),  # type: ignore[misc]
    )
]
