"""Reading files: HEAD and GET of `/resolve/`, whole or by range, streamed from disk."""

import mimetypes
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from hub_fusion.local_hub.call import FILE_REPOS, Call, Route
from hub_fusion.local_hub.errors import HubError, entry_not_found, repo_not_found
from hub_fusion.local_hub.trees import Entry

PIECE = 1 << 20
ONE_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")


def resolve(call: Call) -> Response:
    """The file's headers, and for GET its content."""
    path, revision = call.params["path"], call.params["rev"]
    with call.store.db.read() as con:
        repo = call.readable_repo(con)
        commit = call.store.resolve(con, repo, revision)
        entry = call.store.tree(con, commit.tree).get(path)
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
        "Access-Control-Expose-Headers": "X-Repo-Commit,X-Linked-Size,X-Linked-Etag,ETag,Accept-Ranges,Content-Range",
    }
    if entry.lfs:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry.size)}
    if etag in [value.strip().removeprefix("W/") for value in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    start, end, status = 0, entry.size, 200
    asked = request.headers.get("range")
    if asked and request.headers.get("if-range", etag) == etag:
        start, end, status = _range(asked, entry.size)
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
    headers["Content-Length"] = str(end - start)
    media_type = _media_type(entry)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    if request.headers.get("x-hf-download-counter"):
        call.store.count_download(repo)
    file = call.store.blobs.path(entry.blob)
    if end - start <= PIECE:
        return Response(_read(file, start, end), status, headers, media_type)
    return StreamingResponse(_stream(file, start, end), status, headers, media_type)


def _range(asked: str, size: int) -> tuple[int, int, int]:
    """(start, end, status) of a Range header; 416 outside the file, the whole file if it is not one plain range."""
    match = ONE_RANGE.fullmatch(asked)
    if match is None or match.groups() == ("", ""):
        return 0, size, 200
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < int(first):
            return 0, size, 200
    if start >= end:
        raise HubError(416, f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"})
    return start, end, 206


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


async def _stream(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    file: BinaryIO = await run_in_threadpool(path.open, "rb")
    try:
        file.seek(start)
        while start < end:
            piece = await run_in_threadpool(file.read, min(PIECE, end - start))
            if not piece:
                return  # shorter than announced: the client sees a broken stream, never a wrong file
            start += len(piece)
            yield piece
    finally:
        file.close()


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
