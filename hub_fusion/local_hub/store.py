"""The folder a Hub lives in: `hub.sqlite3`, `blobs/`, `parts/`, `xorbs/`, and the questions every topic asks of them.

Repositories, revisions and trees are looked up here; what may be seen is decided in `users`.
"""

import hashlib
import hmac
import re
import sqlite3
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path

from hub_fusion.local_hub import trees
from hub_fusion.local_hub.blobs import BlobStore
from hub_fusion.local_hub.db import Database
from hub_fusion.local_hub.errors import revision_not_found
from hub_fusion.local_hub.trees import Tree

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
URL_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
TREES_IN_MEMORY = 256
HEX = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Repo:
    """A row of `repos`."""

    id: int
    hex: str
    kind: str
    full_name: str
    key: str
    owner: int
    private: int
    gated: str | None
    sdk: str | None
    created: int
    modified: int
    head: str
    tree: str
    downloads: int
    likes: int
    trending: int
    pipeline: str | None
    parameters: int | None
    discussions: int = 1
    creator: int | None = None  # the account that made it; unknown for old ones

    @property
    def url_path(self) -> str:
        """Where its pages are, below the endpoint."""
        return f"{URL_PREFIX[self.kind]}{self.full_name}"


@dataclass(frozen=True)
class Commit:
    """A row of `commits`."""

    repo: int
    oid: str
    parent: str | None
    tree: str
    title: str
    message: str
    author: str
    date: int


class Store:
    """Everything one Hub knows. Safe to use from many threads."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.db = Database(root / "hub.sqlite3")
        self.blobs = BlobStore(root / "blobs", root / "tmp")
        self.parts = root / "parts"
        self.xorbs = root / "xorbs"
        for folder in (self.parts, self.xorbs):
            folder.mkdir(exist_ok=True)
        with self.db.read() as con:
            meta = dict(con.execute("SELECT key, value FROM meta").fetchall())
        # a copy of the folder has another one: clients remember what they sent to a URL that holds it
        here = f"{meta['store_id']}\n{root.resolve()}\n{self.xorbs.stat().st_ino}"
        self.store_id = hashlib.sha256(here.encode()).hexdigest()[:12]
        self._secret = bytes.fromhex(meta["secret"])
        self._trees: OrderedDict[str, Tree] = OrderedDict()
        self._trees_lock = threading.Lock()
        self._downloads: Counter[int] = Counter()
        self._downloads_lock = threading.Lock()

    def close(self) -> None:
        """Write what is pending and close the database."""
        self.flush_downloads()
        self.db.close()

    def find_repo(self, con: sqlite3.Connection, kind: str, full_name: str) -> Repo | None:
        """The repository of this name, whatever the case of its letters."""
        row = con.execute("SELECT * FROM repos WHERE kind=? AND key=?", (kind, full_name.lower())).fetchone()
        return Repo(**row) if row else None

    def find_renamed(self, con: sqlite3.Connection, kind: str, full_name: str) -> Repo | None:
        """The repository that once had this name."""
        row = con.execute(
            "SELECT repos.* FROM renames JOIN repos ON repos.id=renames.repo WHERE renames.kind=? AND renames.key=?",
            (kind, full_name.lower()),
        ).fetchone()
        return Repo(**row) if row else None

    def commit(self, con: sqlite3.Connection, repo: Repo, oid: str) -> Commit:
        """The commit with this full oid; RevisionNotFound."""
        row = con.execute("SELECT * FROM commits WHERE repo=? AND oid=?", (repo.id, oid)).fetchone()
        if row is None:
            raise revision_not_found(oid)
        return Commit(**row)

    def resolve(self, con: sqlite3.Connection, repo: Repo, revision: str) -> Commit:
        """The commit a branch, tag, full ref name, commit oid or its first 7 or more digits stands for."""
        full = revision.startswith("refs/")
        for name in (revision,) if full else (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            row = con.execute("SELECT oid FROM refs WHERE repo=? AND name=?", (repo.id, name)).fetchone()
            if row:
                return self.commit(con, repo, row["oid"])
        if HEX.fullmatch(revision):
            rows = con.execute(
                "SELECT * FROM commits WHERE repo=? AND oid BETWEEN ? AND ? LIMIT 2",
                (repo.id, revision, revision + "g"),
            ).fetchall()
            if len(rows) == 1:
                return Commit(**rows[0])
        raise revision_not_found(revision)

    def tree(self, con: sqlite3.Connection, tree_id: str) -> Tree:
        """The files of a tree. Shared: do not change it, copy it."""
        with self._trees_lock:
            if tree_id in self._trees:
                self._trees.move_to_end(tree_id)
                return self._trees[tree_id]
        tree = trees.load(con.execute("SELECT entries FROM trees WHERE id=?", (tree_id,)).fetchone()["entries"])
        with self._trees_lock:
            self._trees[tree_id] = tree
            while len(self._trees) > TREES_IN_MEMORY:
                self._trees.popitem(last=False)
        return tree

    def count_download(self, repo_id: int) -> None:
        """Note a download; it reaches the disk with the next `flush_downloads`."""
        with self._downloads_lock:
            self._downloads[repo_id] += 1

    def flush_downloads(self) -> None:
        """Write the noted downloads. A kill loses those not yet written: they are statistics, not content."""
        with self._downloads_lock:
            pending = [(n, repo) for repo, n in self._downloads.items()]
            self._downloads.clear()
        if pending:
            with self.db.write() as con:
                con.executemany("UPDATE repos SET downloads=downloads+? WHERE id=?", pending)

    def sign(self, purpose: str, *fields: object, valid_s: int) -> str:
        """`fields`, an expiry and a signature in one URL-safe word, valid for this store and purpose only."""
        words = [*map(str, fields), str(int(time.time()) + valid_s)]
        return ".".join([*words, self.signature(purpose, words)])

    def verify(self, purpose: str, signed: str) -> list[str] | None:
        """The fields that `sign` was given, None if forged or expired."""
        *words, signature = signed.split(".")
        if not words or not hmac.compare_digest(signature.encode(), self.signature(purpose, words).encode()):
            return None
        *fields, expiry = words
        return fields if int(expiry) > time.time() else None

    def signature(self, purpose: str, words: list[str]) -> str:
        """What nobody but this store can make of these words."""
        return hmac.new(self._secret, ".".join([purpose, *words]).encode(), hashlib.sha256).hexdigest()
