"""Proof that a Hub's folder is whole: `hub-fusion hub fsck`.

Every ref leads to a commit, every commit to its parent and its tree, every tree to blobs of the right size, and every
name that is a hash (of a blob, a file, a tree, a commit) is the hash of what it names. It only reads, and may run
beside a server: it sees the index as it was at one moment, and holds the blobs' guard so that none disappears.

Faults are what breaks a promise; notes are what costs nothing but space (`hub-fusion hub gc` removes it).
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from hub_fusion.local_hub import trees
from hub_fusion.local_hub.blobs import SHA256, BlobStore
from hub_fusion.local_hub.history import MAIN, commit_oid
from hub_fusion.local_hub.store import Commit, Store

PIECE = 1 << 20


@dataclass
class Findings:
    """What was looked at and what is wrong with it."""

    repos: int = 0
    commits: int = 0
    trees: int = 0
    blobs: int = 0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every promise is kept."""
        return not self.faults


def check(root: Path, *, contents: bool = True) -> Findings:
    """Compare index, refs and blobs; `contents` also reads and hashes every blob."""
    if not (root / "hub.sqlite3").is_file():
        raise FileNotFoundError(f"{root} is not the folder of a local Hub: it has no hub.sqlite3.")
    found = Findings()
    with closing(Store(root)) as store, store.blobs.guard(), store.db.read() as con:
        found.faults += _database(con)
        found.faults += _records(con)
        found.faults += _refs(con, found)
        sizes, git_oids = _trees(con, found)
        found.faults += _blobs(con, store.blobs, found, sizes, git_oids if contents else None)
    return found


def _database(con: sqlite3.Connection) -> Iterator[str]:
    for row in con.execute("PRAGMA integrity_check"):
        if row[0] != "ok":
            yield f"database: {row[0]}"
    for row in con.execute("PRAGMA foreign_key_check"):
        yield f"database: row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there"


def _records(con: sqlite3.Connection) -> Iterator[str]:
    """What is kept of Spaces, jobs, schedules and webhooks can be read, and no secret's value is among it."""
    texts = (("spaces", "volumes", "repo"), ("jobs", "spec", "hex"), ("jobs", "initiator", "hex"),
             ("schedules", "spec", "hex"), ("webhooks", "watched", "hex"), ("webhooks", "job", "hex"))  # fmt: skip
    for table, column, key in texts:
        for row in con.execute(f"SELECT {key} FROM {table} WHERE {column} IS NOT NULL AND NOT json_valid({column})"):  # noqa: S608 - constants
            yield f"{table}: {column} of {row[0]} cannot be read"
    for row in con.execute("SELECT repo, key FROM space_values WHERE kind='secret' AND value IS NOT NULL"):
        yield f"the value of the secret {row['key']} of repository {row['repo']} is written down"


def _refs(con: sqlite3.Connection, found: Findings) -> Iterator[str]:
    """Refs, commits and what lists show of the head of main."""
    names = {row["id"]: f"{row['kind']} {row['full_name']}" for row in con.execute("SELECT * FROM repos")}
    found.repos = len(names)
    known: set[tuple[int, str]] = set()
    parents: list[tuple[int, str, str]] = []
    tree_ids = {row[0] for row in con.execute("SELECT id FROM trees")}
    for row in con.execute("SELECT * FROM commits"):
        commit = Commit(**row)
        found.commits += 1
        known.add((commit.repo, commit.oid))
        if commit.parent is not None:
            parents.append((commit.repo, commit.oid, commit.parent))
        if commit_oid(commit) != commit.oid:
            yield f"{names[commit.repo]}: commit {commit.oid} is not the hash of what it says"
        if commit.tree not in tree_ids:
            yield f"{names[commit.repo]}: the tree {commit.tree} of commit {commit.oid} is not there"
    for repo, oid, parent in parents:
        if (repo, parent) not in known:
            yield f"{names[repo]}: the parent {parent} of commit {oid} is not there"
    heads = {}
    for row in con.execute("SELECT repo, name, oid FROM refs"):
        if (row["repo"], row["oid"]) not in known:
            yield f"{names[row['repo']]}: {row['name']} leads to {row['oid']}, which is not there"
        if row["name"] == MAIN:
            heads[row["repo"]] = row["oid"]
    for row in con.execute("SELECT repos.id, head, repos.tree, commits.tree AS named FROM repos"
                           " LEFT JOIN commits ON commits.repo=repos.id AND commits.oid=head"):  # fmt: skip
        if heads.get(row["id"]) != row["head"] or row["tree"] != row["named"]:
            yield f"{names[row['id']]}: what lists show is not the head of main"


