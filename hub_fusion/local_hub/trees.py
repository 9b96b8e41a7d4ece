"""What a revision contains: paths, their rules, and the hashes the Hub shows for them.

A tree maps each path to an `Entry`. Paths are strings in a database here, never paths of the file system. The rules
below are the Hub's: a backslash is a letter, but none may lead out of the folder at once. What it means on Windows
further on is the downloader's care.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from hub_fusion.local_hub.errors import HubError

MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class Entry:
    """One file of a revision: `blob` is the sha256 of its content, `oid` the git hash (of the pointer if LFS)."""

    path: str
    blob: str
    size: int
    oid: str
    lfs: bool


Tree = dict[str, Entry]


def check_path(path: object) -> str:
    """The path, if it may be the name of a file in a repository; 422 otherwise."""
    if not isinstance(path, str) or not path:
        raise HubError(422, "A file path must be a non-empty string.")
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        raise HubError(422, "A file path must be valid Unicode.") from None
    names = path.split("/")
    if (
        len(encoded) > MAX_PATH_BYTES
        or any(name in ("", ".", "..") or name.lower() == ".git" for name in names)
        or any(len(name.encode("utf-8")) > MAX_NAME_BYTES for name in names)
        or path.split("\\")[0] in ("", ".", "..")
        or any(ord(char) < 32 or ord(char) == 127 for char in path)
    ):
        raise HubError(
            422,
            f"Invalid path {path[:200]!r}: relative, with '/' between names, no '.', '..', '.git' or control "
            f"characters, at most {MAX_PATH_BYTES} bytes.",
        )
    return path


def check_no_clash(tree: Tree) -> None:
    """422 if a path is a file and a folder at once."""
    for path in tree:
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in tree:
                raise HubError(422, f"{parent!r} cannot be a file and the folder of {path!r} at once.")


def git_oid(content: bytes, kind: str = "blob") -> str:
    """The hash git gives this object."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The small text that stands in git for a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def dump(tree: Tree) -> str:
    """The tree as canonical JSON: equal trees have equal text."""
    return json.dumps([astuple(tree[path]) for path in sorted(tree)], separators=(",", ":"))


def load(text: str) -> Tree:
    """The inverse of `dump`."""
    return {row[0]: Entry(*row) for row in json.loads(text)}


def tree_id(text: str) -> str:
    """The name of a dumped tree."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def folders(paths: Iterable[str]) -> set[str]:
    """Every folder that these paths lie in."""
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def folder_oids(tree: Tree) -> dict[str, str]:
    """The git tree hash of every folder, computed from the leaves up."""
    content: dict[str, list[tuple[str, bytes]]] = {folder: [] for folder in ("", *folders(tree))}
    for entry in tree.values():
        parent, _, name = entry.path.rpartition("/")
        content[parent].append((name, b"100644 " + name.encode() + b"\0" + bytes.fromhex(entry.oid)))
    oids: dict[str, str] = {}
    for folder in sorted(content, key=lambda folder: folder.count("/") + bool(folder), reverse=True):
        rows = [row for _, row in sorted(content[folder])]
        oids[folder] = git_oid(b"".join(rows), "tree")
        if folder:
            parent, _, name = folder.rpartition("/")
            content[parent].append((name + "/", b"40000 " + name.encode() + b"\0" + bytes.fromhex(oids[folder])))
    return oids
