"""Uploads through Xet: the write side of the content store the client insists on when hf_xet is installed.

The client cuts files into chunks, sends them in xorbs, then a shard that says which chunks make up which file. Each
file is put together, checked against its sha256 and kept as a plain blob, which `xet_read` and plain HTTP serve.

Xorbs are kept, because the client remembers what it has sent to a URL and later refers to it. That is why the URL
holds the ids of the store, its epoch (see `collect`) and the account: another store, or another user, never gets
references it cannot follow, and nobody can name another's chunks. Not covered: chunk deduplication across users (404,
which the client takes for "not known").
"""

import mmap
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from starlette.responses import Response

from hub_fusion.local_hub.blobs import WrongContent, keep_file, new_file
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.intake import grant
from hub_fusion.local_hub.pulls import uploadable_repo
from hub_fusion.local_hub.xet_format import BadXet, FileInShard, chunk_index, decode_chunk, parse_shard

MAX_XORB_BYTES = 80 * 2**20
MAX_SHARD_BYTES = 80 * 2**20
TOKEN_VALID_S = 3600
XORBS_OPEN = 64
HASH = re.compile(r"[0-9a-f]{64}")


def write_token(call: Call) -> Response:
    """Where this user's chunks go, and the token to send them with."""
    with call.store.db.read() as con:
        repo = uploadable_repo(con, call, call.params["rev"])
        if not call.flag("create_pr"):  # the client names no revision then, or "None"
            call.store.resolve(con, repo, call.params["rev"])
        row = con.execute("SELECT value FROM meta WHERE key='xet_epoch'").fetchone()
    assert call.user is not None
    place = f"e{row['value'] if row else 0}-{call.user.hex}"
    url = f"{call.base}/cas/i-{call.store.store_id}-{place}"
    token = call.store.sign("xet", call.user.id, place, valid_s=TOKEN_VALID_S)
    expires = int(time.time()) + TOKEN_VALID_S - 60
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
    return answer({"casUrl": url, "accessToken": token, "exp": expires}, headers=headers)


def put_xorb(call: Call) -> Response:
    """Keep a pack of chunks."""
    folder, _ = _authorised(call)
    target = _xorb_path(folder, call.params["hash"])
    try:
        chunk_index(call.body)
    except BadXet as error:
        raise HubError(400, f"Not a xorb: {error}.") from None
    if target.exists() and target.read_bytes() == call.body:
        return answer({"was_inserted": False})  # other bytes under this name were wrong: the newer ones replace them
    target.parent.mkdir(parents=True, exist_ok=True)
    file, temporary = new_file(call.store.blobs.scratch)
    try:
        file.write(call.body)
        keep_file(file, temporary, target)
    finally:
        file.close()
        temporary.unlink(missing_ok=True)
    return answer({"was_inserted": True})


def put_shard(call: Call) -> Response:
    """Put the shard's files together from their chunks; 400 unless each has the sha256 it claims."""
    folder, account = _authorised(call)
    try:
        files = parse_shard(call.body)
        load = lru_cache(maxsize=XORBS_OPEN)(lambda xorb: _load(folder, xorb))
        with call.store.blobs.guard():
            for file in files:
                call.store.blobs.put_stream(_pieces(load, file), expect=file.sha256)
            grant(call.store, account, [file.sha256 for file in files])
    except (BadXet, WrongContent) as error:
        raise HubError(400, f"Shard refused: {error}.") from None
    return answer({"result": 1})


def not_served(call: Call) -> Response:
    """Parts of the protocol that the client does without."""
    raise HubError(404, "Not served here.")


def _pieces(load: object, file: FileInShard) -> Iterator[bytes]:
    for term in file.terms:
        content, index = load(term.xorb)  # type: ignore[operator]
        if not 0 <= term.first < term.end <= len(index):
            raise BadXet(f"chunks {term.first}..{term.end} of a xorb with {len(index)}")
        for at in range(term.first, term.end):
            yield decode_chunk(content, index[at])


def _load(folder: Path, xorb: str) -> tuple[mmap.mmap, list[int]]:
    """The xorb, mapped and not read: files that repeat themselves jump between a few chunks of many xorbs."""
    try:
        with _xorb_path(folder, xorb).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise BadXet(f"unknown xorb {xorb}") from None
    return content, chunk_index(content)


def _xorb_path(folder: Path, xorb: str) -> Path:
    if not HASH.fullmatch(xorb):
        raise HubError(400, "A xorb is named by 64 hex digits.")
    return folder / xorb[:2] / xorb


def _authorised(call: Call) -> tuple[Path, int]:
    """(the caller's folder of xorbs, its account), from the token and the URL that `write_token` gave."""
    _, _, token = call.request.headers.get("authorization", "").partition(" ")
    fields = call.store.verify("xet", token)
    if fields is None or call.params["store"] != f"i-{call.store.store_id}-{fields[1]}":
        raise HubError(401, "This Xet token is not valid here, or not any more.")
    epoch, _, account = fields[1].partition("-")
    folder = call.store.xorbs / epoch / account
    folder.mkdir(parents=True, exist_ok=True)
    return folder, int(fields[0])


CAS = "/cas/{store}"
ROUTES = [
    Route("GET", f"{API_REPO}/xet-write-token/{{rev}}", write_token),
    Route("POST", f"{CAS}/v1/xorbs/default/{{hash}}", put_xorb, limit=MAX_XORB_BYTES, token=False),
    Route("POST", f"{CAS}/v1/shards", put_shard, limit=MAX_SHARD_BYTES, token=False),
    *(
        Route(method, f"{CAS}/{{rest:path}}", not_served, limit=MAX_SHARD_BYTES, token=False)
        for method in ("GET", "HEAD", "POST", "PUT")
    ),
]
