"""Accounts, tokens, and who may see or change what.

A user writes to its own namespace and to those of organisations it belongs to. Private repositories do not exist for
others. Only hashes of tokens are kept.
"""

import hashlib
import re
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hub_fusion.local_hub import scopes
from hub_fusion.local_hub.db import Database, new_hex_id, now_ms
from hub_fusion.local_hub.errors import HubError, bad_credentials, repo_not_found, sign_in_first
from hub_fusion.local_hub.scopes import Scopes
from hub_fusion.local_hub.store import Repo

Role = Literal["read", "write", "fineGrained"]
OrgRole = Literal["read", "contributor", "write", "admin"]
ACCOUNT_NAME = re.compile(r"\w[\w-]{0,41}", re.ASCII)
TOKEN = re.compile(r"[!-~]{8,200}")


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
    scopes: Scopes
    label: str = "local"
    fine_grained: str | None = None
    fullname: str | None = None

    @property
    def accounts(self) -> list[int]:
        """Its own account and its organisations'."""
        return [self.id, *self.orgs]


def add_user(
    root: Path,
    name: str,
    *,
    org: bool = False,
    role: Role = "write",
    permissions: Mapping[str, Sequence[str]] | None = None,
    read_gated: bool = False,
    label: str = "local",
    fullname: str | None = None,
    private_by_default: bool | None = None,
    token: str | None = None,
) -> str:
    """A new token ("hf_…") for the account `name`, which is made if need be.

    `org` makes the account an organisation, with a token that acts as the organisation. Works beside a running server.

    The role "fineGrained" takes `permissions`, by "global", account or repository:
    ``{"alice/base": ["repo.write"], "datasets/lab/d": ["repo.content.read"], "global": ["discussion.write"]}``;
    `read_gated` lets such a token read gated repositories that its user was let into.

    `fullname` is what people read instead of the name. Where `private_by_default` is true, repositories are made
    private unless their maker says otherwise. `token` is used in place of a new one: test suites know theirs.
    """
    if not ACCOUNT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be an account: letters, digits, '-' and '_', at most 42.")
    if role not in get_args(Role):
        raise ValueError(f"role must be one of {', '.join(get_args(Role))}, not {role!r}.")
    if (role == "fineGrained") != (permissions is not None):
        raise ValueError("permissions belong to the role 'fineGrained', and it needs them.")
    if token is not None and not TOKEN.fullmatch(token):
        raise ValueError("a token has 8 to 200 characters, letters, digits and signs, no spaces.")
    token = token or "hf_" + secrets.token_urlsafe(27).replace("-", "x").replace("_", "y")
    root.mkdir(parents=True, exist_ok=True)
    with closing(Database(root / "hub.sqlite3")) as db, db.write() as con:
        con.execute(
            "INSERT OR IGNORE INTO accounts (hex, name, key, kind, created) VALUES (?, ?, ?, ?, ?)",
            (new_hex_id(), name, name.lower(), "org" if org else "user", now_ms()),
        )
        account = con.execute("SELECT id FROM accounts WHERE key=?", (name.lower(),)).fetchone()["id"]
        if fullname is not None:
            con.execute("UPDATE accounts SET fullname=? WHERE id=?", (fullname, account))
        if private_by_default is not None:
            con.execute("UPDATE accounts SET private_default=? WHERE id=?", (private_by_default, account))
        taken = con.execute("SELECT account FROM tokens WHERE sha256=?", (_digest(token),)).fetchone()
        if taken is not None and taken["account"] != account:
            raise ValueError("this token is another account's.")
        fine = scopes.dump(con, permissions, read_gated=read_gated) if permissions is not None else None
        con.execute(
            "INSERT OR REPLACE INTO tokens (sha256, account, role, created, name, fine_grained)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (_digest(token), account, role, now_ms(), label, fine),
        )
    return token


def add_member(root: Path, org: str, user: str, *, role: OrgRole = "write") -> None:
    """Let `user` see the private repositories of `org` and, by its role, change them.

    "read" changes nothing, "contributor" makes repositories and changes its own, "write" and "admin" change all.
    """
    if role not in get_args(OrgRole):
        raise ValueError(f"role must be one of {', '.join(get_args(OrgRole))}, not {role!r}.")
    with closing(Database(root / "hub.sqlite3")) as db, db.write() as con:
        rows = [con.execute("SELECT * FROM accounts WHERE key=?", (name.lower(),)).fetchone() for name in (org, user)]
        missing = [name for name, row in zip((org, user), rows, strict=True) if row is None]
        if missing:
            raise ValueError(f"no such account: {', '.join(missing)}; make it with add_user.")
        con.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?)", (rows[0]["id"], rows[1]["id"], role))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def token_digest(header: str) -> str | None:
    """How the token of an ``Authorization`` header is stored; None if the header holds none."""
    scheme, _, token = header.partition(" ")
    return _digest(token.strip()) if scheme.lower() == "bearer" else None


