"""Making, deleting, renaming repositories and changing their settings."""

import json
import re
import sqlite3
from typing import Any

from starlette.responses import PlainTextResponse, Response

from hub_fusion.local_hub import attributes, events, history, lineage, spaces, trees
from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.db import new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError, repo_not_found, sign_in_first
from hub_fusion.local_hub.settings import visibility
from hub_fusion.local_hub.store import URL_PREFIX, Repo
from hub_fusion.local_hub.users import check_can_write, may_see, may_write_to

REPO_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


def create(call: Call) -> Response:
    """A new repository with one commit; 409, with its url, if the name is taken."""
    request = call.json()
    kind = _kind(request)
    user = call.user
    if user is None:
        raise sign_in_first()
    private = visibility(request, kind)
    sdk = request.get("sdk") if kind == "space" else None
    if kind == "space" and not (isinstance(sdk, str) and sdk in spaces.SDKS):
        raise HubError(400, f"A Space needs an sdk: {', '.join(spaces.SDKS)}.")
    name = check_name(request.get("name"))
    with call.store.blobs.guard(), call.store.db.write() as con:
        owner = namespace(con, call, request.get("organization") or user.name)
        if private is None:
            private = owner["private_default"]
        full_name = f"{owner['name']}/{name}"
        body = {"url": f"{call.base}/{URL_PREFIX[kind]}{full_name}", "name": full_name}
        existing = call.store.find_repo(con, kind, full_name)
        if existing is not None:
            raise HubError(409, f"You already created this {kind} repo: {full_name}", body=body)
        repo_id = insert(con, kind, full_name, owner=owner["id"], private=private, sdk=sdk, creator=user.id)
        history.add_commit(
            con,
            call.store,
            repo_id,
            history.MAIN,
            _first_files(call, name, sdk),
            parent=None,
            title="initial commit",
            message="",
            author=user.name,
        )
        made = call.store.find_repo(con, kind, full_name)
        assert made is not None
        events.repo_event(con, call, made, events.CREATE)
        spaces.configure(con, call, made, request)
    return answer(body | {"id": made.hex})


def insert(
    con: sqlite3.Connection, kind: str, full_name: str, *, owner: int, private: int, sdk: str | None, creator: int
) -> int:
    """The row of a new repository; the caller points its main at a commit in the same transaction."""
    key, now = full_name.lower(), now_ms()
    con.execute("DELETE FROM renames WHERE kind=? AND key=?", (kind, key))
    row_id = con.execute(
        "INSERT INTO repos (hex, kind, full_name, key, owner, private, sdk, created, modified, head, tree, creator)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', '', ?)",
        (new_hex_id(), kind, full_name, key, owner, private, sdk, now, now, creator),
    ).lastrowid
    assert row_id is not None
    return row_id


def _first_files(call: Call, name: str, sdk: str | None) -> trees.Tree:
    """What a new repository begins with: which files are large, and for a Space how it is run."""
    contents = {".gitattributes": attributes.DEFAULT}
    if sdk is not None:
        title = json.dumps(re.sub(r"[-_.]+", " ", name).strip().title())
        app = "app_file: app.py\n" if sdk in ("gradio", "streamlit") else ""
        contents["README.md"] = f"---\ntitle: {title}\nsdk: {sdk}\n{app}pinned: false\n---\n".encode()
    return {
        path: trees.Entry(path, call.store.blobs.put(content), len(content), trees.git_oid(content), False)
        for path, content in contents.items()
    }


def delete(call: Call) -> Response:
    """Forget a repository and its history. Its blobs stay on disk."""
    request = call.json()
    with call.store.db.write() as con:
        repo = _named(con, call, _kind(request), request.get("organization"), request.get("name"))
        events.repo_event(con, call, repo, events.DELETE)
        con.execute("DELETE FROM repos WHERE id=?", (repo.id,))
    return PlainTextResponse("OK")


def move(call: Call) -> Response:
    """Another name, perhaps in another namespace; the old one answers 307 from now on."""
    request = call.json()
    kind = _kind(request)
    old_owner, _, old_name = text(request, "fromRepo").partition("/")
    new_owner, _, new_name = text(request, "toRepo").partition("/")
    with call.store.db.write() as con:
        repo = _named(con, call, kind, old_owner, old_name)
        owner = namespace(con, call, new_owner)
        full_name = f"{owner['name']}/{check_name(new_name)}"
        taken = call.store.find_repo(con, kind, full_name)
        if taken is not None and taken.id != repo.id:
            raise HubError(409, f"A {kind} repository called {full_name} already exists.")
        con.execute("DELETE FROM renames WHERE kind=? AND key=?", (kind, full_name.lower()))
        con.execute(
            "UPDATE repos SET full_name=?, key=?, owner=? WHERE id=?",
            (full_name, full_name.lower(), owner["id"], repo.id),
        )
        if repo.key != full_name.lower():
            con.execute("INSERT OR REPLACE INTO renames VALUES (?, ?, ?)", (kind, repo.key, repo.id))
        if kind == "model":
            lineage.rename_tags(con, repo.full_name, full_name)
        events.repo_event(con, call, repo, events.MOVE, movedTo={"name": full_name, "owner": {"id": owner["hex"]}})
    return answer({"url": f"{call.base}/{URL_PREFIX[kind]}{full_name}"})


def _kind(request: dict[str, Any]) -> str:
    kind = request.get("type") or "model"
    if not isinstance(kind, str) or kind not in URL_PREFIX:
        raise HubError(400, f'"type" must be one of {", ".join(URL_PREFIX)}.')
    return kind


def text(request: dict[str, Any], key: str) -> str:
    """A value of a request that must be there; 400."""
    value = request.get(key)
    if not isinstance(value, str):
        raise HubError(400, f'"{key}" must be a string.')
    return value


def check_name(name: object) -> str:
    """The name of a repository in its namespace; 400."""
    if (
        not isinstance(name, str)
        or not REPO_NAME.fullmatch(name)
        or any(part in name for part in ("..", "--"))
        or name.endswith((".", "-", ".git", ".ipynb"))
    ):
        raise HubError(
            400,
            "Invalid repository name: letters, digits, '-', '_', '.', at most 96, no '--' or '..', not ending with "
            "'.', '-' or '.git'.",
        )
    return name


def namespace(con: sqlite3.Connection, call: Call, name: object) -> sqlite3.Row:
    """The account, if the caller may write to it."""
    row = con.execute("SELECT * FROM accounts WHERE key=?", (str(name).lower(),)).fetchone()
    if call.user is None:
        raise sign_in_first()
    if row is None or not may_write_to(con, call.user, row["id"]):
        raise HubError(403, f'You don\'t have the rights to create repositories under the namespace "{name}".')
    found: sqlite3.Row = row
    return found


def _named(con: sqlite3.Connection, call: Call, kind: str, owner: object, name: object) -> Repo:
    """The repository named in a request body, if the caller may change it."""
    if call.user is None:
        raise sign_in_first()
    repo = call.store.find_repo(con, kind, f"{owner or call.user.name}/{name}")
    if repo is None or not may_see(call.user, repo):
        raise repo_not_found()
    check_can_write(con, call.user, repo)
    return repo


ROUTES = [
    Route("POST", "/api/repos/create", create),
    Route("DELETE", "/api/repos/delete", delete),
    Route("POST", "/api/repos/move", move),
]
