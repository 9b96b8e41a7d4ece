"""Branches, tags and the list of commits."""

import re
import sqlite3
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from hub_fusion.local_hub import events, history
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.db import iso
from hub_fusion.local_hub.errors import HubError, revision_not_found
from hub_fusion.local_hub.store import Commit, Repo

COMMITS_PER_PAGE = 100
BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|^[/.-]|[/.]$")
CO_AUTHOR = re.compile(r"^Co-authored-by: ([\w-]{1,42}) <\1@users\.noreply\.huggingface\.co>$", re.MULTILINE)
MAX_REF_CHARS = 244


def list_refs(call: Call) -> Response:
    """All branches and tags with the commits they name."""
    with call.store.db.read() as con:
        repo = call.repo(con)
        rows = con.execute("SELECT name, oid FROM refs WHERE repo=? ORDER BY name", (repo.id,)).fetchall()
    found: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    if call.flag("include_prs"):
        found["pullRequests"] = []
    groups = (
        ("refs/heads/", "branches"),
        ("refs/convert/", "converts"),
        ("refs/tags/", "tags"),
        ("refs/pr/", "pullRequests"),
    )
    for row in rows:
        for prefix, group in groups:
            if row["name"].startswith(prefix) and group in found:
                short = row["name"].removeprefix(prefix)
                found[group].append({"name": short, "ref": row["name"], "targetCommit": row["oid"]})
    if "pullRequests" in found:
        found["pullRequests"].sort(key=lambda ref: int(ref["name"]))
    found["branches"].sort(key=lambda ref: (ref["name"] != "main", ref["name"]))
    return answer(found)


def create_branch(call: Call) -> Response:
    """A branch, or ``refs/convert/…``, at `startingPoint`, else at the head of main; 409 if it exists."""
    start = call.json().get("startingPoint") or "main"
    name = _branch_name(call.params["branch"])
    _ref_name(name.removeprefix("refs/heads/").removeprefix(history.CONVERT))
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        commit = call.store.resolve(con, repo, _string(start, "startingPoint"))
        if _exists(con, repo, name):
            raise HubError(409, f"Reference {name} already exists")
        _check_no_prefix(con, repo, name)
        history.point(con, repo.id, name, commit.oid)
        events.content_event(con, call, repo, name, None, commit.oid)
    return answer({})


def delete_branch(call: Call) -> Response:
    """Forget a branch, never main."""
    name = _branch_name(call.params["branch"])
    if name == history.MAIN:
        raise HubError(403, f"Cannot delete {name}")
    return _delete(call, name)


def create_tag(call: Call) -> Response:
    """A tag on a revision. A tag never moves: 409 if it exists."""
    request = call.json()
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        commit = call.store.resolve(con, repo, call.params["rev"])
        name = f"refs/tags/{_ref_name(_string(request.get('tag'), 'tag'))}"
        if _exists(con, repo, name):
            raise HubError(409, f"Tag reference exists already: {name}")
        _check_no_prefix(con, repo, name)
        con.execute(
            "INSERT INTO refs VALUES (?, ?, ?, ?)",
            (repo.id, name, commit.oid, str(request.get("message") or "").encode("utf-8", "replace").decode()),
        )
        events.content_event(con, call, repo, name, None, commit.oid)
    return answer({})


def delete_tag(call: Call) -> Response:
    """Forget a tag."""
    return _delete(call, f"refs/tags/{call.params['tag']}")