def _trees(con: sqlite3.Connection, found: Findings) -> tuple[dict[str, int], dict[str, set[str]]]:
    """(size of every blob that a file has, git hashes of the regular files with each blob's content)."""
    sizes: dict[str, int] = {}
    git_oids: dict[str, set[str]] = {}
    for row in con.execute("SELECT id, entries, facts FROM trees"):
        found.trees += 1
        try:
            tree = trees.load(row["entries"])
            json.loads(row["facts"])
        except (ValueError, TypeError):
            found.faults.append(f"tree {row['id']} cannot be read")
            continue
        if trees.tree_id(row["entries"]) != row["id"]:
            found.faults.append(f"tree {row['id']} is not the hash of what it lists")
        for entry in tree.values():
            if sizes.setdefault(entry.blob, entry.size) != entry.size:
                found.faults.append(f"blob {entry.blob} has two sizes: {sizes[entry.blob]} and {entry.size}")
            if not entry.lfs:
                git_oids.setdefault(entry.blob, set()).add(entry.oid)
            elif entry.oid != trees.git_oid(trees.lfs_pointer(entry.blob, entry.size)):
                found.faults.append(f"{entry.path}: {entry.oid} is not the hash of its pointer")
    erased = {tuple(row) for row in con.execute("SELECT repo, sha256 FROM erased")}
    held = {tuple(row) for row in con.execute("SELECT repo, sha256 FROM repo_blobs")}
    wanted = con.execute(
        "SELECT DISTINCT commits.repo, json_extract(entry.value, '$[1]') FROM commits"
        " JOIN trees ON trees.id=commits.tree, json_each(trees.entries) AS entry WHERE json_valid(trees.entries)"
    )
    pairs = [tuple(row) for row in wanted]
    missing = [sha256 for repo, sha256 in pairs if (repo, sha256) not in held | erased]
    found.faults += [f"blob {sha256} is in a tree but not among its repository's blobs" for sha256 in missing]
    for sha256 in {sha256 for _, sha256 in erased} - {sha256 for repo, sha256 in pairs if (repo, sha256) in held}:
        sizes.pop(sha256, None)
    return sizes, git_oids


def _blobs(
    con: sqlite3.Connection,
    blobs: BlobStore,
    found: Findings,
    sizes: dict[str, int],
    git_oids: dict[str, set[str]] | None,
) -> Iterator[str]:
    uploads = {row[0] for row in con.execute("SELECT sha256 FROM uploads")}
    wanted = {row[0] for row in con.execute("SELECT sha256 FROM repo_blobs")} | uploads | sizes.keys()
    for sha256 in sorted(wanted):
        size = blobs.size(sha256)
        if size is None:
            yield f"blob {sha256} is named by the index but not there"
        elif sizes.get(sha256, size) != size:
            yield f"blob {sha256} has {size} bytes, the index says {sizes[sha256]}"
    loose = 0
    for name in blobs.names():
        if not SHA256.fullmatch(name):
            yield f"blobs/{name[:2]}/{name[2:]} is not named by a sha256"
            continue
        found.blobs += 1
        found.bytes += blobs.size(name) or 0
        loose += name not in wanted
        if git_oids is not None:
            content, oid = _hashes(blobs, name, git=name in git_oids)
            if content != name:
                yield f"blob {name} has the content of {content}"
            elif name in git_oids and git_oids[name] != {oid}:
                yield f"blob {name} has the git hash {oid}, trees say {', '.join(sorted(git_oids[name]))}"
    if loose:
        found.notes.append(f"{loose} blobs that nothing refers to")
    left_overs = sum(1 for _ in blobs.scratch.iterdir())
    if left_overs:
        found.notes.append(f"{left_overs} files in the making or left over")


def _hashes(blobs: BlobStore, name: str, *, git: bool) -> tuple[str, str]:
    """(sha256, git hash if asked for) of a blob as it is on disk."""
    content = hashlib.sha256()
    object_id = hashlib.sha1(f"blob {blobs.size(name)}\0".encode(), usedforsecurity=False)
    with blobs.path(name).open("rb") as file:
        while piece := file.read(PIECE):
            content.update(piece)
            if git:
                object_id.update(piece)
    return content.hexdigest(), object_id.hexdigest()
