"""What the client asks before it uploads: which files are large, which are ignored, which are there already."""

import base64
import binascii

from starlette.responses import Response

from hub_fusion.local_hub import attributes, pulls, trees
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.trees import Tree


def preupload(call: Call) -> Response:
    """For each file whether it goes to LFS, whether it is ignored, and what is at its path now."""
    request = call.json()
    asked = request.get("files")
    if not isinstance(asked, list) or not all(isinstance(file, dict) for file in asked):
        raise HubError(400, '"files" must be a list of objects.')
    with call.store.db.read() as con:
        repo = pulls.uploadable_repo(con, call, call.params["rev"])
        commit = call.store.resolve(con, repo, call.params["rev"])
        files = call.store.tree(con, commit.tree)
        erased = {row["sha256"] for row in con.execute("SELECT sha256 FROM erased WHERE repo=?", (repo.id,))}
    rules = _text_of(call, files, ".gitattributes")
    ignore = request.get("gitIgnore")
    ignore = ignore if isinstance(ignore, str) else _text_of(call, files, ".gitignore")
    shown = []
    for file in asked:
        path = trees.check_path(file.get("path"))
        size, sample = file.get("size"), file.get("sample")
        if type(size) is not int or size < 0 or not isinstance(sample, str):
            raise HubError(400, f'The file {path!r} needs a "size" and a "sample" of its first bytes.')
        large = size > 0 and attributes.is_large(rules, path, size, decode(sample, path))
        item = {
            "path": path,
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": attributes.is_ignored(ignore, path),
        }
        if path in files and files[path].lfs == large and not (large and files[path].blob in erased):
            item["oid"] = files[path].blob if large else files[path].oid
        shown.append(item)
    return answer({"files": shown})


def _text_of(call: Call, files: Tree, path: str) -> str:
    if path not in files:
        return ""
    return call.store.blobs.read(files[path].blob, 2**20).decode("utf-8", "replace")


def decode(text: str, path: str) -> bytes:
    """The bytes behind base64; 400."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HubError(400, f"The content of {path!r} is not valid base64.") from None


ROUTES = [Route("POST", f"{API_REPO}/preupload/{{rev}}", preupload)]
