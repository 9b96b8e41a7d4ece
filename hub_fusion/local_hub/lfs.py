"""Large files the git-lfs way: batch, PUT, verify; and the permission to copy them between repositories.

The PUT carries no credentials, so its URL is signed for one user, one hash and one size. Small files go up in one
request and are hashed on the way; for large ones see `multipart`.
"""

import json

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from hub_fusion.local_hub import multipart
from hub_fusion.local_hub.blobs import SHA256, BlobWriter, WrongContent
from hub_fusion.local_hub.call import API_REPO, FILE_REPOS, Call, Route, answer
from hub_fusion.local_hub.commits import may_link
from hub_fusion.local_hub.db import now_ms
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.intake import drain, grant, receive
from hub_fusion.local_hub.pulls import uploadable_repo
from hub_fusion.local_hub.store import Store
from hub_fusion.local_hub.users import check_can_write, may_read_files

LFS_JSON = "application/vnd.git-lfs+json"
UPLOAD_VALID_S = 24 * 3600
MAX_BATCH = 1000
MAX_BYTES = 2**40


def batch(call: Call) -> Response:
    """Where to PUT each object that is not here yet."""
    request = call.json()
    if request.get("operation") != "upload":
        raise HubError(501, "Only uploads are served through git-lfs; download from /resolve/.")
    objects = request.get("objects")
    if not isinstance(objects, list) or len(objects) > MAX_BATCH:
        raise HubError(400, f'"objects" must be a list of at most {MAX_BATCH}.')
    transfers = request.get("transfers")
    transfers = transfers if isinstance(transfers, list) else []
    shown: list[dict[str, object]] = []
    renewed: list[str] = []
    transfer = "basic"
    with call.store.db.read() as con:
        repo = uploadable_repo(con, call)
        assert call.user is not None
        for item in objects:
            oid, size = _object(item)
            entry: dict[str, object] = {"oid": oid, "size": size, "authenticated": True}
            if not (may_link(con, call, repo, oid) and call.store.blobs.size(oid) == size):
                path = call.request.scope["path"].removesuffix("/batch")
                in_parts = size > multipart.ABOVE and "multipart" in transfers
                how = multipart.plan(call, oid, size) if in_parts else _one_put(call, oid, size)
                entry["actions"] = {"upload": how, "verify": {"href": f"{call.base}{path}/verify", "header": {}}}
                transfer = "multipart" if in_parts else transfer
            else:
                renewed.append(oid)
            shown.append(entry)
    with call.store.db.write() as con:  # what the caller relies on to be here does not expire while it is at work
        con.executemany(
            "UPDATE uploads SET at=? WHERE account=? AND sha256=?", [(now_ms(), call.user.id, oid) for oid in renewed]
        )
    body = json.dumps({"transfer": transfer, "objects": shown, "hash_algo": "sha256"})
    return Response(body, media_type=LFS_JSON)


def _one_put(call: Call, oid: str, size: int) -> dict[str, object]:
    assert call.user is not None
    ticket = call.store.sign("lfs", call.user.id, oid, size, valid_s=UPLOAD_VALID_S)
    return {"href": f"{call.base}/lfs-storage/{oid}?ticket={ticket}", "header": {}}


async def upload(call: Call) -> Response:
    """Take the content of one object; 400, and nothing kept, unless its sha256 and size are those announced."""
    ticket = call.store.verify("lfs", call.request.query_params.get("ticket", ""))
    oid = call.params["oid"]
    if ticket is None or ticket[1] != oid:
        await drain(call)
        raise HubError(403, "This upload URL is not valid, or not any more.")
    size = int(ticket[2])
    with call.store.blobs.writer() as writer:
        arrived = await receive(call, writer.write, size)
        if arrived != size:
            raise HubError(400, f"{size} bytes were announced for {oid}, {arrived} arrived.")
        await run_in_threadpool(_keep, call.store, writer, int(ticket[0]), oid)
    return Response(status_code=200, headers={"ETag": f'"{oid}"'})


def _keep(store: Store, writer: BlobWriter, account: int, oid: str) -> None:
    try:
        with store.blobs.guard():
            writer.keep(expect=oid)
            grant(store, account, [oid])
    except WrongContent as error:
        raise HubError(400, f"Upload refused: {error}.") from None


def verify(call: Call) -> Response:
    """200 if the object arrived."""
    oid, size = _object(call.json())
    with call.store.db.read() as con:
        repo = uploadable_repo(con, call)
        if not may_link(con, call, repo, oid) or call.store.blobs.size(oid) != size:
            raise HubError(404, f"The object {oid} was not uploaded with {size} bytes.")
    return answer({})


def duplicate(call: Call) -> Response:
    """Let the caller commit, in another repository, large files of one whose files it may read."""
    request = call.json()
    target = request.get("target")
    files = request.get("files")
    if not isinstance(target, dict) or not isinstance(files, list) or call.user is None:
        raise HubError(400 if call.user else 401, 'Authenticate and send "target" and "files".')
    hashes = [file.get("sha256") for file in files if isinstance(file, dict)]
    failed, granted = [], []
    with call.store.db.write() as con:
        source = call.repo(con)
        kind = str(target.get("type") or "model")
        other = call.store.find_repo(con, kind, str(target.get("name")))
        if other is None:
            raise HubError(404, "The target repository does not exist.", code="RepoNotFound")
        check_can_write(con, call.user, other)
        readable = may_read_files(con, call.user, source)
        for sha256 in hashes:
            row = con.execute("SELECT 1 FROM repo_blobs WHERE repo=? AND sha256=?", (source.id, sha256)).fetchone()
            if row and readable:
                granted.append(sha256)
                con.execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", (call.user.id, sha256, now_ms()))
            else:
                failed.append({"sha256": sha256, "error": f"not a file of {source.full_name}"})
    return answer({"success": [{"sha256": sha256} for sha256 in granted], "failed": failed})


def _object(item: object) -> tuple[str, int]:
    if isinstance(item, dict):
        oid, size = item.get("oid"), item.get("size")
        if isinstance(oid, str) and SHA256.fullmatch(oid) and type(size) is int and 0 <= size <= MAX_BYTES:
            return oid, size
    raise HubError(400, f'An object is {{"oid": sha256, "size": bytes}}, at most {MAX_BYTES} bytes.')


ROUTES = [
    Route("PUT", "/lfs-storage/{oid}", upload, body="stream", token=False),
    Route("POST", f"{API_REPO}/lfs-files/duplicate", duplicate),
]
for _repo in FILE_REPOS:
    ROUTES += [
        Route("POST", f"{_repo}.git/info/lfs/objects/batch", batch),
        Route("POST", f"{_repo}.git/info/lfs/objects/verify", verify),
    ]
