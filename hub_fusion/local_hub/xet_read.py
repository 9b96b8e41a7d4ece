"""Downloads through Xet: the read side of the content store, as the client with hf_xet installed uses it.

Large files are kept whole, so the chunks and xorbs that the protocol speaks of are made up while they are asked for:
a file is cut into slices of 16 MiB, each is called a xorb, and a xorb is sent as plain chunks of 128 KiB behind their
headers. A file's Xet hash is its sha256: clients use it as a name, and unlike the Merkle hash a shard claims it has
been verified. The token of a repository reads the large files of that repository only.
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from hub_fusion.local_hub.blobs import SHA256
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.ranges import parse_range
from hub_fusion.local_hub.store import KINDS, Repo
from hub_fusion.local_hub.stream import PiecesResponse
from hub_fusion.local_hub.trees import Entry
from hub_fusion.local_hub.xet_format import HEADER, PLAIN

CHUNK = 128 * 1024  # the largest a chunk may be
CHUNKS_PER_XORB = 128
PIECE_CHUNKS = 16  # read and sent at once
TOKEN_VALID_S = 3600
PLURALS = {kind: plural for plural, kind in KINDS.items()}


def xet_headers(call: Call, repo: Repo, revision: str, entry: Entry) -> dict[str, str]:
    """What tells the client that, and how, a large file can be had through Xet."""
    route = f"{call.base}/api/{PLURALS[repo.kind]}/{repo.full_name}/xet-read-token/{quote(revision, safe='')}"
    return {"X-Xet-Hash": entry.blob, "Link": f'<{route}>; rel="xet-auth"'}


def read_token(call: Call) -> Response:
    """Where the chunks of this repository's files are, and the token to ask for them with."""
    with call.store.db.read() as con:
        repo = call.readable_repo(con)
        call.store.resolve(con, repo, call.params["rev"])
    url = f"{call.base}/cas/r-{call.store.store_id}"
    token = call.store.sign("xet-read", repo.id, valid_s=TOKEN_VALID_S)
    expires = int(time.time()) + TOKEN_VALID_S - 60
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
    return answer({"casUrl": url, "accessToken": token, "exp": expires}, headers=headers)


def reconstruction(call: Call) -> Response:
    """Which chunks make up a file, or the range asked for, and the URLs to fetch them from."""
    _, _, token = call.request.headers.get("authorization", "").partition(" ")
    fields = call.store.verify("xet-read", token)
    if fields is None:
        raise HubError(401, "This Xet token is not valid here, or not any more.")
    repo_id, sha256 = int(fields[0]), call.params["hash"]
    with call.store.db.read() as con:
        row = con.execute(
            "SELECT repos.*, size FROM repo_blobs JOIN repos ON repos.id=repo WHERE repo=? AND sha256=?",
            (repo_id, sha256),
        ).fetchone()
    if row is None:
        raise HubError(404, "No file of this hash in this repository.")
    size: int = row["size"]
    start, end = 0, size
    if asked := call.request.headers.get("range"):
        start, end, _ = parse_range(asked, size)
    if start == 0:
        call.store.count_download(repo_id)
    return answer(_plan(call, sha256, size, start, end))


def _plan(call: Call, sha256: str, size: int, start: int, end: int) -> dict[str, Any]:
    first, last = start // CHUNK, -(-end // CHUNK)
    terms, fetch = [], {}
    ticket = call.store.sign("xet-data", sha256, size, valid_s=TOKEN_VALID_S)
    while first < last:
        xorb, inside = divmod(first, CHUNKS_PER_XORB)
        stop = min(last, (xorb + 1) * CHUNKS_PER_XORB)
        name = hashlib.sha256(f"{sha256}/{xorb}".encode()).hexdigest()
        chunks = {"start": inside, "end": inside + stop - first}
        plain = min(stop * CHUNK, size) - first * CHUNK
        packed = plain + (stop - first) * HEADER.size
        begins = inside * (CHUNK + HEADER.size)
        terms.append({"hash": name, "unpacked_length": plain, "range": chunks})
        fetch[name] = [
            {
                "range": chunks,
                "url": f"{call.base}/cas/data/{xorb}?ticket={ticket}",
                "url_range": {"start": begins, "end": begins + packed - 1},
            }
        ]
        first = stop
    return {"offset_into_first_range": start % CHUNK, "terms": terms, "fetch_info": fetch}


def data(call: Call) -> Response:
    """Bytes of a made-up xorb; the URL names the file, is signed and has an end."""
    ticket = call.store.verify("xet-data", call.request.query_params.get("ticket", ""))
    xorb = call.params["xorb"]
    if ticket is None or not SHA256.fullmatch(ticket[0]) or not (xorb.isascii() and xorb.isdigit() and len(xorb) < 9):
        raise HubError(403, "This URL is not valid, or not any more.")
    first = int(xorb) * CHUNKS_PER_XORB
    plain = min(int(ticket[1]) - first * CHUNK, CHUNKS_PER_XORB * CHUNK)
    if plain <= 0:
        raise HubError(404, "The file ends before this xorb.")
    packed = plain + -(-plain // CHUNK) * HEADER.size
    start, end, status = parse_range(call.request.headers.get("range") or "", packed)
    headers = {"Accept-Ranges": "bytes"}
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{packed}"
    path = call.store.blobs.path(ticket[0])
    if not path.exists():
        raise HubError(404, "This content is not here any more.")
    return PiecesResponse(_framed(path, first * CHUNK, plain, start, end), end - start, status, headers)


def _framed(path: Path, offset: int, plain: int, start: int, end: int) -> Iterator[bytes]:
    """Bytes `start`..`end` of the chunks, with headers, that `plain` bytes of the file from `offset` are cut into."""
    framed = CHUNK + HEADER.size
    at = start // framed
    with path.open("rb") as file:
        file.seek(offset + at * CHUNK)
        while at * framed < end:
            raw = memoryview(file.read(min(PIECE_CHUNKS * CHUNK, plain - at * CHUNK)))
            chunks = [raw[i : i + CHUNK] for i in range(0, len(raw), CHUNK)]
            piece = b"".join(part for chunk in chunks for part in (_header(len(chunk)), chunk))
            begins = at * framed
            yield piece[max(0, start - begins) : end - begins] if start > begins or begins + len(piece) > end else piece
            at += PIECE_CHUNKS


def _header(size: int) -> bytes:
    length = size.to_bytes(3, "little")
    return HEADER.pack(0, length, PLAIN, length)


ROUTES = [
    Route("GET", f"{API_REPO}/xet-read-token/{{rev}}", read_token),
    Route("GET", "/cas/data/{xorb}", data, token=False),
    Route("GET", "/cas/{store}/v1/reconstructions/{hash}", reconstruction, token=False),
]
