"""Looking at the files of a revision without downloading them: tree, paths-info, safetensors headers.

Not covered: security scans. Every file is reported as safe.
"""

import sqlite3
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from hub_fusion.local_hub import history, trees
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.db import iso
from hub_fusion.local_hub.errors import HubError, entry_not_found
from hub_fusion.local_hub.facts import read_json, safetensors_header, shards
from hub_fusion.local_hub.store import Commit, Repo
from hub_fusion.local_hub.trees import Entry, Tree

PAGE, EXPANDED_PAGE = 1000, 50
MAX_PATHS = 10_000


def tree(call: Call) -> Response:
    """Files and folders below a path, folders first in no special order but that of their names."""
    folder = call.params.get("path", "").strip("/")
    recursive, expand = call.flag("recursive"), call.flag("expand")
    query = call.request.query_params
    with call.store.db.read() as con:
        repo = call.repo(con)
        commit = call.store.resolve(con, repo, call.params["rev"])
        files = call.store.tree(con, commit.tree)
        items = _below(files, folder, recursive=recursive)
        if folder and not items:
            raise entry_not_found(folder, call.params["rev"], commit.oid)
        size = EXPANDED_PAGE if expand else PAGE
        after = query.get("cursor", "")
        rest = [item for item in items if item["path"] > after]
        shown = rest[:size]
        if expand:
            _expand(con, call, repo, commit, shown)
    headers = {"X-Repo-Commit": commit.oid}
    if len(rest) > size:
        parameters = [(name, value) for name, value in query.multi_items() if name != "cursor"]
        parameters.append(("cursor", shown[-1]["path"]))
        headers["Link"] = f'<{call.base}{call.request.scope["path"]}?{urlencode(parameters)}>; rel="next"'
    return answer(shown, headers=headers)


def paths_info(call: Call) -> Response:
    """The files and folders among the asked paths; what does not exist is left out."""
    form = call.form()
    asked = [path.strip("/") for path in form.get("paths", [])]
    if len(asked) > MAX_PATHS:
        raise HubError(413, f"At most {MAX_PATHS} paths can be asked for at once.")
    with call.store.db.read() as con:
        repo = call.repo(con)
        commit = call.store.resolve(con, repo, call.params["rev"])
        files = call.store.tree(con, commit.tree)
        oids = trees.folder_oids(files) if any(path not in files for path in asked) else {}
        items = []
        for path in dict.fromkeys(asked):
            if path in files:
                items.append(_file(files[path]))
            elif path in oids and path:
                items.append(_folder(path, oids[path]))
        if form.get("expand", ["false"])[0].lower() in ("true", "1"):
            _expand(con, call, repo, commit, items)
    return answer(items)


def safetensors_metadata(call: Call) -> Response:
    """The headers of all shards that an index on main names, in one answer."""
    path = call.params["path"]
    with call.store.db.read() as con:
        repo = call.readable_repo(con)
        files = call.store.tree(con, repo.tree)
    if path not in files:
        raise entry_not_found(path, "main", repo.head)
    blobs = call.store.blobs
    if path.endswith(".safetensors"):
        return answer({"index": {}, "headers": {path: safetensors_header(blobs, files[path])}})
    index = read_json(blobs, files[path])
    if index is None or not isinstance(index.get("weight_map"), dict):
        raise HubError(422, f"{path} is not a safetensors index.")
    folder = path.rpartition("/")[0]
    inside = {name.removeprefix(f"{folder}/" if folder else ""): entry for name, entry in files.items()}
    named = {entry.path for entry in shards(blobs, {"model.safetensors.index.json": files[path], **_weights(inside)})}
    headers = {name: safetensors_header(blobs, entry) for name, entry in inside.items() if entry.path in named}
    return answer({"index": {"metadata": index.get("metadata")}, "headers": headers})


def _weights(files: Tree) -> Tree:
    """The weight files by name, without the single-file model, which an index takes the place of."""
    return {name: e for name, e in files.items() if name.endswith(".safetensors") and name != "model.safetensors"}


def _below(files: Tree, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    inside = [path for path in files if path.startswith(prefix)]
    oids = trees.folder_oids(files)
    items = []
    for path in (found for found in trees.folders(files) if found.startswith(prefix)):
        if recursive or "/" not in path.removeprefix(prefix):
            items.append(_folder(path, oids[path]))
    for path in inside:
        if recursive or "/" not in path.removeprefix(prefix):
            items.append(_file(files[path]))
    return sorted(items, key=lambda item: item["path"])


def _file(entry: Entry) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": entry.path}
    if entry.lfs:
        pointer = len(trees.lfs_pointer(entry.blob, entry.size))
        item |= {"lfs": {"oid": entry.blob, "size": entry.size, "pointerSize": pointer}, "xetHash": entry.blob}
    return item


def _folder(path: str, oid: str) -> dict[str, Any]:
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def _expand(con: sqlite3.Connection, call: Call, repo: Repo, commit: Commit, items: list[dict[str, Any]]) -> None:
    last = history.last_commits(con, call.store, repo, commit)
    for item in items:
        by = last[item["path"]]
        item["lastCommit"] = {"id": by.oid, "title": by.title, "date": iso(by.date)}
        if item["type"] == "file":
            item["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}


ROUTES = [
    Route("GET", f"{API_REPO}/tree/{{rev}}", tree),
    Route("GET", f"{API_REPO}/tree/{{rev}}/{{path:path}}", tree),
    Route("POST", f"{API_REPO}/paths-info/{{rev}}", paths_info),
    Route("GET", f"{API_REPO}/safetensors-metadata/{{path:path}}", safetensors_metadata),
]
