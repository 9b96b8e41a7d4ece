"""What an account owns, with the storage that it takes: `hf repos ls`."""

import sqlite3
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.db import iso
from hub_fusion.local_hub.errors import HubError, sign_in_first
from hub_fusion.local_hub.settings import VISIBILITIES
from hub_fusion.local_hub.store import Repo
from hub_fusion.local_hub.users import User, may_see


def mine(call: Call) -> Response:
    """The caller's own repositories, the largest first."""
    if call.user is None:
        raise sign_in_first()
    with call.store.db.read() as con:
        return answer(_owned(con, call.user, call.user.id))


def of_organization(call: Call) -> Response:
    """The same for an organisation; its members may look."""
    if call.user is None:
        raise sign_in_first()
    with call.store.db.read() as con:
        row = con.execute(
            "SELECT * FROM accounts WHERE key=? AND kind='org'", (call.params["account"].lower(),)
        ).fetchone()
        if row is None:
            raise HubError(404, "This organization does not exist.")
        if row["id"] not in call.user.accounts:
            raise HubError(403, f"Only members of {row['name']} may see its storage.")
        return answer(_owned(con, call.user, row["id"]))


def _owned(con: sqlite3.Connection, user: User, account: int) -> list[dict[str, Any]]:
    repos = [Repo(**row) for row in con.execute("SELECT * FROM repos WHERE owner=?", (account,))]
    sizes: dict[int, int] = dict(
        con.execute(
            "SELECT repo, SUM(size) FROM repo_blobs JOIN repos ON repos.id=repo WHERE owner=? GROUP BY repo", (account,)
        ).fetchall()
    )
    total = sum(sizes.values()) or 1
    shown = [
        {
            "id": repo.full_name,
            "type": repo.kind,
            "updatedAt": iso(repo.modified),
            "visibility": next(name for name, number in VISIBILITIES.items() if number == repo.private),
            "storage": sizes.get(repo.id, 0),
            "storagePercent": 100 * sizes.get(repo.id, 0) / total,
        }
        for repo in repos
        if may_see(user, repo)
    ]
    return sorted(shown, key=lambda item: -item["storage"])


ROUTES = [
    Route("GET", "/api/settings/repositories", mine),
    Route("GET", "/api/organizations/{account}/settings/repositories", of_organization),
]
