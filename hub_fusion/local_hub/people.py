"""Accounts as others see them: overviews, members, and what people like.

Nobody follows anybody here: those lists are empty. Counts and lists show what the caller may see.
"""

import sqlite3
from html import escape
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.db import iso, now_ms
from hub_fusion.local_hub.errors import HubError, sign_in_first
from hub_fusion.local_hub.store import KINDS, Repo
from hub_fusion.local_hub.users import may_see


def user_overview(call: Call) -> Response:
    """A person: repositories, discussions, likes, organisations."""
    with call.store.db.read() as con:
        account = _account(con, call, "user")
        orgs = con.execute(
            "SELECT accounts.* FROM members JOIN accounts ON accounts.id=org WHERE user=? ORDER BY name",
            (account["id"],),
        ).fetchall()
        said = con.execute("SELECT COUNT(*) FROM threads WHERE author=?", (account["id"],)).fetchone()[0]
        shown = {
            **_person(call, account),
            **_counts(con, call, account["id"]),
            "numDiscussions": said,
            "numLikes": len(_likes(con, call, account["id"])),
            "numUpvotes": 0,
            "numFollowing": 0,
            "orgs": [_organization(call, org) for org in orgs],
            "createdAt": iso(account["created"]),
        }
    return answer(shown)


def org_overview(call: Call) -> Response:
    """An organisation: repositories and how many members."""
    with call.store.db.read() as con:
        account = _account(con, call, "org")
        users = con.execute("SELECT COUNT(*) FROM members WHERE org=?", (account["id"],)).fetchone()[0]
        shown = {
            **_organization(call, account),
            **_counts(con, call, account["id"]),
            "type": "org",
            "isVerified": False,
            "numUsers": users,
            "createdAt": iso(account["created"]),
        }
    return answer(shown)


def members(call: Call) -> Response:
    """The people of an organisation."""
    with call.store.db.read() as con:
        org = _account(con, call, "org")
        rows = con.execute(
            "SELECT accounts.*, role FROM members JOIN accounts ON accounts.id=user WHERE org=? ORDER BY name",
            (org["id"],),
        ).fetchall()
    return answer([{**_person(call, row), "role": row["role"]} for row in rows])


def nobody(call: Call) -> Response:
    """Followers and followed: none."""
    kind = "org" if "/organizations/" in call.request.scope["path"] else "user"
    with call.store.db.read() as con:
        _account(con, call, kind)
    return answer([])


def like(call: Call) -> Response:
    """The caller likes this repository."""
    if call.user is None:
        raise sign_in_first()
    with call.store.db.write() as con:
        repo = call.repo(con)
        con.execute("INSERT OR IGNORE INTO likes VALUES (?, ?, ?)", (repo.id, call.user.id, now_ms()))
        _count_likes(con, repo)
    return answer({})


def unlike(call: Call) -> Response:
    """The caller does not, or not any more."""
    with call.store.db.write() as con:
        repo = call.repo(con)
        if call.user is None:
            raise sign_in_first()
        con.execute("DELETE FROM likes WHERE repo=? AND user=?", (repo.id, call.user.id))
        _count_likes(con, repo)
    return answer({})


def likers(call: Call) -> Response:
    """Who likes this repository, the latest first."""
    with call.store.db.read() as con:
        repo = call.repo(con)
        rows = con.execute(
            "SELECT accounts.* FROM likes JOIN accounts ON accounts.id=user WHERE repo=? ORDER BY at DESC, user DESC",
            (repo.id,),
        ).fetchall()
    return answer([_person(call, row) for row in rows])


def liked(call: Call) -> Response:
    """What a person likes, the latest first."""
    with call.store.db.read() as con:
        return answer(_likes(con, call, _account(con, call, "user")["id"]))


def avatar(call: Call) -> Response:
    """The first letter of a name."""
    letter = escape(call.params["name"].removesuffix(".svg")[:1].upper())
    disc = '<circle cx="50" cy="50" r="50" fill="#dde"/>'
    text = f'<text x="50" y="68" font-size="56" text-anchor="middle" font-family="sans-serif">{letter}</text>'
    image = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{disc}{text}</svg>'
    return Response(image, media_type="image/svg+xml")


def _account(con: sqlite3.Connection, call: Call, kind: str) -> sqlite3.Row:
    key = call.params["account"].lower()
    row = con.execute("SELECT * FROM accounts WHERE key=? AND kind=?", (key, kind)).fetchone()
    if row is None:
        raise HubError(404, f"This {'organization' if kind == 'org' else 'user'} does not exist.")
    found: sqlite3.Row = row
    return found


def _person(call: Call, row: sqlite3.Row) -> dict[str, Any]:
    return {
        "type": "user",
        "user": row["name"],
        "fullname": row["fullname"] or row["name"],
        "avatarUrl": f"{call.base}/avatars/{row['name']}.svg",
        "isPro": False,
        "isFollowing": False,
        "numFollowers": 0,
    }


def _organization(call: Call, row: sqlite3.Row) -> dict[str, Any]:
    return {
        "name": row["name"],
        "fullname": row["fullname"] or row["name"],
        "avatarUrl": f"{call.base}/avatars/{row['name']}.svg",
        "isFollowing": False,
        "numFollowers": 0,
    }


def _counts(con: sqlite3.Connection, call: Call, account: int) -> dict[str, int]:
    counts = {f"num{kinds.title()}": 0 for kinds in KINDS} | {"numPapers": 0}
    for row in con.execute("SELECT * FROM repos WHERE owner=?", (account,)):
        repo = Repo(**row)
        counts[f"num{repo.kind.title()}s"] += may_see(call.user, repo)
    return counts


def _likes(con: sqlite3.Connection, call: Call, account: int) -> list[dict[str, Any]]:
    found = []
    rows = con.execute(
        "SELECT repos.*, at FROM likes JOIN repos ON repos.id=repo WHERE user=? ORDER BY at DESC, repos.id DESC",
        (account,),
    )
    for row in rows:
        fields = dict(row)
        at, repo = fields.pop("at"), Repo(**fields)
        if may_see(call.user, repo):
            found.append({"createdAt": iso(at), "repo": {"name": repo.full_name, "type": repo.kind}})
    return found


def _count_likes(con: sqlite3.Connection, repo: Repo) -> None:
    con.execute("UPDATE repos SET likes=(SELECT COUNT(*) FROM likes WHERE repo=?) WHERE id=?", (repo.id, repo.id))


ROUTES = [
    Route("GET", "/api/users/{account}/overview", user_overview),
    Route("GET", "/api/users/{account}/likes", liked),
    Route("GET", "/api/users/{account}/followers", nobody),
    Route("GET", "/api/users/{account}/following", nobody),
    Route("GET", "/api/organizations/{account}/overview", org_overview),
    Route("GET", "/api/organizations/{account}/members", members),
    Route("GET", "/api/organizations/{account}/followers", nobody),
    Route("GET", f"{API_REPO}/likers", likers),
    Route("POST", f"{API_REPO}/like", like),
    Route("DELETE", f"{API_REPO}/like", unlike),
    Route("GET", "/avatars/{name}", avatar, token=False),
]
