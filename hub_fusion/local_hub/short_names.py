"""Names without a namespace, from the Hub's early days: "gpt2" leads to openai-community/gpt2 if an operator says so.

On the Hub they are redirects as those of renamed repositories are, and they are kept with them here: cards that name
"gpt2" as their base name the repository that it leads to.
"""

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from hub_fusion.local_hub.db import Database
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.store import KINDS, Store
from hub_fusion.local_hub.users import User, authenticate, may_see

SHORT = re.compile(r"\w[\w.-]{0,95}", re.ASCII)


def add_short_name(root: Path, short: str, full_name: str, *, kind: str = "model") -> None:
    """Let `short` lead to a repository ("model", "dataset" or "space"). Works beside a running server."""
    if not SHORT.fullmatch(short):
        raise ValueError(f"{short!r} cannot be a short name: letters, digits, '-', '_' and '.', at most 96.")
    with closing(Database(root / "hub.sqlite3")) as db, db.write() as con:
        row = con.execute("SELECT id FROM repos WHERE kind=? AND key=?", (kind, full_name.lower())).fetchone()
        if row is None:
            raise ValueError(f"there is no {kind} {full_name!r} on this Hub.")
        con.execute("INSERT OR REPLACE INTO renames VALUES (?, ?, ?)", (kind, short.lower(), row["id"]))


def pattern(asked: Iterable[str]) -> re.Pattern[str]:
    """Paths that name a repository without a namespace; `asked` is what may follow the name in the API."""
    words = "|".join(sorted(map(re.escape, asked)))
    return re.compile(
        rf"/api/(?P<api>models|datasets|spaces)/(?P<a>[^/]+)(?:/(?:{words})(?:/.*)?)?"
        r"|/(?:(?P<files>datasets|spaces)/)?(?P<b>[^/]+)/resolve/.*"
    )


def elsewhere(store: Store, match: re.Match[str], query: str, header: str | None) -> str | None:
    """Where the repository of a path is that names it without a namespace; None if there is none for this caller."""
    kind = KINDS[match["api"] or match["files"] or "models"]
    group = "a" if match["a"] is not None else "b"
    with store.db.read() as con:
        repo = store.find_renamed(con, kind, match[group])
        if repo is None or not may_see(_user(con, header), repo):
            return None
    start, end = match.span(group)
    path = match.string[:start] + repo.full_name + match.string[end:]
    return path + (f"?{query}" if query else "")


def _user(con: sqlite3.Connection, header: str | None) -> User | None:
    try:
        return authenticate(con, header)
    except HubError:
        return None
