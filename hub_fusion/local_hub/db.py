"""The SQLite file: its schema, its connections, its transactions.

Everything but file contents lives here. WAL with ``synchronous=FULL``: a transaction that returned survives a kill and
a power cut. Writers queue on a lock in this process and on SQLite's own lock between processes, so that a second
process (adding a user, say) may share the file with a running server.
"""

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from hub_fusion.local_hub.schema import COLLABORATION, COLLECTIONS, ERASED, PARTICULARS, PEOPLE

BUSY_TIMEOUT_S = 30.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE, name TEXT NOT NULL, key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL, created INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    org INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    user INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    role TEXT NOT NULL, PRIMARY KEY (user, org)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (
    sha256 TEXT PRIMARY KEY, account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    role TEXT NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL, kind TEXT NOT NULL, full_name TEXT NOT NULL,
    key TEXT NOT NULL, owner INTEGER NOT NULL REFERENCES accounts, private INTEGER NOT NULL DEFAULT 0,
    gated TEXT, sdk TEXT, created INTEGER NOT NULL, modified INTEGER NOT NULL, head TEXT NOT NULL, tree TEXT NOT NULL,
    downloads INTEGER NOT NULL DEFAULT 0, likes INTEGER NOT NULL DEFAULT 0, trending INTEGER NOT NULL DEFAULT 0,
    pipeline TEXT, parameters INTEGER, UNIQUE (kind, key));
CREATE INDEX IF NOT EXISTS repos_by_owner ON repos (owner, kind);
CREATE TABLE IF NOT EXISTS renames (
    kind TEXT NOT NULL, key TEXT NOT NULL, repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE,
    PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repo_tags (
    tag TEXT NOT NULL, repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE,
    PRIMARY KEY (tag, repo)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_by_repo ON repo_tags (repo);
CREATE TABLE IF NOT EXISTS trees (id TEXT PRIMARY KEY, entries TEXT NOT NULL, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commits (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, oid TEXT NOT NULL, parent TEXT, tree TEXT NOT NULL,
    title TEXT NOT NULL, message TEXT NOT NULL, author TEXT NOT NULL, date INTEGER NOT NULL,
    PRIMARY KEY (repo, oid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refs (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, name TEXT NOT NULL, oid TEXT NOT NULL, message TEXT,
    PRIMARY KEY (repo, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repo_blobs (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (repo, sha256)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE, sha256 TEXT NOT NULL,
    PRIMARY KEY (account, sha256)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS access (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE,
    user INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    status TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (repo, user)) WITHOUT ROWID;
"""

# Step n brings a file from version n to n + 1; SCHEMA is version 0. Steps are only ever added at the end.
MIGRATIONS = (
    "ALTER TABLE uploads ADD COLUMN at INTEGER NOT NULL DEFAULT 0;",
    COLLABORATION,
    PARTICULARS,
    ERASED,
    PEOPLE,
    COLLECTIONS,
)


class Database:
    """Connections to one SQLite file, safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._write_lock = threading.Lock()
        self._closed = False
        self.changed = threading.Event()  # set after every write, for those who wait for something to do
        self.after_write: Callable[[], None] | None = None  # called after every write, before the next one
        with self._connection() as con:
            con.execute("PRAGMA journal_mode=WAL")
            con.executescript(SCHEMA)
        with self.write() as con:
            self._migrate(con)
            for key in ("store_id", "secret"):
                con.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, secrets.token_hex(16)))

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection whose statements all see the same state."""
        with self._connection() as con:
            con.execute("BEGIN")
            try:
                yield con
            finally:
                con.execute("COMMIT")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it happens when the block ends, none of it when the block raises."""
        with self._write_lock, self._connection() as con:
            con.execute("BEGIN IMMEDIATE")
            try:
                yield con
                con.execute("COMMIT")
            except BaseException:
                con.execute("ROLLBACK")
                raise
            if self.after_write is not None:
                self.after_write()
        self.changed.set()

    def hold(self) -> sqlite3.Connection:
        """A connection that sees the present state until it is closed."""
        con = self._open()
        con.execute("BEGIN")
        con.execute("SELECT 1 FROM meta").fetchone()  # SQLite begins to hold the state with the first look at it
        return con

    def close(self) -> None:
        """Close every idle connection; those in use close when they are given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    @staticmethod
    def _migrate(con: sqlite3.Connection) -> None:
        """Bring an older file up to date: all steps or none, for they share the caller's transaction."""
        version: int = con.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise RuntimeError(
                f"The Hub's database has version {version}, this program knows {len(MIGRATIONS)}: upgrade."
            )
        for step in MIGRATIONS[version:]:
            for statement in filter(None, map(str.strip, step.split(";"))):
                con.execute(statement)
        con.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            con = self._idle.pop()
        except IndexError:
            con = self._open()
        try:
            yield con
        finally:
            self._idle.append(con)
            if self._closed:
                self.close()

    def _open(self) -> sqlite3.Connection:
        con = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        con.row_factory = sqlite3.Row
        con.execute("PRAGMA synchronous=FULL")
        con.execute("PRAGMA foreign_keys=ON")
        return con


def now_ms() -> int:
    """The time in the unit every date column has: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def iso(ms: int) -> str:
    """The Hub's spelling of a time: ``2026-01-01T00:00:00.000Z``."""
    moment = datetime.fromtimestamp(ms / 1000, tz=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def new_hex_id() -> str:
    """24 hex digits, as the Hub's ``_id`` fields have."""
    return secrets.token_hex(12)
