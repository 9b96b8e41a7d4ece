"""Committing: any number of operations, all of them or none.

Contents are on disk and verified before the transaction begins; inside it the head is compared with `parentCommit`,
so that of two commits on the same parent exactly one succeeds. With `create_pr` the commit opens a pull request.
"""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub import events, history, pulls, threads, trees
from hub_fusion.local_hub.blobs import SHA256
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.errors import HubError, entry_not_found, revision_not_found
from hub_fusion.local_hub.preupload import decode
from hub_fusion.local_hub.store import Repo
from hub_fusion.local_hub.trees import Entry, Tree

MAX_LINE_BYTES = 96 * 2**20
MAX_TITLE_CHARS, MAX_MESSAGE_CHARS = 1000, 65_536
STALE = "The branch was updated since you opened this page. Please refresh and try again."


def commit(call: Call) -> Response:
    """All operations of the request as one commit on a branch or in a pull request, or none of them."""
    if call.flag("hot_reload"):
        raise HubError(501, "Nothing runs here that could be reloaded: commit without it.")
    with call.store.blobs.guard():  # from the first content kept to the commit that refers to it
        return _commit(call)


def _commit(call: Call) -> Response:
    revision = call.params["rev"]
    with call.store.db.read() as con:
        pulls.uploadable_repo(con, call, revision)
    header, operations = _read_operations(call)
    title = _line(header.get("summary"), MAX_TITLE_CHARS) or "Update"
    message = _line(header.get("description"), MAX_MESSAGE_CHARS)
    with call.store.db.write() as con:
        repo = pulls.uploadable_repo(con, call, revision)
        assert call.user is not None
        ref, head = _branch(con, call, repo, revision, header.get("parentCommit"))
        before = call.store.tree(con, call.store.commit(con, repo, head).tree)
        after = _apply(con, call, repo, before, operations, revision, head)
        pull = None
        if call.flag("create_pr"):
            text, begin = message[: threads.MAX_TEXT_CHARS], head
            pull = pulls.open_pull(con, repo, call.user, title, text, start=begin, target=ref, status="open")
            ref = pull.ref
            events.thread_event(con, call, repo, events.CREATE, pull)
        elif ref.startswith(pulls.PULL_REF):
            pull = pulls.of_ref(con, repo, ref)
        oid = head
        if after != before:
            oid = history.add_commit(
                con, call.store, repo.id, ref, after, parent=head, title=title, message=message, author=call.user.name
            ).oid
            if pull is not None:
                pulls.note_commit(con, pull, call.user, title, oid)
            events.content_event(con, call, repo, ref, head, oid)
    shown = {"success": True, "commitOid": oid, "commitUrl": f"{call.base}/{repo.url_path}/commit/{oid}"}
    if call.flag("create_pr") and pull is not None:
        shown["pullRequestUrl"] = f"{call.base}/{repo.url_path}/discussions/{pull.num}"
    return answer(shown | {"hookOutput": ""})


def _read_operations(call: Call) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """(header, operations); contents sent inline are kept as blobs on the way."""
    header: dict[str, Any] | None = None
    operations: list[tuple[str, Any]] = []
    for key, value in _lines(call):
        if key == "header":
            header = value
        elif key == "file":
            operations.append(("put", _inline(call, value)))
        elif key == "lfsFile":
            operations.append(("link", value | {"path": trees.check_path(value.get("path"))}))
        elif key in ("deletedFile", "deletedFolder", "deletedEntry"):
            path = value.get("path")
            operations.append((key, path if path == "/" else trees.check_path(str(path or "").rstrip("/"))))
        else:
            raise HubError(400, f"Unknown operation {str(key)[:50]!r}.")
    if header is None:
        raise HubError(400, 'A commit needs a "header" line with its summary.')
    return header, operations


def _lines(call: Call) -> Iterator[tuple[Any, dict[str, Any]]]:
    assert call.spool is not None
    while line := call.spool.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise HubError(413, "A file sent inline is too large; send it through LFS.")
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError):
            raise HubError(400, "The commit is not newline-separated JSON.") from None
        if not isinstance(parsed, dict) or not isinstance(parsed.get("value"), dict):
            raise HubError(400, 'Each line of a commit is {"key": …, "value": {…}}.')
        yield parsed.get("key"), parsed["value"]