def authenticate(con: sqlite3.Connection, header: str | None) -> User | None:
    """The user of an ``Authorization`` header; None without one; 401 for a token that nobody was given."""
    if not header:
        return None
    digest = token_digest(header)
    if digest is None:
        raise bad_credentials()
    row = con.execute(
        "SELECT accounts.*, tokens.role, tokens.name AS label, fine_grained, tokens.created AS issued"
        " FROM tokens JOIN accounts ON accounts.id=tokens.account WHERE sha256=?",
        (digest,),
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
        created=row["issued"],
        orgs={org["id"]: org["name"] for org in orgs},
        scopes=scopes.load(con, row["role"], row["fine_grained"]),
        label=row["label"],
        fine_grained=row["fine_grained"],
        fullname=row["fullname"],
    )


def may_see(user: User | None, repo: Repo) -> bool:
    """Whether the repository exists as far as this caller is told."""
    return not repo.private or (
        user is not None
        and repo.owner in user.accounts
        and user.scopes.allow("repo.content.read", account=repo.owner, repo=repo.id)
    )


def sees_private(user: User | None) -> tuple[list[int], list[int]]:
    """(accounts, repositories) whose private repositories a list shows this caller: the rows `may_see` would pass."""
    if user is None:
        return [], []
    if user.scopes.allow("repo.content.read"):
        return user.accounts, []
    accounts, repos = user.scopes.holders("repo.content.read")
    return [account for account in accounts if account in user.accounts], repos


def may_write_to(con: sqlite3.Connection, user: User, account: int, repo: int | None = None) -> bool:
    """Whether this token may make repositories of that account, or change this one of them."""
    if not user.scopes.allow("repo.write", account=account, repo=repo):
        return False
    return manages(con, user, account, repo)


def role_in(con: sqlite3.Connection, user: int, account: int) -> str | None:
    """What a user is to an account: "admin" of its own, its `OrgRole` in an organisation, None elsewhere."""
    if account == user:
        return "admin"
    row = con.execute("SELECT role FROM members WHERE org=? AND user=?", (account, user)).fetchone()
    return None if row is None else str(row["role"])


def manages(con: sqlite3.Connection, user: User, account: int, repo: int | None = None) -> bool:
    """Whether the account is the caller's, or an organisation's that lets it write, whatever the token.

    A contributor makes repositories in the organisation, and changes those alone that it made.
    """
    role = role_in(con, user.id, account)
    if role in (None, "read"):
        return False
    if role != "contributor" or repo is None:
        return True
    return con.execute("SELECT 1 FROM repos WHERE id=? AND creator=?", (repo, user.id)).fetchone() is not None


def may_read_files(con: sqlite3.Connection, user: User | None, repo: Repo) -> bool:
    """Whether a caller who sees the repository may read its files: all, unless it is gated."""
    if repo.gated is None:
        return True
    if user is None:
        return False
    if repo.owner in user.accounts:
        return user.scopes.allow("repo.content.read", account=repo.owner, repo=repo.id)
    if not user.scopes.read_gated:
        return False
    return access_status(con, user, repo) == "accepted"


def access_status(con: sqlite3.Connection, user: User, repo: Repo) -> str | None:
    """ "pending", "accepted" or "rejected" if this user asked for access; None otherwise."""
    row = con.execute("SELECT status FROM access WHERE repo=? AND user=?", (repo.id, user.id)).fetchone()
    return None if row is None else str(row["status"])


def check_can_write(con: sqlite3.Connection, user: User | None, repo: Repo) -> User:
    """The caller, if it may change this repository; 404, 401 or 403 otherwise."""
    if not may_see(user, repo):
        raise repo_not_found()
    if user is None:
        raise sign_in_first()
    if not may_write_to(con, user, repo.owner, repo.id):
        raise HubError(403, f"Forbidden: you don't have write access to {repo.full_name}.")
    return user


def check_can_discuss(con: sqlite3.Connection, user: User | None, repo: Repo) -> User:
    """The caller, if it may open and answer discussions and pull requests here; 404, 401 or 403 otherwise."""
    if not may_see(user, repo):
        raise repo_not_found()
    if user is None:
        raise sign_in_first()
    if not repo.discussions:
        raise HubError(403, f"Discussions and pull requests are disabled for {repo.full_name}.")
    if not user.scopes.allow("discussion.write", account=repo.owner, repo=repo.id):
        raise HubError(403, "Forbidden: this token may not open or answer discussions.")
    return user