def list_commits(call: Call) -> Response:
    """The history of a revision, newest first, in pages."""
    query = call.request.query_params
    page = query.get("p", "0")
    at = int(page) if page.isascii() and page.isdigit() and len(page) < 9 else 0
    size = query.get("limit", "")
    limit = max(1, min(int(size), 1000)) if size.isascii() and size.isdigit() and len(size) < 9 else COMMITS_PER_PAGE
    with call.store.db.read() as con:
        repo = call.repo(con)
        head = call.store.resolve(con, repo, call.params["rev"])
        line = list(history.ancestors(con, repo, head.oid))
    shown = line[at * limit : (at + 1) * limit]
    headers = {"X-Total-Count": str(len(line))}
    if len(line) > (at + 1) * limit:
        parameters = [(name, value) for name, value in query.multi_items() if name != "p"] + [("p", str(at + 1))]
        headers["Link"] = f'<{call.base}{call.request.scope["path"]}?{urlencode(parameters)}>; rel="next"'
    formatted = "formatted" in call.values("expand")
    return answer([_commit(commit, formatted=formatted) for commit in shown], headers=headers)


def squash(call: Call) -> Response:
    """Replace the history of a branch, a pull request or a conversion by one commit with the same files."""
    message = _string(call.json().get("message") or "Squash history", "message")
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        name = call.params["rev"]
        if not name.startswith(history.GROWING):
            name = f"refs/heads/{name}"
        row = con.execute("SELECT oid FROM refs WHERE repo=? AND name=?", (repo.id, name)).fetchone()
        if row is None or call.user is None:
            raise revision_not_found(call.params["rev"])
        tree = call.store.tree(con, call.store.commit(con, repo, row["oid"]).tree)
        commit = history.add_commit(
            con, call.store, repo.id, name, tree, parent=None, title=message, message="", author=call.user.name
        )
        events.content_event(con, call, repo, name, row["oid"], commit.oid)
    return answer({"commitId": commit.oid})


def _commit(commit: Commit, *, formatted: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "date": iso(commit.date),
        "authors": [{"user": name} for name in dict.fromkeys([commit.author, *CO_AUTHOR.findall(commit.message)])],
    }
    if formatted:
        shown["formatted"] = {"title": commit.title, "message": commit.message}
    return shown


def _delete(call: Call, name: str) -> Response:
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        row = con.execute("DELETE FROM refs WHERE repo=? AND name=? RETURNING oid", (repo.id, name)).fetchone()
        if row is None:
            raise revision_not_found(name)
        events.content_event(con, call, repo, name, row["oid"], None)
    return answer({})


def _exists(con: sqlite3.Connection, repo: Repo, name: str) -> bool:
    return con.execute("SELECT 1 FROM refs WHERE repo=? AND name=?", (repo.id, name)).fetchone() is not None


def _check_no_prefix(con: sqlite3.Connection, repo: Repo, name: str) -> None:
    """Git keeps refs as files: `a` and `a/b` cannot both be branches."""
    for row in con.execute("SELECT name FROM refs WHERE repo=?", (repo.id,)):
        if row["name"].startswith(name + "/") or name.startswith(row["name"] + "/"):
            raise HubError(409, f"Reference {name} already exists as a part of {row['name']}")


def _ref_name(name: str) -> str:
    if (
        not name
        or len(name) > MAX_REF_CHARS
        or BAD_IN_REF.search(name)
        or not name.isprintable()
        or name.startswith("refs/")
    ):
        raise HubError(400, f"Invalid ref name: {name[:100]!r}.")
    return name


def _branch_name(name: str) -> str:
    return name if name.startswith(history.CONVERT) else f"refs/heads/{name}"


def _string(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise HubError(400, f'"{key}" must be a string.')
    return value.encode("utf-8", "replace").decode()


ROUTES = [
    Route("GET", f"{API_REPO}/refs", list_refs),
    Route("POST", f"{API_REPO}/branch/{{branch}}", create_branch),
    Route("DELETE", f"{API_REPO}/branch/{{branch}}", delete_branch),
    Route("POST", f"{API_REPO}/tag/{{rev}}", create_tag),
    Route("DELETE", f"{API_REPO}/tag/{{tag}}", delete_tag),
    Route("GET", f"{API_REPO}/commits/{{rev}}", list_commits),
    Route("POST", f"{API_REPO}/super-squash/{{rev}}", squash),
]
