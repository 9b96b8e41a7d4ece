"""Gated repositories: asking for access, granting and refusing it.

A request is asked for by the form on a repository's page, `POST /{repo}/ask-access`, with or without the answers that
the card wants (`extra_gated_fields`). Accounts have no e-mail address here, so none is shown.
"""

import json
import sqlite3
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from hub_fusion.local_hub.call import API_REPO, FILE_REPOS, Call, Route, answer
from hub_fusion.local_hub.db import iso, new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError, sign_in_first
from hub_fusion.local_hub.store import Repo
from hub_fusion.local_hub.users import access_status, check_can_write, manages

STATUSES = ("pending", "accepted", "rejected")
PAGE, MAX_REASON_CHARS, MAX_ANSWER_CHARS, MAX_ANSWERS = 1000, 200, 1000, 50


def requests(call: Call) -> Response:
    """Who asked, by status, oldest first; a Link header leads to the next page."""
    status, query = call.params["status"], call.request.query_params
    if status not in STATUSES:
        raise HubError(400, f"status must be one of {', '.join(STATUSES)}.")
    limit, after = query.get("limit", str(PAGE)), query.get("cursor", "0")
    if not (f"{limit}{after}".isascii() and limit.isdigit() and after.isdigit() and 0 < int(limit[:9]) <= PAGE):
        raise HubError(400, f'"limit" must be 1 to {PAGE}, "cursor" one from a Link header.')
    with call.store.db.read() as con:
        repo = _gated(con, call, to_read=True)
        rows = con.execute(
            "SELECT access.*, accounts.hex AS account, name, fullname FROM access JOIN accounts ON accounts.id=user"
            " WHERE repo=? AND status=? AND user>? ORDER BY user LIMIT ?",
            (repo.id, status, int(after[:15]), int(limit) + 1),
        ).fetchall()
    headers = {}
    if len(rows) > int(limit):
        rows = rows[: int(limit)]
        following = urlencode({"limit": limit, "cursor": rows[-1]["user"]})
        headers["Link"] = f'<{call.base}{call.request.scope["path"]}?{following}>; rel="next"'
    return answer([_show(row) for row in rows], headers=headers)


def _show(row: sqlite3.Row) -> dict[str, Any]:
    name = row["name"]
    shown: dict[str, Any] = {
        "requestId": row["hex"],
        "user": {
            "_id": row["account"],
            "user": name,
            "fullname": row["fullname"] or name,
            "email": None,
            "type": "user",
        },
        "status": row["status"],
        "timestamp": iso(row["at"]),
    }
    if row["fields"]:
        shown["fields"] = json.loads(row["fields"])
    if row["reviewed"]:
        shown["reviewedAt"] = iso(row["reviewed"])
    return shown


def handle(call: Call) -> Response:
    """Accept, refuse or put back a request."""
    request = call.json()
    status, reason = request.get("status"), request.get("rejectionReason")
    if status not in STATUSES:
        raise HubError(400, f'"status" must be one of {", ".join(STATUSES)}.')
    if reason is not None and (status != "rejected" or not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS):
        raise HubError(400, f'"rejectionReason" belongs to a rejection and has at most {MAX_REASON_CHARS} characters.')
    with call.store.db.write() as con:
        repo = _gated(con, call)
        user = _asker(con, repo, request)
        row = con.execute("SELECT status FROM access WHERE repo=? AND user=?", (repo.id, user)).fetchone()
        if row is None:
            raise HubError(404, "This user did not ask for access.")
        if row["status"] == status:
            raise HubError(404, f"The request is {status} already.")
        con.execute(
            "UPDATE access SET status=?, reviewed=?, reason=? WHERE repo=? AND user=?",
            (status, None if status == "pending" else now_ms(), reason, repo.id, user),
        )
    return answer({})


def grant(call: Call) -> Response:
    """Let a user in who did not ask."""
    with call.store.db.write() as con:
        repo = _gated(con, call)
        user, now = _account(con, call.json()), now_ms()
        row = con.execute("SELECT status FROM access WHERE repo=? AND user=?", (repo.id, user)).fetchone()
        if row is not None and row["status"] == "accepted":
            raise HubError(400, "This user has access already.")
        con.execute(
            "INSERT INTO access (repo, user, status, at, reviewed, hex) VALUES (?, ?, 'accepted', ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET status='accepted', reviewed=excluded.reviewed, reason=NULL",
            (repo.id, user, now, now, new_hex_id()),
        )
    return answer({})


