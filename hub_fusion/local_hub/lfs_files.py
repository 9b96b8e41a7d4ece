"""The large files of a repository through all of its history: listed, and removed for good.

A file is removed from the repository, not from the disk: `hub-fusion hub gc` does that once no other repository has
it. Rewriting takes it out of every commit, which gives all later commits other names; without rewriting its pointers
stay in the history, and reading them is refused.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from hub_fusion.local_hub import events, history
from hub_fusion.local_hub.blobs import SHA256
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.db import iso, now_ms
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.store import Commit, Repo, Store

PAGE, MAX_DELETIONS = 1000, 1000


def list_files(call: Call) -> Response:
    """One page of the large files: each content once, with a name and a ref it has, and when it came."""
    query = call.request.query_params
    page = query.get("cursor", "0")
    at = int(page) if page.isascii() and page.isdigit() and len(page) < 10 else 0
    with call.store.db.read() as con:
        repo = call.writable_repo(con)
        found = list(_large_files(con, call.store, repo))
    headers = {}
    if len(found) > at + PAGE:
        parameters = [(name, value) for name, value in query.multi_items() if name != "cursor"]
        parameters.append(("cursor", str(at + PAGE)))
        headers["Link"] = f'<{call.base}{call.request.scope["path"]}?{urlencode(parameters)}>; rel="next"'
    return answer(found[at : at + PAGE], headers=headers)


def _large_files(con: sqlite3.Connection, store: Store, repo: Repo) -> Iterator[dict[str, Any]]:
    seen = {row["sha256"] for row in con.execute("SELECT sha256 FROM erased WHERE repo=?", (repo.id,))}
    for ref, commit in _all_commits(con, repo):
        for path, entry in store.tree(con, commit.tree).items():
            if entry.lfs and entry.blob not in seen:
                seen.add(entry.blob)
                pushed = iso(commit.date)
                yield {"fileOid": entry.blob, "filename": path, "oid": entry.blob, "size": entry.size,
                       "ref": ref, "pushedAt": pushed}  # fmt: skip


def _all_commits(con: sqlite3.Connection, repo: Repo) -> Iterator[tuple[str | None, Commit]]:
    """(ref, commit): those of main from its beginning, then what other refs add, then what no ref leads to."""
    done: set[str] = set()
    refs = con.execute("SELECT name, oid FROM refs WHERE repo=? ORDER BY name<>?, name", (repo.id, history.MAIN))
    for ref in refs.fetchall():
        fresh: list[Commit] = []
        for commit in history.ancestors(con, repo, ref["oid"]):
            if commit.oid in done:
                break
            fresh.append(commit)
        done.update(commit.oid for commit in fresh)
        yield from ((ref["name"], commit) for commit in reversed(fresh))
    for row in con.execute("SELECT * FROM commits WHERE repo=? ORDER BY date", (repo.id,)):
        if row["oid"] not in done:
            yield None, Commit(**row)


def delete_files(call: Call) -> Response:
    """Remove contents from the repository, and by default from every commit that has them."""
    request = call.json().get("deletions")
    hashes = request.get("sha") if isinstance(request, dict) else None
    if (
        not isinstance(request, dict)
        or not isinstance(hashes, list)
        or not all(isinstance(sha256, str) and SHA256.fullmatch(sha256) for sha256 in hashes)
        or len(hashes) > MAX_DELETIONS
        or not isinstance(request.get("rewriteHistory", True), bool)
    ):
        known = f'"sha", a list of at most {MAX_DELETIONS} sha256, and "rewriteHistory", true or false'
        raise HubError(400, f'"deletions" needs {known}.')
    with call.store.blobs.guard(), call.store.db.write() as con:
        repo = call.writable_repo(con)
        doomed = set(hashes).intersection(item["fileOid"] for item in _large_files(con, call.store, repo))
        if request.get("rewriteHistory", True):
            _rewrite(con, call, repo, doomed)
        else:
            con.executemany("INSERT INTO erased VALUES (?, ?, ?)", [(repo.id, sha256, now_ms()) for sha256 in doomed])
        con.executemany("DELETE FROM repo_blobs WHERE repo=? AND sha256=?", [(repo.id, sha256) for sha256 in doomed])
    return answer({"success": True, "deleted": sorted(doomed)})


def _rewrite(con: sqlite3.Connection, call: Call, repo: Repo, doomed: set[str]) -> None:
    """Make every commit again that has one of these files, or comes after one that has."""
    commits = {commit.oid: commit for _, commit in _all_commits(con, repo)}
    renamed: dict[str, str] = {}
    for commit in _parents_first(commits):
        tree = call.store.tree(con, commit.tree)
        kept = {path: entry for path, entry in tree.items() if not (entry.lfs and entry.blob in doomed)}
        if len(kept) == len(tree) and commit.parent not in renamed:
            continue
        again = replace(commit, parent=renamed.get(commit.parent or "", commit.parent),
                        tree=history.keep_tree(con, call.store, kept))  # fmt: skip
        renamed[commit.oid] = history.keep_commit(con, again).oid
    refs = con.execute("SELECT name, oid FROM refs WHERE repo=?", (repo.id,)).fetchall()
    moved = [(row["name"], row["oid"]) for row in refs if row["oid"] in renamed]
    for name, oid in moved:
        history.point(con, repo.id, name, renamed[oid])
    pairs = [(old, repo.id) for old in renamed if old not in renamed.values()]
    con.executemany("DELETE FROM commits WHERE oid=? AND repo=?", pairs)
    _rename_in_threads(con, repo, renamed)
    for name, oid in moved:
        events.content_event(con, call, repo, name, oid, renamed[oid])


def _parents_first(commits: dict[str, Commit]) -> list[Commit]:
    ordered: dict[str, Commit] = {}
    for commit in commits.values():
        line = []
        while commit.oid not in ordered:
            line.append(commit)
            if commit.parent not in commits:
                break
            commit = commits[commit.parent]
        ordered.update((commit.oid, commit) for commit in reversed(line))
    return list(ordered.values())


def _rename_in_threads(con: sqlite3.Connection, repo: Repo, renamed: dict[str, str]) -> None:
    """Pull requests name their commits."""
    con.executemany("UPDATE threads SET merged=? WHERE repo=? AND merged=?",
                    [(new, repo.id, old) for old, new in renamed.items()])  # fmt: skip
    rows = con.execute("SELECT thread_events.id, data FROM thread_events JOIN threads ON threads.id=thread"
                       " WHERE repo=? AND pull=1", (repo.id,)).fetchall()  # fmt: skip
    for row in rows:
        data = json.loads(row["data"])
        changes = {key: renamed[data[key]] for key in ("oid", "mergeCommitId") if data.get(key) in renamed}
        if changes:
            con.execute("UPDATE thread_events SET data=? WHERE id=?", (json.dumps(data | changes), row["id"]))


ROUTES = [
    Route("GET", f"{API_REPO}/lfs-files", list_files),
    Route("POST", f"{API_REPO}/lfs-files/batch", delete_files),
]
