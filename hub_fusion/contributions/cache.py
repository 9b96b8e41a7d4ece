"""What a watcher knows already, in one SQLite file: the base's children as listed, and verdicts on their headers.

It saves requests and decides nothing: the file may be deleted at any time, and one that is damaged or was written by
another version is made anew. The Hub is the only truth.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from hub_fusion import __version__
from hub_fusion.errors import RecordError
from hub_fusion.records import Contribution, Refusal

T = TypeVar("T")
FORMAT = 1
SCHEMA = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE children (
    base TEXT NOT NULL, repo TEXT NOT NULL, sha TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (base, repo)
) WITHOUT ROWID;
CREATE TABLE verdicts (
    repo TEXT NOT NULL, sha TEXT NOT NULL, policy TEXT NOT NULL, refusal TEXT NOT NULL,
    PRIMARY KEY (repo, sha, policy)
) WITHOUT ROWID;
"""


class Cache:
    """An open file. Repositories are compared without case; a verdict holds for a commit and a policy, whatever that
    is: a text that is another one as soon as the verdict might be.
    """

    def __init__(self, con: sqlite3.Connection) -> None:
        self._con = con

    # what is listed ------------------------------------------------------------------------------------------------

    def moment(self, key: str) -> datetime | None:
        """A moment that was kept under this key."""
        value = self.fact(key)
        return datetime.fromisoformat(value) if value else None

    def fact(self, key: str) -> str | None:
        """A text that was kept under this key."""
        row = self._con.execute("SELECT value FROM facts WHERE key=?", (key,)).fetchone()
        return str(row[0]) if row else None

    def keep_fact(self, key: str, value: str) -> None:
        """Keep a text under a key."""
        with self._con:
            self._con.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def keep_listed(
        self, base: str, read: Iterable[tuple[str, str, Contribution | Refusal | None]], facts: dict[str, str],
        *, everything: bool,
    ) -> None:  # fmt: skip
        """What a listing of the children of `base` gave, (repository, commit, what it is), and facts: all or nothing.

        Where it gave `everything`, all others are forgotten, and the verdicts on what is no longer listed.
        """
        rows = [(base, repo.lower(), sha, record.to_json() if record else "") for repo, sha, record in read]
        with self._con as con:
            if everything:
                con.execute("DELETE FROM children WHERE base=?", (base,))
            con.executemany("INSERT OR REPLACE INTO children VALUES (?, ?, ?, ?)", rows)
            con.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
            if everything:
                con.execute("DELETE FROM verdicts WHERE (repo, sha) NOT IN (SELECT repo, sha FROM children)")

    def listed(self, base: str) -> list[Contribution | Refusal]:
        """The contributions and refusals among the children of `base`."""
        rows = self._con.execute("SELECT record FROM children WHERE base=? AND record!=''", (base,))
        return [_record(row[0]) for row in rows]

    def child(self, base: str, repo: str) -> Contribution | Refusal | None:
        """What is known of one child of `base`."""
        where = "base=? AND repo=? AND record!=''"
        row = self._con.execute(f"SELECT record FROM children WHERE {where}", (base, repo.lower())).fetchone()  # noqa: S608
        return _record(row[0]) if row else None

    def forget(self, repo: str) -> None:
        """It is no longer there."""
        with self._con as con:
            con.execute("DELETE FROM children WHERE repo=?", (repo.lower(),))
            con.execute("DELETE FROM verdicts WHERE repo=?", (repo.lower(),))

    # verdicts ------------------------------------------------------------------------------------------------------

    def verdicts(self, policy: str) -> dict[str, Refusal | None]:
        """``repo@sha`` → why it was refused, None if it passed; the repository in lower case."""
        rows = self._con.execute("SELECT repo, sha, refusal FROM verdicts WHERE policy=?", (policy,))
        return {f"{repo}@{sha}": Refusal.from_json(text) if text else None for repo, sha, text in rows}

    def keep_verdict(self, c: Contribution | Refusal, policy: str, refusal: Refusal | None) -> None:
        """Remember a verdict."""
        row = (c.repo.lower(), c.sha, policy, refusal.to_json() if refusal else "")
        with self._con:
            self._con.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)", row)


def with_cache(file: Path, endpoint: str, work: Callable[[Cache], T]) -> T:
    """Do some work with the cache in a file, with a new one if the file is damaged, in memory if it cannot be kept."""
    for place in (file, file, None):
        try:
            with _opened(place, endpoint) as cache:
                return work(cache)
        except (sqlite3.Error, RecordError):
            if place is None:
                raise
            for name in (file, file.with_name(file.name + "-journal")):
                with suppress(OSError):
                    name.unlink()
    raise AssertionError("unreachable")


@contextmanager
def _opened(file: Path | None, endpoint: str) -> Iterator[Cache]:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file or ":memory:")) as con:
        made_by = f"{FORMAT} {__version__} {endpoint}"
        tables = {row[0] for row in con.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        known = con.execute("SELECT value FROM facts WHERE key='made by'").fetchone() if "facts" in tables else None
        if tables and known != (made_by,):
            raise RecordError("made by another version, or for another Hub")
        if not tables:
            con.executescript(f"BEGIN; {SCHEMA} COMMIT")
            Cache(con).keep_fact("made by", made_by)
        yield Cache(con)


def _record(text: str) -> Contribution | Refusal:
    kind: type[Contribution | Refusal] = Refusal if text.startswith('{"kind": "refusal"') else Contribution
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecordError(f"the cache holds no {kind.__name__}: {error}") from None
