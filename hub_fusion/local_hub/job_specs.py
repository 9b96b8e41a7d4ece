"""What a job is made of, checked field by field; 400 with the field's name.

Values of secrets are dropped here: nothing runs that would need them, and their names are all that can be read back.
"""

import re
import sqlite3
from collections.abc import Callable
from typing import Any

from hub_fusion.local_hub.call import Call
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.hardware import DEFAULT, JOB_FLAVORS, check_flavor
from hub_fusion.local_hub.users import may_see
from hub_fusion.local_hub.volumes import check_volumes

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
LABEL = re.compile(r"[A-Za-z0-9._/-]{1,100}")
MAX_ITEMS, MAX_TEXT_CHARS, MAX_SECONDS, MAX_ATTEMPTS = 1000, 2**17, 30 * 86_400, 100

Spec = dict[str, Any]


def check_spec(con: sqlite3.Connection, call: Call, request: Spec) -> Spec:
    """The job that a request describes, as it is kept."""
    unknown = sorted(key for key in request if key not in CHECKS and key not in ("volumes", "spaceId", "secrets"))
    if unknown:
        raise HubError(400, f"A job has no {', '.join(unknown)[:200]}; it has {', '.join(CHECKS)}, secrets, volumes.")
    spec: Spec = {"flavor": DEFAULT, "arguments": [], "environment": {}}
    for key, check in CHECKS.items():
        if request.get(key) is not None:
            spec[key] = check(key, request[key])
    if request.get("secrets") is not None:
        spec["secrets"] = sorted(strings("secrets", request["secrets"], NAME))
    if request.get("volumes") is not None:
        spec["volumes"] = check_volumes(con, call, request["volumes"])
    if request.get("spaceId") is not None:
        space = call.store.find_repo(con, "space", _text("spaceId", request["spaceId"]))
        if space is None or not may_see(call.user, space):
            raise HubError(400, f"There is no Space {request['spaceId'][:200]} to take the image of.")
        spec["spaceId"] = space.full_name
    if ("dockerImage" in spec) == ("spaceId" in spec):
        raise HubError(400, 'A job needs a "dockerImage" or a "spaceId".')
    if not spec.get("command") and not spec["arguments"]:
        raise HubError(400, 'A job needs a "command".')
    return spec


def check_labels(key: str, value: object) -> dict[str, str]:
    """{label: value}; a job's name is one of them."""
    labels = strings(key, value, LABEL)
    if any(len(text) > 100 for text in labels.values()) or not re.fullmatch(r"[\w.-]*", labels.get("name", ""), re.A):
        raise HubError(400, "Labels have at most 100 characters; a name has letters, digits, '-', '_' and '.'.")
    return labels


def check_expose(key: str, value: object) -> dict[str, list[int]]:
    """{"ports", "portsPublic"}: ports to be reached from outside."""
    ports = value.get("ports") if isinstance(value, dict) else None
    public = value.get("portsPublic", []) if isinstance(value, dict) else None
    for numbers in (ports, public):
        if not isinstance(numbers, list) or not all(type(port) is int and 0 < port < 2**16 for port in numbers):
            raise HubError(400, f'"{key}" is {{"ports": [1 to 65535], "portsPublic": […]}}.')
    assert ports is not None and public is not None
    if not set(public) <= set(ports):
        raise HubError(400, "All public ports must be among the ports.")
    return {"ports": ports, "portsPublic": public}


def strings(key: str, value: object, name: re.Pattern[str]) -> dict[str, str]:
    """A map of texts whose keys match a pattern."""
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise HubError(400, f'"{key}" must map at most {MAX_ITEMS} names to texts.')
    for item, text in value.items():
        if not name.fullmatch(item):
            raise HubError(400, f'{item[:100]!r} cannot be a name among "{key}".')
        if not isinstance(text, str) or len(text) > MAX_TEXT_CHARS:
            raise HubError(400, f'"{key}" must map {item} to a text of at most {MAX_TEXT_CHARS} characters.')
    return dict(value)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 1000 or not value.isprintable():
        raise HubError(400, f'"{key}" must be a text of 1 to 1000 printable characters.')
    return value


def _words(key: str, value: object) -> list[str]:
    words: list[Any] = value if isinstance(value, list) and len(value) <= MAX_ITEMS else [None]
    if all(isinstance(word, str) and len(word) <= MAX_TEXT_CHARS for word in words):
        return words
    raise HubError(400, f'"{key}" must be a list of at most {MAX_ITEMS} texts.')


def _number(high: int) -> Callable[[str, object], int]:
    def check(key: str, value: object) -> int:
        if type(value) is int and 0 < value <= high:
            return value
        raise HubError(400, f'"{key}" must be a number from 1 to {high}.')

    return check


def _ssh(key: str, value: object) -> dict[str, bool]:
    if isinstance(value, dict) and isinstance(value.get("enabled"), bool):
        return {"enabled": value["enabled"]}
    raise HubError(400, f'"{key}" is {{"enabled": true or false}}.')


def _network(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HubError(400, f'"{key}" is {{"group", ["aliases"]}}.')
    group = {"group": _text("group", value.get("group"))}
    return group | ({"aliases": _words("aliases", value["aliases"])} if value.get("aliases") else {})


CHECKS: dict[str, Callable[[str, object], Any]] = {
    "dockerImage": _text,
    "command": _words,
    "arguments": _words,
    "environment": lambda key, value: strings(key, value, NAME),
    "flavor": lambda _, value: check_flavor(value, JOB_FLAVORS),
    "timeoutSeconds": _number(MAX_SECONDS),
    "attempts": _number(MAX_ATTEMPTS),
    "labels": check_labels,
    "expose": check_expose,
    "ssh": _ssh,
    "network": _network,
    "resourceGroupId": _text,
    "arch": _text,
    "tags": _words,
}
