"""Spaces beyond their files: hardware, sleep time, volumes, pausing, and a stage that says that nothing runs.

A Space that could run is STOPPED, one without its app file is NO_APP_FILE: stages at which clients stop waiting. Its
logs are empty. Not covered: hot reload, storage, templates, the address of a running app (there is no `host`).
"""

import json
import sqlite3
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub import hardware, space_values
from hub_fusion.local_hub.call import SPACE_REPO, Call, Route, answer
from hub_fusion.local_hub.cards import REPO_ID
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.facts import Facts
from hub_fusion.local_hub.store import Repo, Store
from hub_fusion.local_hub.volumes import check_volumes

SDKS = {"gradio": "app.py", "streamlit": "app.py", "docker": "Dockerfile", "static": "index.html"}
FREE_SLEEP_S, MAX_SLEEP_S = 172_800, 10 * 365 * 86_400
NEVER_RUN = "This Hub keeps Spaces and never runs them."


def sdk_of(repo: Repo, facts: Facts) -> str | None:
    """What the card names, else what the Space was made with."""
    named = (facts["card"] or {}).get("sdk")
    return named if isinstance(named, str) and named in SDKS else repo.sdk


def tags_of(repo: Repo, facts: Facts) -> list[str]:
    """The tags of a repository of any kind. Facts of an older version have a model's, until the files change."""
    shown: list[str] = facts.get("tags_of", {}).get(repo.kind, facts["tags"])
    sdk = sdk_of(repo, facts) if repo.kind == "space" else None
    return [sdk, *(tag for tag in shown if tag != sdk)] if sdk else shown


def linked(facts: Facts, key: str) -> list[str]:
    """The models or datasets that the card of a Space names."""
    named = (facts["card"] or {}).get(key)
    named = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return [name for name in named if isinstance(name, str) and REPO_ID.fullmatch(name)]


def runtime(con: sqlite3.Connection, store: Store, repo: Repo) -> dict[str, Any]:
    """What the client reads a `SpaceRuntime` from, at the head of main."""
    facts = _facts(con, repo)
    row = con.execute("SELECT * FROM spaces WHERE repo=?", (repo.id,)).fetchone()
    sdk = sdk_of(repo, facts)
    stage, message = _stage(con, store, repo, facts)
    asked = None if sdk == "static" else (row and row["hardware"]) or hardware.DEFAULT
    sleep = FREE_SLEEP_S if asked == hardware.DEFAULT else row and row["sleep_s"]
    shown: dict[str, Any] = {
        "stage": "PAUSED" if row and row["stage"] == "PAUSED" else stage,
        "errorMessage": message,
        "hardware": {"current": None, "requested": asked},
        "storage": None,
        "gcTimeout": sleep if asked else None,
        "replicas": {"current": 0, "requested": 1},
        "devMode": bool(row and row["dev_mode"]),
    }
    if row and row["volumes"]:
        shown["volumes"] = json.loads(row["volumes"])
    return shown


def _stage(con: sqlite3.Connection, store: Store, repo: Repo, facts: Facts) -> tuple[str, str]:
    if facts["card"] is None:
        return "CONFIG_ERROR", "The metadata of README.md cannot be read."
    both = con.execute("SELECT key FROM space_values WHERE repo=? GROUP BY key HAVING COUNT(*)>1", (repo.id,))
    names = [row["key"] for row in both]
    if names:
        return "CONFIG_ERROR", f"Variables and secrets have the same name: {', '.join(names)}."
    sdk = sdk_of(repo, facts)
    named = facts["card"].get("app_file") if sdk != "docker" else None
    app_file = named if isinstance(named, str) else SDKS.get(sdk or "", "app.py")
    if app_file not in store.tree(con, repo.tree):
        return "NO_APP_FILE", f"There is no {app_file}."
    return "STOPPED", NEVER_RUN


