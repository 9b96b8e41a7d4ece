"""Collections in the database: what they hold, in which order, and the shapes the client parses.

A collection is known by the 24 digits that its slug ends with; the words before follow its title.
"""

import re
import sqlite3
import unicodedata
from dataclasses import dataclass
from typing import Any

from hub_fusion.local_hub.call import Call
from hub_fusion.local_hub.db import iso, new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.store import URL_PREFIX, Repo
from hub_fusion.local_hub.users import manages, may_see

MAX_SLUG_CHARS = 64
KEY = re.compile(r"(?:.*-)?([0-9a-f]{24})")


@dataclass(frozen=True)
class Collection:
    """A row of `collections` with the name of its owner."""

    id: int
    hex: str
    owner: int
    title: str
    description: str | None
    private: int
    theme: str
    position: int
    updated: int
    owner_name: str

    @property
    def slug(self) -> str:
        """``owner/words-of-the-title-<hex>``."""
        plain = unicodedata.normalize("NFKD", self.title).encode("ascii", "ignore").decode().lower()
        words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MAX_SLUG_CHARS].strip("-")
        return f"{self.owner_name}/{words + '-' if words else ''}{self.hex}"


def select(con: sqlite3.Connection, where: str, values: list[Any]) -> list[Collection]:
    """The collections for which `where` (made of constants of this package) holds."""
    rows = con.execute(
        "SELECT collections.*, accounts.name AS owner_name FROM collections"  # noqa: S608 - constants
        f" JOIN accounts ON accounts.id=owner WHERE {where}",
        values,
    )
    return [Collection(**row) for row in rows]


def find(con: sqlite3.Connection, call: Call, slug: str, *, write: bool = False) -> Collection:
    """The collection of this slug, old or new; 404 if there is none for this caller, 403 if it may not be changed."""
    match = KEY.fullmatch(slug.rpartition("/")[2])
    found = select(con, "collections.hex=?", [match[1]]) if match else []
    owner = slug.partition("/")[0].lower()
    if not found or found[0].owner_name.lower() != owner or not visible(call, found[0]):
        raise HubError(404, f"Collection not found: {slug[:200]}")
    if write and (call.user is None or not may_change(con, call, found[0].owner)):
        raise HubError(403 if call.user else 401, f"Forbidden: you cannot change the collection {slug[:200]}.")
    return found[0]


def visible(call: Call, collection: Collection) -> bool:
    """Whether the collection exists as far as this caller is told."""
    return not collection.private or (call.user is not None and collection.owner in call.user.accounts)


def may_change(con: sqlite3.Connection, call: Call, owner: int) -> bool:
    """Whether this token may make and change collections of that account."""
    user = call.user
    return user is not None and user.scopes.allow("repo.write", account=owner) and manages(con, user, owner)


def items(con: sqlite3.Connection, call: Call, collection: Collection) -> list[dict[str, Any]]:
    """What the caller may see of the items, in order."""
    found: list[dict[str, Any]] = []
    rows = con.execute("SELECT * FROM collection_items WHERE collection=? ORDER BY position", (collection.id,))
    for row in rows.fetchall():
        shown = _repo(con, call, row["repo"]) if row["repo"] is not None else _nested(con, call, row["nested"])
        if shown is not None:
            note = {"text": row["note"], "html": ""} if row["note"] is not None else None
            noted = {"note": note} if note else {}
            found.append({"_id": row["hex"], "position": len(found), **noted, **shown})
    return found


def show(con: sqlite3.Connection, call: Call, collection: Collection, *, first: int | None = None) -> dict[str, Any]:
    """A collection as the client parses it, with its `first` items or all."""
    shown = {
        "slug": collection.slug,
        "title": collection.title,
        "owner": {"name": collection.owner_name, "avatarUrl": f"{call.base}/avatars/{collection.owner_name}.svg"},
        "items": items(con, call, collection)[:first],
        "lastUpdated": iso(collection.updated),
        "position": collection.position,
        "private": bool(collection.private),
        "theme": collection.theme,
        "gating": False,
        "upvotes": 0,
        "isUpvotedByUser": False,
        "shareUrl": f"{call.base}/collections/{collection.slug}",
    }
    return shown | ({"description": collection.description} if collection.description else {})


def add(con: sqlite3.Connection, collection: Collection, kind: str, target: int, note: str | None) -> None:
    """A repository or another collection at the end; 409 if it is there already."""
    column = "nested" if kind == "collection" else "repo"
    here = f"SELECT 1 FROM collection_items WHERE collection=? AND {column}=?"  # noqa: S608 - two constants
    if con.execute(here, (collection.id, target)).fetchone():
        raise HubError(409, f"This {kind} is in the collection already.")
    count = con.execute("SELECT COUNT(*) FROM collection_items WHERE collection=?", (collection.id,)).fetchone()[0]
    con.execute(
        f"INSERT INTO collection_items (hex, collection, {column}, note, position) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
        (new_hex_id(), collection.id, target, note, count),
    )
    touch(con, collection)


def reorder(con: sqlite3.Connection, collection: Collection, move: str | None = None, to: int = 0) -> None:
    """Number the items from 0, with one of them moved."""
    rows = con.execute("SELECT hex FROM collection_items WHERE collection=? ORDER BY position", (collection.id,))
    order = [row["hex"] for row in rows.fetchall() if row["hex"] != move]
    if move is not None:
        order.insert(to, move)
    con.executemany("UPDATE collection_items SET position=? WHERE hex=?", [(n, item) for n, item in enumerate(order)])


def touch(con: sqlite3.Connection, collection: Collection) -> None:
    """Note that it changed now."""
    con.execute("UPDATE collections SET updated=? WHERE id=?", (now_ms(), collection.id))


def _repo(con: sqlite3.Connection, call: Call, repo_id: int) -> dict[str, Any] | None:
    repo = Repo(**con.execute("SELECT * FROM repos WHERE id=?", (repo_id,)).fetchone())
    if not may_see(call.user, repo):
        return None
    return {
        "id": repo.full_name,
        "type": repo.kind,
        "repoType": repo.kind,
        "author": repo.full_name.partition("/")[0],
        "url": f"{call.base}/{URL_PREFIX[repo.kind]}{repo.full_name}",
        "private": bool(repo.private),
        "gated": repo.gated or False,
        "likes": repo.likes,
        "downloads": repo.downloads,
        "lastModified": iso(repo.modified),
    }


def _nested(con: sqlite3.Connection, call: Call, collection_id: int) -> dict[str, Any] | None:
    (found,) = select(con, "collections.id=?", [collection_id])
    if not visible(call, found):
        return None
    return {"id": found.hex, "type": "collection", "slug": found.slug, "title": found.title}
