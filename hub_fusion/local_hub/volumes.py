"""Volumes that a Space or a job mounts: repositories of this Hub. They are written down; nothing is mounted."""

import re
import sqlite3
from typing import Any

from hub_fusion.local_hub.call import Call
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.users import may_see

TYPES = ("bucket", "model", "dataset", "space")
MAX_VOLUMES, MAX_PATH_CHARS = 50, 1000
MOUNT = re.compile(r"(/[\w.@+=-]+)+", re.ASCII)
KEYS = {"type", "source", "mountPath", "revision", "readOnly", "path"}


def check_volumes(con: sqlite3.Connection, call: Call, value: object) -> list[dict[str, Any]]:
    """The volumes as the client wrote them, repositories read-only; 400 if one is none, 501 for buckets."""
    if not isinstance(value, list) or len(value) > MAX_VOLUMES:
        raise HubError(400, f'"volumes" must be a list of at most {MAX_VOLUMES}.')
    found = [_check(con, call, item) for item in value]
    places = [volume["mountPath"] for volume in found]
    if len(set(places)) < len(places):
        raise HubError(400, f"Two volumes have the same mount path among {', '.join(places)}.")
    return found


def _check(con: sqlite3.Connection, call: Call, item: object) -> dict[str, Any]:
    if not isinstance(item, dict) or item.get("type") not in TYPES or not isinstance(item.get("source"), str):
        raise HubError(400, f'A volume has a "type" ({", ".join(TYPES)}), a "source" and a "mountPath".')
    kind, source = item["type"], item["source"][:MAX_PATH_CHARS]
    if set(item) - KEYS:
        raise HubError(400, f"A volume has no {', '.join(sorted(map(repr, set(item) - KEYS)))}.")
    if kind == "bucket":
        raise HubError(501, f"Buckets are not served here: {source} cannot be mounted.")
    place, only = item.get("mountPath"), item.get("readOnly")
    if not isinstance(place, str) or len(place) > MAX_PATH_CHARS or not MOUNT.fullmatch(place) or ".." in place:
        raise HubError(400, f'The "mountPath" of {source} must be like "/data".')
    if only not in (None, True):
        raise HubError(400, f'{source} is a repository: "readOnly" can only be true.')
    for key in ("revision", "path"):
        if not isinstance(item.get(key), str | None) or len(item.get(key) or "") > MAX_PATH_CHARS:
            raise HubError(400, f'"{key}" of {source} must be a text.')
    repo = call.store.find_repo(con, kind, source) or call.store.find_renamed(con, kind, source)
    if repo is None or not may_see(call.user, repo):
        raise HubError(400, f"There is no {kind} {source} to mount.")
    if item.get("revision") is not None:
        call.store.resolve(con, repo, item["revision"])
    return {key: item[key] for key in item if item[key] is not None} | {"readOnly": True}
