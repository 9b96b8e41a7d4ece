"""Reading files: HEAD and GET of `/resolve/`, whole or by range, streamed from disk."""

import mimetypes
from urllib.parse import quote

from starlette.responses import Response

from hub_fusion.local_hub.call import FILE_REPOS, Call, Route
from hub_fusion.local_hub.errors import entry_not_found, repo_not_found
from hub_fusion.local_hub.ranges import parse_range
from hub_fusion.local_hub.stream import SliceResponse
from hub_fusion.local_hub.trees import Entry
from hub_fusion.local_hub.xet_read import xet_headers

EXPOSED = "X-Repo-Commit,X-Linked-Size,X-Linked-Etag,X-Xet-Hash,Link,ETag,Accept-Ranges,Content-Range"


def resolve(call: Call) -> Response:
    """The file's headers, and for GET its content."""
    path, revision = call.params["path"], call.params["rev"]
    with call.store.db.read() as con:
        repo = call.readable_repo(con)
        commit = call.store.resolve(con, repo, revision)
        entry = call.store.tree(con, commit.tree).get(path)
        erased = "SELECT 1 FROM erased WHERE repo=? AND sha256=?"
        if entry is not None and entry.lfs and con.execute(erased, (repo.id, entry.blob)).fetchone():
            entry = None  # removed for good; its pointer is still in the tree
    if entry is None:
        raise entry_not_found(path, revision, commit.oid)
    request = call.request
    etag = f'"{entry.blob if entry.lfs else entry.oid}"'
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2], safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Access-Control-Expose-Headers": EXPOSED,
    }
    if entry.lfs:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry.size)} | xet_headers(call, repo, revision, entry)
    if etag in [value.strip().removeprefix("W/") for value in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    start, end, status = 0, entry.size, 200
    asked = request.headers.get("range")
    if asked and request.headers.get("if-range", etag) == etag:
        start, end, status = parse_range(asked, entry.size)
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
    headers["Content-Length"] = str(end - start)
    media_type = _media_type(entry)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    if request.headers.get("x-hf-download-counter"):
        call.store.count_download(repo.id)
    return SliceResponse(call.store.blobs.path(entry.blob), start, end, status, headers, media_type)


def _media_type(entry: Entry) -> str:
    if entry.lfs:
        return "application/octet-stream"
    guessed = mimetypes.guess_type(entry.path)[0] or "text/plain"
    return "text/plain" if guessed in ("text/html", "application/javascript", "text/javascript") else guessed


def bare_name(call: Call) -> Response:
    """Repositories here always have a namespace; one without does not exist."""
    raise repo_not_found()


ROUTES = [
    Route(method, f"{repo}/resolve/{{rev}}/{{path:path}}", resolve)
    for repo in reversed(FILE_REPOS)
    for method in ("HEAD", "GET")
] + [
    Route("HEAD", "/{name}/resolve/{rev}/{path:path}", bare_name),
    Route("GET", "/{name}/resolve/{rev}/{path:path}", bare_name),
    Route("GET", "/api/{kind:hub_kind}/{name}", bare_name),
    Route("GET", "/api/{kind:hub_kind}/{name}/revision/{rev}", bare_name),
]
