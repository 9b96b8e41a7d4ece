"""Collections over the wire: made, listed, changed, filled.

Items are repositories and other collections. Not covered: papers and buckets as items, upvotes, gating.
"""

import sqlite3
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from hub_fusion.local_hub import collection
from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.collection import Collection
from hub_fusion.local_hub.db import new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError, repo_not_found, sign_in_first
from hub_fusion.local_hub.store import KINDS
from hub_fusion.local_hub.users import may_see

MAX_PAGE, LISTED_ITEMS, MAX_TITLE_CHARS, MAX_TEXT_CHARS, MAX_POSITION = 100, 4, 240, 10_000, 10**6
THEMES = ("orange", "blue", "green", "purple", "pink", "indigo")
SORTS = ("lastModified", "trending", "upvotes")  # nothing trends and nobody votes here: the order is one


def listing(call: Call) -> Response:
    """One page of the collections that the caller may see, the latest change first, with their first items."""
    query = call.request.query_params
    if query.get("sort", "trending") not in SORTS:
        raise HubError(400, f'"sort" must be one of {", ".join(SORTS)}.')
    limit, at = _number(query.get("limit"), MAX_PAGE), _number(query.get("cursor"), 0)
    where, values = ["1"], []  # type: tuple[list[str], list[Any]]
    if owners := [name.lower() for name in call.values("owner")]:
        where.append(f"accounts.key IN ({','.join('?' * len(owners))})")
        values += owners
    for item in call.values("item"):
        kind, _, name = item.partition("/")
        where.append(
            "collections.id IN (SELECT collection FROM collection_items JOIN repos ON repos.id=repo"
            " WHERE kind=? AND repos.key=?)"
        )
        values += [KINDS.get(kind, kind), name.lower()]
    with call.store.db.read() as con:
        found = collection.select(con, f"{' AND '.join(where)} ORDER BY updated DESC, collections.id DESC", values)
        found = [one for one in found if collection.visible(call, one)]
        size = max(1, min(limit, MAX_PAGE))
        shown = [collection.show(con, call, one, first=LISTED_ITEMS) for one in found[at : at + size]]
    headers = {}
    if len(found) > at + size:
        parameters = [(name, value) for name, value in query.multi_items() if name != "cursor"]
        parameters.append(("cursor", str(at + size)))
        headers["Link"] = f'<{call.base}{call.request.scope["path"]}?{urlencode(parameters)}>; rel="next"'
    return answer([{key: value for key, value in one.items() if key != "position"} for one in shown], headers=headers)


def create(call: Call) -> Response:
    """A new collection; 409, with its slug, if the owner has one of this title."""
    request = call.json()
    if call.user is None:
        raise sign_in_first()
    fields = _fields(request)
    if not fields.get("title"):
        raise HubError(400, 'A collection needs a "title".')
    with call.store.db.write() as con:
        name = str(request.get("namespace") or call.user.name)
        owner = con.execute("SELECT * FROM accounts WHERE key=?", (name.lower(),)).fetchone()
        if owner is None or not collection.may_change(con, call, owner["id"]):
            raise HubError(403, f'You don\'t have the rights to create collections under the namespace "{name}".')
        taken = collection.select(con, "owner=? AND title=?", [owner["id"], fields["title"]])
        if taken:
            raise HubError(409, "You have a collection of this title already.", body={"slug": taken[0].slug})
        position = con.execute("SELECT COUNT(*) FROM collections WHERE owner=?", (owner["id"],)).fetchone()[0]
        key = new_hex_id()
        con.execute(
            "INSERT INTO collections (hex, owner, title, description, private, theme, position, updated)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (key, owner["id"], fields["title"], fields.get("description"), fields.get("private", False),
             THEMES[position % len(THEMES)], position, now_ms()),
        )  # fmt: skip
        (made,) = collection.select(con, "collections.hex=?", [key])
        return answer(collection.show(con, call, made))


def detail(call: Call) -> Response:
    """A collection with all its items."""
    with call.store.db.read() as con:
        return answer(collection.show(con, call, collection.find(con, call, call.full_name)))


def update(call: Call) -> Response:
    """Another title (and so another slug), description, visibility, theme or place in the owner's list."""
    fields = _fields(call.json())
    with call.store.db.write() as con:
        found = collection.find(con, call, call.full_name, write=True)
        for name, value in fields.items():  # the names are those of _fields
            con.execute(f"UPDATE collections SET {name}=? WHERE id=?", (value, found.id))  # noqa: S608
        collection.touch(con, found)
        shown = collection.show(con, call, collection.find(con, call, call.full_name))
    return answer({"success": True, "data": shown})


