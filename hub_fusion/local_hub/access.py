"""Gated repositories: asking for access, granting and refusing it."""

import sqlite3
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub.call import API_REPO, FILE_REPOS, Call, Route, answer
from hub_fusion.local_hub.db import iso, now_ms
from hub_fusion.local_hub.errors import HubError, sign_in_first
from hub_fusion.local_hub.store import Repo

STATUSES = ("pending", "accepted", "rejected")


def requests(call: Call) -> Response:
    """Who asked, by status."""
    status = call.params["status"]
    if status not in STATUSES:
        raise HubError(400, f"status must be one of {', '.join(STATUSES)}.")
    with call.store.db.read() as con:
        repo = _gated(con, call)
        rows = con.execute(
            "SELECT accounts.hex, name, at FROM access JOIN accounts ON accounts.id=user"
            " WHERE repo=? AND status=? ORDER BY at",
            (repo.id, status),
        ).fetchall()
    return answer(
        [
            {
                "requestId": row["hex"],
                "user": {"_id": row["hex"], "user": row["name"], "fullname": row["name"], "email": None},
                "status": status,
                "timestamp": iso(row["at"]),
            }
            for row in rows
        ]
    )


def handle(call: Call) -> Response:
    """Accept, refuse or put back a request."""
    request = call.json()
    status = request.get("status")
    if status not in STATUSES:
        raise HubError(400, f'"status" must be one of {", ".join(STATUSES)}.')
    with call.store.db.write() as con:
        repo = _gated(con, call)
        user = _account(con, request)
        row = con.execute("SELECT status FROM access WHERE repo=? AND user=?", (repo.id, user)).fetchone()
        if row is None:
            raise HubError(404, "This user did not ask for access.")
        if row["status"] == status:
            raise HubError(404, f"The request is {status} already.")
        con.execute("UPDATE access SET status=?, at=? WHERE repo=? AND user=?", (status, now_ms(), repo.id, user))
    return answer({})


def grant(call: Call) -> Response:
    """Let a user in who did not ask."""
    with call.store.db.write() as con:
        repo = _gated(con, call)
        user = _account(con, call.json())
        row = con.execute("SELECT status FROM access WHERE repo=? AND user=?", (repo.id, user)).fetchone()
        if row is not None and row["status"] == "accepted":
            raise HubError(400, "This user has access already.")
        con.execute("INSERT OR REPLACE INTO access VALUES (?, ?, 'accepted', ?)", (repo.id, user, now_ms()))
    return answer({})


def ask(call: Call) -> Response:
    """Ask for access; granted at once where gating is automatic."""
    if call.user is None:
        raise sign_in_first()
    with call.store.db.write() as con:
        repo = call.repo(con)
        if repo.gated is None:
            raise HubError(400, f"{repo.full_name} is not gated.")
        status = "accepted" if repo.gated == "auto" else "pending"
        con.execute("INSERT OR IGNORE INTO access VALUES (?, ?, ?, ?)", (repo.id, call.user.id, status, now_ms()))
    return answer({"status": status})


def _gated(con: sqlite3.Connection, call: Call) -> Repo:
    repo = call.writable_repo(con)
    if repo.gated is None:
        raise HubError(400, f"{repo.full_name} is not gated.")
    return repo


def _account(con: sqlite3.Connection, request: dict[str, Any]) -> int:
    name, hex_id = request.get("user"), request.get("requestId") or request.get("userId")
    row = con.execute(
        "SELECT id FROM accounts WHERE kind='user' AND (key=? OR hex=?)", (str(name).lower(), str(hex_id))
    ).fetchone()
    if row is None:
        raise HubError(404, "No such user.")
    return int(row["id"])


ROUTES = [
    Route("GET", f"{API_REPO}/user-access-request/{{status}}", requests),
    Route("POST", f"{API_REPO}/user-access-request/handle", handle),
    Route("POST", f"{API_REPO}/user-access-request/grant", grant),
    *(Route("POST", f"{repo}/ask-access", ask) for repo in reversed(FILE_REPOS)),
]
