"""The multipart transfer of git-lfs: a large file in parts, each with a request and a retry of its own.

The parts of one upload are written side by side into one file, in any order; the completion checks that each has
arrived, then the sha256 of the whole, then keeps it as a blob. The URLs are signed and carry all there is to know, so
an upload survives a restart of the server. One that nobody has added to for long is removed by `collect`.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from starlette.responses import Response

from hub_fusion.local_hub.blobs import keep_file
from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.intake import drain, grant, receive

ABOVE = 64 * 2**20  # a smaller file goes up in one request
PART_BYTES = 32 * 2**20
MAX_PARTS = 1000
VALID_S = 24 * 3600
READ_BYTES = 4 << 20


def plan(call: Call, oid: str, size: int) -> dict[str, object]:
    """The upload action of a batch answer: where each part goes, and where to say that all have arrived."""
    assert call.user is not None
    part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
    upload = secrets.token_hex(16)
    ticket = call.store.sign("parts", call.user.id, oid, size, part_bytes, upload, valid_s=VALID_S)
    header = {"chunk_size": str(part_bytes)}
    for number in range(1, -(-size // part_bytes) + 1):
        header[f"{number:05d}"] = f"{call.base}/lfs-parts/{number}?ticket={ticket}"
    return {"href": f"{call.base}/lfs-parts/complete?ticket={ticket}", "header": header}


async def put_part(call: Call) -> Response:
    """Take one part; the ETag it is answered with proves to the completion that it has arrived."""
    number = call.params["number"]
    fields = call.store.verify("parts", call.request.query_params.get("ticket", ""))
    if fields is None or not (number.isascii() and number.isdigit() and len(number) < 6):
        await drain(call)
        raise HubError(403, "This upload URL is not valid, or not any more.")
    _, _, size, part_bytes, upload = fields
    start = (int(number) - 1) * int(part_bytes)
    expected = min(int(part_bytes), int(size) - start)
    if start < 0 or expected <= 0:
        await drain(call)
        raise HubError(400, f"This upload has no part {number}.")
    handle = os.open(call.store.parts / upload, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        arrived = await receive(call, _writer(handle, start), expected)
    finally:
        os.close(handle)
    if arrived != expected:
        raise HubError(400, f"Part {number} has {expected} bytes, {arrived} arrived.")
    return Response(status_code=200, headers={"ETag": f'"{_etag(call, upload, int(number))}"'})


def complete(call: Call) -> Response:
    """Make a blob of the parts; 400, and the upload forgotten, if their content is not what was announced."""
    fields = call.store.verify("parts", call.request.query_params.get("ticket", ""))
    if fields is None:
        raise HubError(403, "This upload URL is not valid, or not any more.")
    account, oid, size, part_bytes, upload = fields
    parts = call.json().get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise HubError(400, 'A completion is {"oid": …, "parts": [{"partNumber": …, "etag": …}, …]}.')
    named = {str(part.get("partNumber")): part.get("etag") for part in parts}
    for number in range(1, -(-int(size) // int(part_bytes)) + 1):
        if str(named.get(str(number))).strip('"') != _etag(call, upload, number):
            raise HubError(400, f"Part {number} has not arrived.")
    path = call.store.parts / upload
    with call.store.blobs.guard():
        if path.exists():
            _keep(path, call.store.blobs.path(oid), oid, int(size))
        elif call.store.blobs.size(oid) != int(size):  # else a completion sent again
            raise HubError(400, "This upload is not here any more: begin again.")
        grant(call.store, int(account), [oid])
    return answer({"success": True})


def _keep(path: Path, target: Path, oid: str, size: int) -> None:
    content = hashlib.sha256()
    with path.open("r+b") as file:
        file.truncate(size)
        while piece := file.read(READ_BYTES):
            content.update(piece)
        if content.hexdigest() != oid:
            path.unlink()
            raise HubError(400, f"Upload refused: content has sha256 {content.hexdigest()}, {oid} was announced.")
        keep_file(file, path, target)


def _writer(handle: int, start: int) -> Callable[[bytes], None]:
    at = start

    def write(piece: bytes) -> None:
        nonlocal at
        view = memoryview(piece)
        while view:
            written = os.pwrite(handle, view, at)
            view, at = view[written:], at + written

    return write


def _etag(call: Call, upload: str, number: int) -> str:
    return call.store.signature("part", [upload, str(number)])[:32]


ROUTES = [
    Route("PUT", "/lfs-parts/{number}", put_part, body="stream", token=False),
    Route("POST", "/lfs-parts/complete", complete, token=False),
]
