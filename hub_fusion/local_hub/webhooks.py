"""Webhooks of a user: `/api/settings/webhooks`, with the deliveries of each and their replay.

A webhook belongs to the account that made it and does not exist for others. It sends to a url, or it makes a job like
the one it was given.
"""

import json
import sqlite3
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

from hub_fusion.local_hub import events, job_records, job_specs
from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.db import iso, new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError, sign_in_first
from hub_fusion.local_hub.users import User

BASE = "/api/settings/webhooks"
WATCHABLE = ("bucket", "dataset", "model", "org", "space", "user")
DOMAINS = ("repo", "discussion")
MAX_WEBHOOKS, MAX_WATCHED, MAX_TEXT_CHARS, MAX_URL_CHARS = 100, 100, 256, 2048
RECENT = 100


def create(call: Call) -> Response:
    """A new webhook, enabled."""
    user, request = _user(call, "write"), call.json()
    fields = {"domains": json.dumps(DOMAINS), "secret": None} | _fields(request)
    if "watched" not in fields:
        raise HubError(400, '"watched" is required.')
    with call.store.db.write() as con:
        fields |= _target(con, call, request)
        if not fields.get("url") and not fields.get("job"):
            raise HubError(400, '"url" or "jobSourceId" is required.')
        if con.execute("SELECT COUNT(*) FROM webhooks WHERE account=?", (user.id,)).fetchone()[0] >= MAX_WEBHOOKS:
            raise HubError(403, f"An account has at most {MAX_WEBHOOKS} webhooks: delete one first.")
        con.execute(
            "INSERT INTO webhooks (hex, account, url, job, watched, domains, secret) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (hex_id := new_hex_id(), user.id, *(fields[key] for key in ("url", "job", "watched", "domains", "secret"))),
        )
        return answer({"webhook": _show(_find(con, user, hex_id))})


def get(call: Call) -> Response:
    """One webhook."""
    user = _user(call, "read")
    with call.store.db.read() as con:
        return answer({"webhook": _show(_find(con, user, call.params["id"]))})


def get_all(call: Call) -> Response:
    """The caller's webhooks, oldest first."""
    user = _user(call, "read")
    with call.store.db.read() as con:
        rows = con.execute("SELECT * FROM webhooks WHERE account=? ORDER BY id", (user.id,)).fetchall()
    return answer([_show(row) for row in rows])


def update(call: Call) -> Response:
    """Change what the request names. An empty `watched` changes nothing: clients send one with every update."""
    user, request = _user(call, "write"), call.json()
    if request.get("watched") == []:
        del request["watched"]
    fields = _fields(request)
    with call.store.db.write() as con:
        row = dict(_find(con, user, call.params["id"])) | fields | _target(con, call, request)
        con.execute(
            "UPDATE webhooks SET url=:url, job=:job, watched=:watched, domains=:domains, secret=:secret WHERE id=:id",
            row,
        )
        return answer({"webhook": _show(row)})


def switch(call: Call, disabled: bool) -> Response:
    """Enable or disable; what happens while a webhook is disabled is never told to it."""
    user = _user(call, "write")
    with call.store.db.write() as con:
        row = _find(con, user, call.params["id"])
        con.execute("UPDATE webhooks SET disabled=? WHERE id=?", (disabled, row["id"]))
        return answer({"webhook": _show(_find(con, user, row["hex"]))})


def delete(call: Call) -> Response:
    """Forget a webhook and its deliveries, sent or not."""
    user = _user(call, "write")
    with call.store.db.write() as con:
        con.execute("DELETE FROM webhooks WHERE id=?", (_find(con, user, call.params["id"])["id"],))
    return answer({})


def activity(call: Call) -> Response:
    """The latest deliveries, newest first."""
    user = _user(call, "read")
    with call.store.db.read() as con:
        rows = con.execute(
            "SELECT * FROM deliveries WHERE webhook=? ORDER BY id DESC LIMIT ?",
            (_find(con, user, call.params["id"])["id"], RECENT),
        ).fetchall()
    return answer([_show_delivery(row) for row in rows])


def replay(call: Call) -> Response:
    """Send a delivery once more."""
    user = _user(call, "write")
    with call.store.db.write() as con:
        webhook = _find(con, user, call.params["id"])
        which = (webhook["id"], call.params["delivery"])
        done = con.execute(
            "UPDATE deliveries SET status='pending', attempts=0, due=?, finished=NULL WHERE webhook=? AND hex=?",
            (now_ms(), *which),
        )
        if not done.rowcount:
            raise HubError(404, "Delivery not found")
        if webhook["job"]:
            events.start_job(con, webhook, call.params["delivery"])
        row = con.execute("SELECT * FROM deliveries WHERE webhook=? AND hex=?", which).fetchone()
    return answer(_show_delivery(row))


