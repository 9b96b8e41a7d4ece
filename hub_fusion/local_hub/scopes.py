"""What a token may do: everything (write), look (read), or what its fine-grained permissions name.

Fine-grained permissions are kept as the Hub shows them in whoami: some hold everywhere, some for an account and all
it owns, some for one repository.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PERMISSIONS = (
    "repo.content.read",
    "repo.access.read",
    "repo.write",
    "discussion.write",
    "user.webhooks.read",
    "user.webhooks.write",
    "job.read",
    "job.write",
)
READING = {"repo.content.read", "repo.access.read", "user.webhooks.read", "job.read"}
IMPLIED_BY = {
    "repo.content.read": ("repo.write",),
    "discussion.write": ("repo.write",),
    "user.webhooks.read": ("user.webhooks.write",),
    "job.read": ("job.write",),
}
GLOBAL = "global"
KIND_PREFIX = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True)
class Scopes:
    """The permissions of one token. `accounts` and `repos` map ids of this database to permissions."""

    role: str = "write"
    everywhere: frozenset[str] = frozenset()
    accounts: Mapping[int, frozenset[str]] = field(default_factory=dict)
    repos: Mapping[int, frozenset[str]] = field(default_factory=dict)
    read_gated: bool = True

    def allow(self, permission: str, *, account: int | None = None, repo: int | None = None) -> bool:
        """Whether the token has the permission on this account or repository (membership is another question)."""
        if self.role != "fineGrained":
            return self.role == "write" or permission in READING
        held = self.everywhere | self.accounts.get(account or 0, frozenset()) | self.repos.get(repo or 0, frozenset())
        return not held.isdisjoint((permission, *IMPLIED_BY.get(permission, ())))

    def holders(self, permission: str) -> tuple[list[int], list[int]]:
        """(accounts, repositories) that a fine-grained token has this permission for by name."""
        wanted = {permission, *IMPLIED_BY.get(permission, ())}
        return (
            [account for account, held in self.accounts.items() if held & wanted],
            [repo for repo, held in self.repos.items() if held & wanted],
        )


def load(con: sqlite3.Connection, role: str, fine_grained: str | None) -> Scopes:
    """The scopes of a row of `tokens`; entities that are gone give nothing."""
    if role != "fineGrained" or not fine_grained:
        return Scopes(role)
    stored = json.loads(fine_grained)
    accounts: dict[int, frozenset[str]] = {}
    repos: dict[int, frozenset[str]] = {}
    for scope in stored["scoped"]:
        entity, held = scope["entity"], frozenset(scope["permissions"])
        is_account = entity["type"] in ("user", "org")
        row = con.execute(
            "SELECT id FROM accounts WHERE hex=?" if is_account else "SELECT id FROM repos WHERE hex=?",
            (entity["_id"],),
        ).fetchone()
        if row is not None:
            (accounts if is_account else repos)[row["id"]] = held
    return Scopes(role, frozenset(stored["global"]), accounts, repos, stored["canReadGatedRepos"])


def dump(con: sqlite3.Connection, permissions: Mapping[str, Sequence[str]], *, read_gated: bool = False) -> str:
    """The stored form of {"global" | account | "ns/name" | "datasets/ns/name" | "spaces/…": [permission, …]}."""
    unknown = sorted({name for names in permissions.values() for name in names} - set(PERMISSIONS))
    if unknown:
        raise ValueError(f"unknown permissions {', '.join(unknown)}; known: {', '.join(PERMISSIONS)}.")
    scoped = [
        {"entity": _entity(con, name), "permissions": list(held)}
        for name, held in permissions.items()
        if name != GLOBAL
    ]
    everywhere = list(permissions.get(GLOBAL, ()))
    return json.dumps({"canReadGatedRepos": read_gated, "global": everywhere, "scoped": scoped})


def _entity(con: sqlite3.Connection, name: str) -> dict[str, Any]:
    first, _, rest = name.partition("/")
    if not rest:
        row = con.execute("SELECT hex, name, kind FROM accounts WHERE key=?", (name.lower(),)).fetchone()
    else:
        kind, full_name = (KIND_PREFIX[first], rest) if first in KIND_PREFIX and "/" in rest else ("model", name)
        row = con.execute(
            "SELECT hex, full_name AS name, kind FROM repos WHERE kind=? AND key=?", (kind, full_name.lower())
        ).fetchone()
    if row is None:
        raise ValueError(f"{name!r} is neither an account nor a repository of this Hub.")
    return {"_id": row["hex"], "type": row["kind"], "name": row["name"]}