def configure(con: sqlite3.Connection, call: Call, repo: Repo, request: dict[str, Any]) -> None:
    """What making or duplicating a Space may set at once."""
    if repo.kind != "space":
        return
    con.execute("INSERT OR IGNORE INTO spaces (repo) VALUES (?)", (repo.id,))
    if request.get("hardware") is not None:
        flavor = hardware.check_flavor(request["hardware"], hardware.SPACE_FLAVORS)
        con.execute("UPDATE spaces SET hardware=? WHERE repo=?", (flavor, repo.id))
    if request.get("sleepTimeSeconds") is not None:
        sleep_s = _seconds(request["sleepTimeSeconds"])
        con.execute("UPDATE spaces SET sleep_s=? WHERE repo=?", (sleep_s, repo.id))
    if request.get("volumes") is not None:
        volumes = json.dumps(check_volumes(con, call, request["volumes"]))
        con.execute("UPDATE spaces SET volumes=? WHERE repo=?", (volumes, repo.id))
    for kind in (space_values.VARIABLE, space_values.SECRET):
        if request.get(f"{kind}s") is not None:
            space_values.put(con, call, repo, kind, request[f"{kind}s"])


def _seconds(value: object) -> int:
    if type(value) is int and (value == -1 or 0 < value <= MAX_SLEEP_S):
        return value
    raise HubError(400, "A sleep time is a positive number of seconds, or -1 for never.")


def get_runtime(call: Call) -> Response:
    """The state of a Space."""
    with call.store.db.read() as con:
        return _answer(con, call, call.repo(con))


def change(call: Call, request: dict[str, Any], *, needs_machine: bool = True) -> Response:
    """Set columns or what `configure` takes; answers with the state."""
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        if needs_machine and sdk_of(repo, _facts(con, repo)) == "static":
            raise HubError(400, f"{repo.full_name} is a static Space: it has no machine to set up.")
        configure(con, call, repo, request)
        if "stage" in request:
            con.execute("UPDATE spaces SET stage=? WHERE repo=?", (request["stage"], repo.id))
        if "dev_mode" in request:
            con.execute("UPDATE spaces SET dev_mode=? WHERE repo=?", (request["dev_mode"], repo.id))
        return _answer(con, call, repo)


def request_hardware(call: Call) -> Response:
    """Another machine, and perhaps another sleep time."""
    request = call.json()
    flavor = hardware.check_flavor(request.get("flavor"), hardware.SPACE_FLAVORS)
    return change(call, {"hardware": flavor, "sleepTimeSeconds": request.get("sleepTimeSeconds")})


def set_sleep_time(call: Call) -> Response:
    """Seconds without visitors after which it would sleep."""
    return change(call, {"sleepTimeSeconds": _seconds(call.json().get("seconds"))})


def set_dev_mode(call: Call) -> Response:
    """Remembered."""
    enabled = call.json().get("enabled")
    if not isinstance(enabled, bool):
        raise HubError(400, '"enabled" must be true or false.')
    return change(call, {"dev_mode": enabled})


def set_volumes(call: Call) -> Response:
    """All of them at once."""
    return change(call, {"volumes": call.json().get("volumes", "")}, needs_machine=False)


def logs(call: Call) -> Response:
    """None: an event stream that ends at once."""
    with call.store.db.read() as con:
        call.writable_repo(con)
    return Response(b"", media_type="text/event-stream")


def search(call: Call) -> Response:
    """Needs a model."""
    raise HubError(501, "Semantic search is not served here: use list_spaces(search=…).")


def _facts(con: sqlite3.Connection, repo: Repo) -> Facts:
    row = con.execute("SELECT facts FROM trees WHERE id=?", (repo.tree,)).fetchone()
    facts: Facts = json.loads(row["facts"])
    return facts


def _answer(con: sqlite3.Connection, call: Call, repo: Repo) -> Response:
    return answer(runtime(con, call.store, repo))


ROUTES = [
    Route("GET", "/api/spaces/templates", lambda call: answer({"templates": []})),
    Route("GET", "/api/spaces/semantic-search", search),
    Route("GET", f"{SPACE_REPO}/runtime", get_runtime),
    Route("POST", f"{SPACE_REPO}/hardware", request_hardware),
    Route("POST", f"{SPACE_REPO}/sleeptime", set_sleep_time),
    Route("POST", f"{SPACE_REPO}/pause", lambda call: change(call, {"stage": "PAUSED"})),
    Route("POST", f"{SPACE_REPO}/restart", lambda call: change(call, {"stage": None}, needs_machine=False)),
    Route("POST", f"{SPACE_REPO}/dev-mode", set_dev_mode),
    Route("PUT", f"{SPACE_REPO}/volumes", set_volumes),
    Route("DELETE", f"{SPACE_REPO}/volumes", lambda call: change(call, {"volumes": []}, needs_machine=False)),
    Route("GET", f"{SPACE_REPO}/logs/{{log}}", logs),
]
