"""A repository's history under another name: `duplicate_repo`, without moving a byte.

Branches, tags and the commits they lead to are copied, discussions and pull requests are not. A Space keeps its
variables; secrets and hardware are the new owner's to choose.
"""

import sqlite3

from starlette.responses import Response

from hub_fusion.local_hub import events, history, spaces
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.db import now_ms
from hub_fusion.local_hub.errors import HubError, sign_in_first
from hub_fusion.local_hub.repos import check_name, insert, namespace, text
from hub_fusion.local_hub.settings import visibility
from hub_fusion.local_hub.store import URL_PREFIX, Repo

LED_TO = """
WITH RECURSIVE reached (oid) AS (
    SELECT oid FROM refs WHERE repo=:old AND (name GLOB 'refs/heads/*' OR name GLOB 'refs/tags/*')
    UNION SELECT parent FROM commits JOIN reached USING (oid) WHERE repo=:old AND parent IS NOT NULL)
"""
COPIES = (
    f"{LED_TO} INSERT INTO commits SELECT :new, oid, parent, tree, title, message, author, date FROM commits"  # noqa: S608 - constants
    " WHERE repo=:old AND oid IN reached",
    "INSERT INTO refs SELECT :new, name, oid, message FROM refs"
    " WHERE repo=:old AND (name GLOB 'refs/heads/*' OR name GLOB 'refs/tags/*')",
    "INSERT INTO repo_blobs SELECT :new, sha256, size FROM repo_blobs WHERE repo=:old AND sha256 IN"
    " (SELECT json_extract(entry.value, '$[1]') FROM commits JOIN trees ON trees.id=commits.tree,"
    " json_each(trees.entries) AS entry WHERE commits.repo=:new)",
    "INSERT INTO space_values SELECT :new, kind, key, value, description, :now FROM space_values"
    " WHERE repo=:old AND kind='variable'",
    "UPDATE repos SET gated=(SELECT gated FROM repos WHERE id=:old) WHERE id=:new",
)


def duplicate(call: Call) -> Response:
    """A new repository with the history of this one; 409, with its url, if the name is taken."""
    request = call.json()
    if call.user is None:
        raise sign_in_first()
    new_owner, _, new_name = text(request, "repository").partition("/")
    with call.store.db.write() as con:
        source = call.readable_repo(con)
        owner = namespace(con, call, new_owner)
        full_name = f"{owner['name']}/{check_name(new_name)}"
        body = {"url": f"{call.base}/{URL_PREFIX[source.kind]}{full_name}", "filesCopyPending": False}
        if call.store.find_repo(con, source.kind, full_name) is not None:
            raise HubError(409, f"You already created this {source.kind} repo: {full_name}", body=body)
        private = visibility(request, source.kind)
        if private is None:
            private = source.private
        repo_id = insert(
            con, source.kind, full_name, owner=owner["id"], private=private, sdk=source.sdk, creator=call.user.id
        )
        _copy(con, source, repo_id)
        made = call.store.find_repo(con, source.kind, full_name)
        assert made is not None
        events.repo_event(con, call, made, events.CREATE)
        spaces.configure(con, call, made, request)
    return answer(body)


def _copy(con: sqlite3.Connection, source: Repo, repo_id: int) -> None:
    for statement in COPIES:
        con.execute(statement, {"old": source.id, "new": repo_id, "now": now_ms()})
    history.point(con, repo_id, history.MAIN, source.head)


ROUTES = [Route("POST", f"{API_REPO}/duplicate", duplicate)]