def delete(call: Call) -> Response:
    """Forget a collection; what it holds stays."""
    with call.store.db.write() as con:
        found = collection.find(con, call, call.full_name, write=True)
        con.execute("DELETE FROM collections WHERE id=?", (found.id,))
    return answer({"success": True})


def add_item(call: Call) -> Response:
    """A repository or collection that the caller may see, at the end."""
    request = call.json()
    item = request.get("item")
    if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not isinstance(item.get("type"), str):
        raise HubError(400, '"item" must be {"type": …, "id": …}.')
    with call.store.db.write() as con:
        found = collection.find(con, call, call.full_name, write=True)
        collection.add(con, found, item["type"], _target(con, call, found, item), _text(request, "note"))
        return answer(collection.show(con, call, collection.find(con, call, call.full_name)))


def update_item(call: Call) -> Response:
    """Another note or place."""
    request = call.json()
    note, to = _text(request, "note"), _position(request)
    with call.store.db.write() as con:
        found = collection.find(con, call, call.full_name, write=True)
        item = _item(con, call, found)
        if note is not None:
            con.execute("UPDATE collection_items SET note=? WHERE hex=?", (note, item))
        if to is not None:
            collection.reorder(con, found, item, to)
        collection.touch(con, found)
    return answer({"success": True})


def delete_item(call: Call) -> Response:
    """Take an item out."""
    with call.store.db.write() as con:
        found = collection.find(con, call, call.full_name, write=True)
        con.execute("DELETE FROM collection_items WHERE hex=?", (_item(con, call, found),))
        collection.reorder(con, found)
        collection.touch(con, found)
    return answer({"success": True})


def _target(con: sqlite3.Connection, call: Call, into: Collection, item: dict[str, str]) -> int:
    """The id of the repository or collection that an item names."""
    if item["type"] == "collection":
        nested = collection.find(con, call, item["id"])
        if nested.id == into.id:
            raise HubError(400, "A collection cannot hold itself.")
        return nested.id
    if item["type"] not in KINDS.values():
        raise HubError(400, f"Items of the type {item['type'][:30]!r} are not served here.")
    repo = call.store.find_repo(con, item["type"], item["id"])
    if repo is None or not may_see(call.user, repo):
        raise repo_not_found()
    return repo.id


def _item(con: sqlite3.Connection, call: Call, found: Collection) -> str:
    key = call.params["item"]
    row = con.execute("SELECT hex FROM collection_items WHERE collection=? AND hex=?", (found.id, key)).fetchone()
    if row is None:
        raise HubError(404, "This item is not in the collection.")
    return str(row["hex"])


def _fields(request: dict[str, Any]) -> dict[str, Any]:
    """The columns of `collections` that a request sets."""
    fields: dict[str, Any] = {"title": _text(request, "title", MAX_TITLE_CHARS),
                              "description": _text(request, "description"), "position": _position(request)}  # fmt: skip
    if "private" in request:
        if not isinstance(request["private"], bool):
            raise HubError(400, '"private" must be true or false.')
        fields["private"] = request["private"]
    if "theme" in request:
        if request["theme"] not in THEMES:
            raise HubError(400, f'"theme" must be one of {", ".join(THEMES)}.')
        fields["theme"] = request["theme"]
    return {name: value for name, value in fields.items() if value is not None}


def _text(request: dict[str, Any], key: str, limit: int = MAX_TEXT_CHARS) -> str | None:
    value = request.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > limit:
        raise HubError(400, f'"{key}" must be a string of at most {limit} characters.')
    return value.encode("utf-8", "replace").decode()


def _position(request: dict[str, Any]) -> int | None:
    value = request.get("position")
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_POSITION:
        raise HubError(400, '"position" must be a number from 0.')
    return value


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 9 else default


ONE = "/api/collections/{ns}/{name}"
ROUTES = [
    Route("GET", "/api/collections", listing),
    Route("POST", "/api/collections", create),
    Route("GET", ONE, detail),
    Route("PATCH", ONE, update),
    Route("DELETE", ONE, delete),
    Route("POST", f"{ONE}/items", add_item),
    Route("PATCH", f"{ONE}/items/{{item}}", update_item),
    Route("DELETE", f"{ONE}/items/{{item}}", delete_item),
]