def ask(call: Call) -> Response:
    """Ask for access; granted at once where gating is automatic. Who was refused stays refused."""
    user = call.user
    if user is None:
        raise sign_in_first()
    if user.kind != "user":
        raise HubError(403, f"{user.name} is an organisation: access is given to people.")
    with call.store.db.write() as con:
        repo = call.repo(con)
        if repo.gated is None:
            raise HubError(400, f"{repo.full_name} is not gated.")
        fields = _answers(con, call, repo)
        status = "accepted" if repo.gated == "auto" else "pending"
        con.execute(
            "INSERT OR IGNORE INTO access (repo, user, status, at, hex, fields) VALUES (?, ?, ?, ?, ?, ?)",
            (repo.id, user.id, status, now_ms(), new_hex_id(), json.dumps(fields) if fields else None),
        )
        status = access_status(con, user, repo) or status
    page = f"{call.base}/api/{repo.kind}s/{repo.full_name}"
    return answer({"status": status}, 303, {"Location": page})


def withdraw(call: Call) -> Response:
    """Take back one's own request that nobody has answered yet."""
    if call.user is None:
        raise sign_in_first()
    with call.store.db.write() as con:
        repo = call.repo(con)
        done = con.execute("DELETE FROM access WHERE repo=? AND user=? AND status='pending'", (repo.id, call.user.id))
        if not done.rowcount:
            raise HubError(404, f"You have no request for {repo.full_name} that is pending.")
    return answer({})


def _answers(con: sqlite3.Connection, call: Call, repo: Repo) -> dict[str, str]:
    """What was filled in of the form that the card describes; 400 with the names of what is missing."""
    row = con.execute("SELECT facts FROM trees WHERE id=?", (repo.tree,)).fetchone()
    wanted = (json.loads(row["facts"])["card"] or {}).get("extra_gated_fields")
    wanted = list(wanted)[:MAX_ANSWERS] if isinstance(wanted, dict) else []
    given = {key: values[-1][:MAX_ANSWER_CHARS] for key, values in call.form().items() if values} if call.body else {}
    missing = [key for key in wanted if not given.get(key, "").strip()]
    if missing:
        raise HubError(400, f"{repo.full_name} wants to know before it gives access: {', '.join(missing)}.")
    return {key: given[key] for key in wanted}


def _gated(con: sqlite3.Connection, call: Call, *, to_read: bool = False) -> Repo:
    """The repository of the path, if the caller handles its requests; a fine-grained token may be for reading them."""
    repo, user = call.repo(con), call.user
    if to_read and user is not None and user.role == "fineGrained" and manages(con, user, repo.owner, repo.id):
        to_read = user.scopes.allow("repo.access.read", account=repo.owner, repo=repo.id)
    else:
        to_read = False
    if not to_read:
        check_can_write(con, user, repo)
    if repo.gated is None:
        raise HubError(400, f"{repo.full_name} is not gated.")
    return repo


def _asker(con: sqlite3.Connection, repo: Repo, request: dict[str, Any]) -> int:
    """The account whose request is named by its id or by its user."""
    if request.get("requestId") is None:
        return _account(con, request)
    row = con.execute("SELECT user FROM access WHERE repo=? AND hex=?", (repo.id, str(request["requestId"]))).fetchone()
    if row is None:
        raise HubError(404, "No such request.")
    return int(row["user"])


def _account(con: sqlite3.Connection, request: dict[str, Any]) -> int:
    row = con.execute(
        "SELECT id FROM accounts WHERE kind='user' AND (key=? OR hex=?)",
        (str(request.get("user")).lower(), str(request.get("userId"))),
    ).fetchone()
    if row is None:
        raise HubError(404, "No such user.")
    return int(row["id"])


ROUTES = [
    Route("GET", f"{API_REPO}/user-access-request/{{status}}", requests),
    Route("POST", f"{API_REPO}/user-access-request/handle", handle),
    Route("POST", f"{API_REPO}/user-access-request/grant", grant),
    Route("POST", f"{API_REPO}/user-access-request/cancel", withdraw),
    *(Route("POST", f"{repo}/ask-access", ask) for repo in reversed(FILE_REPOS)),
]
