"""Jobs: `run_job` and its kin. They are kept, listed and read back, and never run."""

import json
import sqlite3
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from hub_fusion.local_hub import job_records
from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.db import iso, now_ms
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.job_records import NEVER_RUN
from hub_fusion.local_hub.job_specs import Spec, check_expose, check_labels, check_spec
from hub_fusion.local_hub.job_stages import OVER, STAGES

BASE = "/api/jobs/{account}"
JOB = f"{BASE}/{{job}}"
PAGE = 100


def run(call: Call) -> Response:
    """A new job."""
    request = call.json()
    with call.store.db.write() as con:
        owner = job_records.account(con, call, "write")
        row = job_records.insert(con, owner["id"], check_spec(con, call, request), job_records.by_user(call))
        return answer(job_records.show(row, owner))


def get_all(call: Call) -> Response:
    """Newest first; `stage` (any of them) and `label` (all of them) narrow; a Link header leads to the next page."""
    query = call.request.query_params
    where, values = label_filter(call)
    stages = call.values("stage")
    if any(stage not in STAGES for stage in stages):
        raise HubError(400, f'"stage" must be one of {", ".join(STAGES)}.')
    if stages:
        where += f" AND stage IN ({','.join('?' * len(stages))})"
        values += stages
    limit, cursor = query.get("limit", str(PAGE)), query.get("cursor", str(2**53))
    if not (f"{limit}{cursor}".isascii() and limit.isdigit() and cursor.isdigit() and int(limit[:9]) > 0):
        raise HubError(400, '"limit" must be a positive number, "cursor" one from a Link header.')
    size = min(int(limit[:9]), PAGE)
    with call.store.db.read() as con:
        owner = job_records.account(con, call, "read")
        rows = con.execute(
            f"SELECT * FROM jobs WHERE account=? AND id<? {where} ORDER BY id DESC LIMIT ?",  # noqa: S608 - constants
            (owner["id"], int(cursor[:17]), *values, size + 1),
        ).fetchall()
    headers = {}
    if len(rows) > size:
        rows = rows[:size]
        parameters = [(name, value) for name, value in query.multi_items() if name != "cursor"]
        parameters.append(("cursor", str(rows[-1]["id"])))
        headers["Link"] = f'<{call.base}{call.request.scope["path"]}?{urlencode(parameters)}>; rel="next"'
    return answer([job_records.show(row, owner) for row in rows], headers=headers)


def label_filter(call: Call) -> tuple[str, list[str]]:
    """(condition on a column `spec`, its values) of the labels that a list is narrowed to."""
    where, values = "", []
    for label in call.values("label"):
        where += " AND EXISTS (SELECT 1 FROM json_each(spec, '$.labels') WHERE key=? AND value=?)"
        values += [label.partition("=")[0], label.partition("=")[2]]
    if len(values) > 40:
        raise HubError(400, "At most 20 labels can be asked for at once.")
    return where, values


def get(call: Call) -> Response:
    """One job."""
    with call.store.db.read() as con:
        owner = job_records.account(con, call, "read")
        return answer(job_records.show(job_records.find(con, owner["id"], call.params["job"]), owner))


def cancel(call: Call) -> Response:
    """Note that it was called off, also of one that is in the stage it was made in."""
    with call.store.db.write() as con:
        owner = job_records.account(con, call, "write")
        row = job_records.find(con, owner["id"], call.params["job"])
        if row["stage"] not in OVER or row["message"] == NEVER_RUN:
            con.execute("UPDATE jobs SET stage='CANCELED', message=NULL, finished=? WHERE id=?", (now_ms(), row["id"]))
        return answer(job_records.show(job_records.find(con, owner["id"], row["hex"]), owner))


def rerun(call: Call) -> Response:
    """A new job like this one."""
    with call.store.db.write() as con:
        owner = job_records.account(con, call, "write")
        old = job_records.find(con, owner["id"], call.params["job"])
        initiator = {"type": "duplicated-job", "id": old["hex"]}
        return answer(job_records.show(job_records.insert(con, owner["id"], json.loads(old["spec"]), initiator), owner))


def set_labels(call: Call) -> Response:
    """All labels at once."""
    return _change(call, {"labels": check_labels("labels", call.json().get("labels"))})


def set_expose(call: Call) -> Response:
    """All ports at once."""
    return _change(call, {"expose": check_expose("expose", call.json())})


def _change(call: Call, changes: Spec) -> Response:
    with call.store.db.write() as con:
        owner = job_records.account(con, call, "write")
        row = job_records.find(con, owner["id"], call.params["job"])
        spec = json.dumps(json.loads(row["spec"]) | changes)
        con.execute("UPDATE jobs SET spec=? WHERE id=?", (spec, row["id"]))
        return answer(job_records.show(job_records.find(con, owner["id"], row["hex"]), owner))


def logs(call: Call) -> Response:
    """One line, that there will be no more: an event stream that ends."""
    row = _readable(call)
    # clients pass over what is later than the Date header by more than a second, and that header lags by up to two
    event = {"timestamp": iso(row["created"] - 2000), "data": NEVER_RUN}
    return _events([] if call.request.query_params.get("tail") == "0" else [event])


def metrics(call: Call) -> Response:
    """None: an event stream that ends at once."""
    _readable(call)
    return _events([])


def _readable(call: Call) -> sqlite3.Row:
    with call.store.db.read() as con:
        return job_records.find(con, job_records.account(con, call, "read")["id"], call.params["job"])


def _events(events: list[dict[str, Any]]) -> Response:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return Response(text, media_type="text/event-stream")


ROUTES = [
    Route("POST", BASE, run),
    Route("GET", BASE, get_all),
    Route("GET", JOB, get),
    Route("POST", f"{JOB}/cancel", cancel),
    Route("POST", f"{JOB}/duplicate", rerun),
    Route("PUT", f"{JOB}/labels", set_labels),
    Route("PUT", f"{JOB}/expose", set_expose),
    Route("GET", f"{JOB}/logs", logs),
    Route("GET", f"{JOB}/metrics", metrics),
]