def _inline(call: Call, value: dict[str, Any]) -> Entry:
    path = trees.check_path(value.get("path"))
    raw = value.get("content")
    if not isinstance(raw, str):
        raise HubError(400, f'The file {path!r} needs a "content".')
    try:
        content = decode(raw, path) if value.get("encoding") == "base64" else raw.encode()
    except UnicodeEncodeError:
        raise HubError(400, f"The content of {path!r} has lone surrogates, which no text holds.") from None
    return Entry(path, call.store.blobs.put(content), len(content), trees.git_oid(content), False)


def _apply(
    con: sqlite3.Connection,
    call: Call,
    repo: Repo,
    before: Tree,
    operations: list[tuple[str, Any]],
    revision: str,
    head: str,
) -> Tree:
    """The files after all operations."""
    after = dict(before)
    for kind, value in operations:
        if kind == "put":
            after[value.path] = value
        elif kind == "link":
            after[value["path"]] = _linked(con, call, repo, value)
        else:
            prefix = "" if value == "/" else f"{value}/"
            doomed = [value] if kind != "deletedFolder" and value in after else []
            doomed += [path for path in after if path.startswith(prefix)]
            if not doomed:
                raise entry_not_found(value, revision, head)
            for path in doomed:
                after.pop(path, None)
    trees.check_no_clash(after)
    return {path: after[path] for path in sorted(after)}


def _linked(con: sqlite3.Connection, call: Call, repo: Repo, value: dict[str, Any]) -> Entry:
    """A large file whose content is here already, uploaded by this user or part of this repository."""
    path, oid, size = value["path"], value.get("oid"), value.get("size")
    if value.get("algo", "sha256") != "sha256" or not isinstance(oid, str) or not SHA256.fullmatch(oid):
        raise HubError(400, f"The large file {path!r} needs the sha256 of its content.")
    known = may_link(con, call, repo, oid)
    present = call.store.blobs.size(oid) if known else None
    if present is None:
        raise HubError(400, f"LFS pointer of {path!r} points to a file that does not exist: {oid}. Upload it first.")
    if size is not None and size != present:
        raise HubError(400, f"LFS pointer of {path!r} says {size} bytes, the uploaded content has {present}.")
    if con.execute("DELETE FROM erased WHERE repo=? AND sha256=?", (repo.id, oid)).rowcount:  # sent once more
        con.execute("INSERT OR IGNORE INTO repo_blobs VALUES (?, ?, ?)", (repo.id, oid, present))
    return Entry(path, oid, present, trees.git_oid(trees.lfs_pointer(oid, present)), True)


def may_link(con: sqlite3.Connection, call: Call, repo: Repo, sha256: str) -> bool:
    """Knowing a hash is not having the content: it must be in this repository or uploaded by this user."""
    assert call.user is not None
    row = con.execute(
        "SELECT 1 FROM repo_blobs WHERE repo=? AND sha256=?"
        " UNION ALL SELECT 1 FROM uploads WHERE account=? AND sha256=?",
        (repo.id, sha256, call.user.id, sha256),
    ).fetchone()
    return row is not None


def _branch(con: sqlite3.Connection, call: Call, repo: Repo, revision: str, expected: object) -> tuple[str, str]:
    """(full ref name, head) of what to commit to; a tag or a commit cannot grow. 412 unless its head is `expected`.

    A pull request is opened against a branch, at the expected commit wherever the branch is now.
    """
    full = revision.startswith(history.GROWING)
    name = revision if full else f"refs/heads/{revision}"
    row = con.execute("SELECT oid FROM refs WHERE repo=? AND name=?", (repo.id, name)).fetchone()
    propose = call.flag("create_pr")
    if row is None or (propose and not name.startswith("refs/heads/")):
        call.store.resolve(con, repo, revision)
        if propose:
            raise revision_not_found(revision)
        raise HubError(400, f"{revision!r} is not a branch: commits can only be added to branches.")
    if not expected:
        return name, row["oid"]
    if not isinstance(expected, str) or len(expected) < 7:
        raise HubError(412, STALE)
    if propose:
        return name, call.store.resolve(con, repo, expected).oid
    if not row["oid"].startswith(expected):
        raise HubError(412, STALE)
    return name, row["oid"]


def _line(value: object, limit: int) -> str:
    return value[:limit].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


ROUTES = [Route("POST", f"{API_REPO}/commit/{{rev}}", commit, body="spool")]
