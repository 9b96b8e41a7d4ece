"""Jobs as rows: who may have them, how they come into being, and how the client sees them.

A job is over the moment it is made, in the stage ERROR with a message that says why: clients that follow its logs or
wait for it stop at once. `job_stages.set_job_stage` lets a rehearsal play the machine.
"""

import json
import sqlite3
from typing import Any, Literal

from hub_fusion.local_hub.call import Call
from hub_fusion.local_hub.db import iso, new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError, sign_in_first
from hub_fusion.local_hub.job_specs import Spec
from hub_fusion.local_hub.users import role_in

NEVER_RUN = "This Hub keeps jobs and never runs them."
WRITERS = ("write", "admin")
MASK = "***"  # in place of a secret's value; the command line leaves out names that have none


def account(con: sqlite3.Connection, call: Call, verb: Literal["read", "write"]) -> sqlite3.Row:
    """The account in the path, if the caller may see (read) or start and change (write) its jobs; 401, 403, 404."""
    if call.user is None:
        raise sign_in_first()
    row: sqlite3.Row | None = con.execute(
        "SELECT * FROM accounts WHERE key=?", (call.params["account"].lower(),)
    ).fetchone()
    if row is None:
        raise HubError(404, "No such account.")
    if not may(con, call, row["id"], verb):
        raise HubError(403, f"Forbidden: you or this token may not {verb} jobs of {row['name']}.")
    return row


def may(con: sqlite3.Connection, call: Call, owner: int, verb: str) -> bool:
    """Whether the caller's role and token are enough for jobs of this account."""
    if call.user is None or not call.user.scopes.allow(f"job.{verb}", account=owner):
        return False
    role = role_in(con, call.user.id, owner)
    return role in WRITERS if verb == "write" else role is not None


def insert(con: sqlite3.Connection, owner: int, spec: Spec, initiator: dict[str, Any]) -> sqlite3.Row:
    """A new job, over already."""
    now = now_ms()
    rows: list[sqlite3.Row] = con.execute(
        "INSERT INTO jobs (hex, account, spec, stage, created, finished, initiator, message)"
        " VALUES (?, ?, ?, 'ERROR', ?, ?, ?, ?) RETURNING *",
        (new_hex_id(), owner, json.dumps(spec), now, now, json.dumps(initiator), NEVER_RUN),
    ).fetchall()
    return rows[0]


def insert_for_webhook(con: sqlite3.Connection, webhook: sqlite3.Row, delivery: str, payload: str) -> str | None:
    """Start the job of a webhook with the event in its environment; why not, if its owner may not any more.

    Volumes are not mounted in such jobs, on the Hub either.
    """
    target = json.loads(webhook["job"])
    if role_in(con, webhook["account"], target["account"]) not in WRITERS:
        return "The owner of the webhook may not start jobs of the source job's account any more."
    repo = json.loads(payload)["repo"]
    spec = {key: value for key, value in target["spec"].items() if key != "volumes"}
    spec["environment"] = spec["environment"] | {
        "WEBHOOK_PAYLOAD": payload,
        "WEBHOOK_REPO_ID": repo["name"],
        "WEBHOOK_REPO_TYPE": repo["type"],
        "WEBHOOK_ID": delivery,
    }
    if webhook["secret"] is not None:
        spec["secrets"] = sorted({*spec.get("secrets", ()), "WEBHOOK_SECRET"})
    insert(con, target["account"], spec, {"type": "webhook", "id": webhook["hex"]})
    return None


def source(con: sqlite3.Connection, call: Call, job: object) -> tuple[int, Spec]:
    """(account, spec) of a job that the caller may start again, whosever it is; 404."""
    row = con.execute("SELECT account, spec FROM jobs WHERE hex=?", (str(job),)).fetchone()
    if row is None or not (may(con, call, row["account"], "read") and may(con, call, row["account"], "write")):
        raise HubError(404, "There is no job of this id that you may start.")
    return int(row["account"]), json.loads(row["spec"])


def find(con: sqlite3.Connection, owner: int, job: str) -> sqlite3.Row:
    """The job of this account with this id; 404."""
    row: sqlite3.Row | None = con.execute("SELECT * FROM jobs WHERE account=? AND hex=?", (owner, job)).fetchone()
    if row is None:
        raise HubError(404, "Job not found")
    return row


def by_user(call: Call) -> dict[str, Any]:
    """The initiator of what a caller starts."""
    assert call.user is not None
    return {"type": call.user.kind, "id": call.user.hex, "name": call.user.name}


def show(row: sqlite3.Row, owner: sqlite3.Row) -> dict[str, Any]:
    """What the client reads a `JobInfo` from."""
    finished, spec = row["finished"], json.loads(row["spec"])
    total_s = ((finished or now_ms()) - row["created"]) // 1000
    return {
        "id": row["hex"],
        "createdAt": iso(row["created"]),
        "startedAt": None,
        "finishedAt": iso(finished) if finished else None,
        **show_spec(spec),
        "status": {"stage": row["stage"], "message": row["message"]},
        "durations": {"schedulingSecs": None, "runningSecs": None, "totalSecs": total_s},
        "owner": show_owner(owner),
        "initiator": json.loads(row["initiator"]),
    }


def show_spec(spec: Spec) -> dict[str, Any]:
    """What the client reads a `JobSpec` from: as it was sent, secrets without values."""
    shown = spec | {"secrets": dict.fromkeys(spec.get("secrets", ()), MASK)}
    if "timeoutSeconds" in spec:
        shown["timeout"] = spec["timeoutSeconds"]
    if "attempts" in spec:
        shown["retry"] = spec["attempts"] - 1
    return shown


def show_owner(owner: sqlite3.Row) -> dict[str, str]:
    """The account of a job."""
    return {"id": owner["hex"], "name": owner["name"], "type": owner["kind"]}
