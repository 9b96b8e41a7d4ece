"""Scheduled jobs: kept, suspended, resumed, changed, triggered by hand.

The time at which a schedule is next due is worked out and shown; nothing happens here when it comes. `run` makes the
job that the time would have made.
"""

import json
import sqlite3
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub import cron, job_records
from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.db import iso, new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.job_specs import check_labels, check_spec
from hub_fusion.local_hub.jobs import label_filter

BASE = "/api/scheduled-jobs/{account}"
ONE = f"{BASE}/{{schedule}}"
MAX_SCHEDULES = 1000


def create(call: Call) -> Response:
    """A new schedule."""
    request = call.json()
    spec, schedule = request.get("jobSpec"), _schedule(request)
    if not isinstance(spec, dict):
        raise HubError(400, '"jobSpec" must describe a job.')
    flags = [_flag(request, name) for name in ("suspend", "concurrency")]
    with call.store.db.write() as con:
        owner = job_records.account(con, call, "write")
        if con.execute("SELECT COUNT(*) FROM schedules WHERE account=?", (owner["id"],)).fetchone()[0] >= MAX_SCHEDULES:
            raise HubError(403, f"An account has at most {MAX_SCHEDULES} scheduled jobs: delete one first.")
        text = json.dumps(check_spec(con, call, spec))
        con.execute(
            "INSERT INTO schedules (hex, account, spec, schedule, suspended, concurrency, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (hex_id := new_hex_id(), owner["id"], text, schedule, *flags, now_ms()),
        )
        return _answer(con, owner, hex_id)


def get_all(call: Call) -> Response:
    """Oldest first; `label` narrows."""
    where, values = label_filter(call)
    with call.store.db.read() as con:
        owner = job_records.account(con, call, "read")
        rows = con.execute(
            f"SELECT * FROM schedules WHERE account=? {where} ORDER BY id",  # noqa: S608 - constants
            (owner["id"], *values),
        ).fetchall()
        return answer([_show(con, row, owner) for row in rows])


def get(call: Call) -> Response:
    """One schedule."""
    with call.store.db.read() as con:
        return _answer(con, job_records.account(con, call, "read"), call.params["schedule"])


def delete(call: Call) -> Response:
    """Forget a schedule; the jobs it made stay."""
    with call.store.db.write() as con:
        row = _find(con, job_records.account(con, call, "write"), call.params["schedule"])
        con.execute("DELETE FROM schedules WHERE id=?", (row["id"],))
    return answer({})


def _change(call: Call, column: str, value: object) -> Response:
    with call.store.db.write() as con:
        owner = job_records.account(con, call, "write")
        row = _find(con, owner, call.params["schedule"])
        con.execute(f"UPDATE schedules SET {column}=? WHERE id=?", (value, row["id"]))  # noqa: S608 - constants
        return _answer(con, owner, row["hex"])


def set_labels(call: Call) -> Response:
    """All labels at once."""
    labels = check_labels("labels", call.json().get("labels"))
    with call.store.db.write() as con:
        owner = job_records.account(con, call, "write")
        row = _find(con, owner, call.params["schedule"])
        spec = json.dumps(json.loads(row["spec"]) | {"labels": labels})
        con.execute("UPDATE schedules SET spec=? WHERE id=?", (spec, row["id"]))
        return _answer(con, owner, row["hex"])


def run(call: Call) -> Response:
    """Make its job now."""
    with call.store.db.write() as con:
        owner = job_records.account(con, call, "write")
        row = _find(con, owner, call.params["schedule"])
        initiator = {"type": "scheduled-job", "id": row["hex"]}
        job = job_records.insert(con, owner["id"], json.loads(row["spec"]), initiator)
        con.execute("UPDATE schedules SET last_job=? WHERE id=?", (job["hex"], row["id"]))
        return answer(job_records.show(job, owner))


def _schedule(request: dict[str, Any]) -> str:
    schedule = request.get("schedule")
    if not isinstance(schedule, str) or len(schedule) > 200:
        raise HubError(400, '"schedule" must be a cron expression or a name such as "@hourly".')
    try:
        cron.next_run(schedule, now_ms())
    except ValueError as error:
        raise HubError(400, str(error)) from None
    return schedule


def _flag(request: dict[str, Any], name: str) -> bool:
    value = request.get(name) or False
    if not isinstance(value, bool):
        raise HubError(400, f'"{name}" must be true or false.')
    return value


def _find(con: sqlite3.Connection, owner: sqlite3.Row, hex_id: str) -> sqlite3.Row:
    row: sqlite3.Row | None = con.execute(
        "SELECT * FROM schedules WHERE account=? AND hex=?", (owner["id"], hex_id)
    ).fetchone()
    if row is None:
        raise HubError(404, "Scheduled job not found")
    return row


def _answer(con: sqlite3.Connection, owner: sqlite3.Row, hex_id: str) -> Response:
    return answer(_show(con, _find(con, owner, hex_id), owner))


def _show(con: sqlite3.Connection, row: sqlite3.Row, owner: sqlite3.Row) -> dict[str, Any]:
    """What the client reads a `ScheduledJobInfo` from."""
    last = con.execute("SELECT hex, created FROM jobs WHERE hex=?", (row["last_job"],)).fetchone()
    return {
        "id": row["hex"],
        "createdAt": iso(row["created"]),
        "jobSpec": job_records.show_spec(json.loads(row["spec"])),
        "schedule": row["schedule"],
        "suspend": bool(row["suspended"]),
        "concurrency": bool(row["concurrency"]),
        "status": {
            "lastJob": {"id": last["hex"], "at": iso(last["created"])} if last else None,
            "nextJobRunAt": None if row["suspended"] else iso(cron.next_run(row["schedule"], now_ms())),
        },
        "owner": job_records.show_owner(owner),
    }


ROUTES = [
    Route("POST", BASE, create),
    Route("GET", BASE, get_all),
    Route("GET", ONE, get),
    Route("DELETE", ONE, delete),
    Route("POST", f"{ONE}/suspend", lambda call: _change(call, "suspended", True)),
    Route("POST", f"{ONE}/resume", lambda call: _change(call, "suspended", False)),
    Route("POST", f"{ONE}/schedule", lambda call: _change(call, "schedule", _schedule(call.json()))),
    Route("PUT", f"{ONE}/labels", set_labels),
    Route("POST", f"{ONE}/run", run),
]
