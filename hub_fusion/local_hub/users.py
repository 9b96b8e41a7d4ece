"""Accounts, tokens, and who may see or change what.

A user writes to its own namespace and to those of organisations it belongs to. Private repositories do not exist for
others. Only hashes of tokens are kept.
"""

import hashlib
import re
import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hub_fusion.local_hub.db import Database, new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError, bad_credentials, repo_not_found, sign_in_first
from hub_fusion.local_hub.store import Repo

Role = Literal["read", "write"]
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){0,41}|[A-Za-z0-9][\w-]{0,41}")


@dataclass(frozen=True)
class User:
    """Who is calling: account, what the token allows, organisations as {account id: name}."""

    id: int
    hex: str
    name: str
    kind: str
    role: str
    created: int
    orgs: dict[int, str]


def add_user(root: Path, name: str, *, org: bool = False, role: Role = "write") -> str:
    """A new token ("hf_…") for the account `name`, which is made if need be.

    `org` makes the account an organisation, with a token that acts as the organisation. Works beside a running server.
    """
    if not ACCOUNT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be an account: letters, digits, '-' and '_', at most 42.")
    if role not in ("read", "write"):
        raise ValueError(f"role must be 'read' or 'write', not {role!r}.")
    token = "hf_" + secrets.token_urlsafe(27).replace("-", "x").replace("_", "y")
    root.mkdir(parents=True, exist_ok=True)
    with closing(Database(root / "hub.sqlite3")) as db, db.write() as con:
        con.execute(
            "INSERT OR IGNORE INTO accounts (hex, name, key, kind, created) VALUES (?, ?, ?, ?, ?)",
            (new_hex_id(), name, name.lower(), "org" if org else "user", now_ms()),
        )
        account = con.execute("SELECT id FROM accounts WHERE key=?", (name.lower(),)).fetchone()["id"]
        con.execute("INSERT INTO tokens VALUES (?, ?, ?, ?)", (_digest(token), account, role, now_ms()))
    return token


def add_member(root: Path, org: str, user: str, *, role: Role = "write") -> None:
    """Let `user` see the private repositories of `org` and, with the role "write", change them."""
    with closing(Database(root / "hub.sqlite3")) as db, db.write() as con:
        rows = [con.execute("SELECT * FROM accounts WHERE key=?", (name.lower(),)).fetchone() for name in (org, user)]
        missing = [name for name, row in zip((org, user), rows, strict=True) if row is None]
        if missing:
            raise ValueError(f"no such account: {', '.join(missing)}; make it with add_user.")
        con.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?)", (rows[0]["id"], rows[1]["id"], role))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def authenticate(con: sqlite3.Connection, header: str | None) -> User | None:
    """The user of an ``Authorization`` header; None without one; 401 for a token that nobody was given."""
    if not header:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise bad_credentials()
    row = con.execute(
        "SELECT accounts.*, tokens.role FROM tokens JOIN accounts ON accounts.id=tokens.account WHERE sha256=?",
        (_digest(token.strip()),),
    ).fetchone()
    if row is None:
        raise bad_credentials()
    orgs = con.execute(
        "SELECT accounts.id, name, role FROM members JOIN accounts ON accounts.id=org WHERE user=? ORDER BY name",
        (row["id"],),
    ).fetchall()
    return User(
        id=row["id"],
        hex=row["hex"],
        name=row["name"],
        kind=row["kind"],
        role=row["role"],
        created=row["created"],
        orgs={org["id"]: org["name"] for org in orgs},
    )


def may_see(user: User | None, repo: Repo) -> bool:
    """Whether the repository exists as far as this caller is told."""
    return not repo.private or (user is not None and (repo.owner == user.id or repo.owner in user.orgs))


def may_write_to(con: sqlite3.Connection, user: User, account: int) -> bool:
    """Whether this token may make and change repositories of that account."""
    if user.role == "read":
        return False
    if account == user.id:
        return True
    row = con.execute("SELECT role FROM members WHERE org=? AND user=?", (account, user.id)).fetchone()
    return row is not None and row["role"] == "write"


def may_read_files(con: sqlite3.Connection, user: User | None, repo: Repo) -> bool:
    """Whether a caller who sees the repository may read its files: all, unless it is gated."""
    if repo.gated is None:
        return True
    if user is None:
        return False
    if repo.owner == user.id or repo.owner in user.orgs:
        return True
    row = con.execute("SELECT status FROM access WHERE repo=? AND user=?", (repo.id, user.id)).fetchone()
    return row is not None and row["status"] == "accepted"


def check_can_write(con: sqlite3.Connection, user: User | None, repo: Repo) -> User:
    """The caller, if it may change this repository; 404, 401 or 403 otherwise."""
    if not may_see(user, repo):
        raise repo_not_found()
    if user is None:
        raise sign_in_first()
    if not may_write_to(con, user, repo.owner):
        raise HubError(403, f"Forbidden: you don't have write access to {repo.full_name}.")
    return user