def _user(call: Call, verb: str) -> User:
    if call.user is None:
        raise sign_in_first()
    if not call.user.scopes.allow(f"user.webhooks.{verb}", account=call.user.id):
        raise HubError(403, f"Forbidden: this token may not {verb} webhooks.")
    return call.user


def _find(con: sqlite3.Connection, user: User, hex_id: str) -> sqlite3.Row:
    row: sqlite3.Row | None = con.execute(
        "SELECT * FROM webhooks WHERE account=? AND hex=?", (user.id, hex_id)
    ).fetchone()
    if row is None:
        raise HubError(404, "Webhook not found")
    return row


def _fields(request: dict[str, Any]) -> dict[str, Any]:
    """The columns a request sets; 400."""
    fields: dict[str, Any] = {}
    if "watched" in request:
        fields["watched"] = json.dumps(_watched(request["watched"]))
    if "domains" in request:
        domains = request["domains"]
        if not isinstance(domains, list) or not domains or any(domain not in DOMAINS for domain in domains):
            raise HubError(400, f'"domains" must be a list of {", ".join(DOMAINS)}.')
        fields["domains"] = json.dumps(list(dict.fromkeys(domains)))
    if request.get("secret") is not None:
        secret = request["secret"]
        if not _plain(secret, MAX_TEXT_CHARS):
            raise HubError(400, f'"secret" must be at most {MAX_TEXT_CHARS} printable ASCII characters.')
        fields["secret"] = secret
    return fields


def _target(con: sqlite3.Connection, call: Call, request: dict[str, Any]) -> dict[str, str | None]:
    """Where events go, if the request says so: a url, or a job as it is now, with more secrets (by name)."""
    url, job, secrets = (request.get(key) for key in ("url", "jobSourceId", "secrets"))
    if url is not None and job is not None:
        raise HubError(400, 'Give "url" or "jobSourceId", not both.')
    if secrets is not None and job is None:
        raise HubError(400, '"secrets" belong to a "jobSourceId".')
    if url is not None:
        return {"url": _url(url), "job": None}
    if job is None:
        return {}
    account, spec = job_records.source(con, call, job)
    if secrets is not None:
        spec["secrets"] = sorted({*spec.get("secrets", ()), *job_specs.strings("secrets", secrets, job_specs.NAME)})
    return {"url": None, "job": json.dumps({"source": job, "account": account, "spec": spec})}


def _watched(value: object) -> list[dict[str, str]]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_WATCHED:
        raise HubError(400, f'"watched" must be a list of 1 to {MAX_WATCHED} items.')
    for item in value:
        known = isinstance(item, dict) and item.get("type") in WATCHABLE
        if not known or not _plain(item.get("name"), MAX_TEXT_CHARS) or not item["name"]:
            raise HubError(400, f'Each of "watched" needs a type ({", ".join(WATCHABLE)}) and a name.')
    return [{"type": item["type"], "name": item["name"]} for item in value]


def _url(value: object) -> str:
    try:
        parts = urlsplit(value) if isinstance(value, str) and _plain(value, MAX_URL_CHARS) else None
        if parts and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in str(value):
            return str(value)
    except ValueError:  # a port or an IPv6 address that is none
        pass
    raise HubError(400, f'"url" must be an http or https address of at most {MAX_URL_CHARS} ASCII characters.')


def _plain(value: object, limit: int) -> bool:
    return isinstance(value, str) and len(value) <= limit and value.isascii() and value.isprintable()


def _show(row: sqlite3.Row | dict[str, Any]) -> dict[str, Any]:
    """A webhook as the client parses it."""
    return {
        "id": row["hex"],
        "url": row["url"],
        "job": job_records.show_spec(json.loads(row["job"])["spec"]) if row["job"] else None,
        "watched": json.loads(row["watched"]),
        "domains": json.loads(row["domains"]),
        "secret": row["secret"],
        "disabled": bool(row["disabled"]),
    }


def _show_delivery(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["hex"],
        "status": row["status"],
        "attempts": row["attempts"],
        "createdAt": iso(row["created"]),
        "finishedAt": iso(row["finished"]) if row["finished"] else None,
        "statusCode": row["answer"],
        "error": row["error"],
        "payload": json.loads(row["payload"]),
    }


ROUTES = [
    Route("GET", BASE, get_all),
    Route("POST", BASE, create),
    Route("GET", f"{BASE}/{{id}}", get),
    Route("POST", f"{BASE}/{{id}}", update),
    Route("DELETE", f"{BASE}/{{id}}", delete),
    Route("POST", f"{BASE}/{{id}}/enable", lambda call: switch(call, disabled=False)),
    Route("POST", f"{BASE}/{{id}}/disable", lambda call: switch(call, disabled=True)),
    Route("GET", f"{BASE}/{{id}}/deliveries", activity),
    Route("POST", f"{BASE}/{{id}}/deliveries/{{delivery}}/replay", replay),
]
