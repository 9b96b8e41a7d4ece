"""Adding to a repository's history: the one place where a commit comes into being.

Callers hold a write transaction, so a commit, its branch, its tags and its tree appear together or not at all.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, replace

from hub_fusion.local_hub import facts as facts_of
from hub_fusion.local_hub import lineage, spaces, trees
from hub_fusion.local_hub.db import now_ms
from hub_fusion.local_hub.store import Commit, Repo, Store
from hub_fusion.local_hub.trees import Tree

MAIN = "refs/heads/main"
CONVERT = "refs/convert/"
GROWING = ("refs/heads/", "refs/pr/", CONVERT)  # where commits can be added; the first may be left out


def add_commit(
    con: sqlite3.Connection,
    store: Store,
    repo_id: int,
    ref: str,
    tree: Tree,
    *,
    parent: str | None,
    title: str,
    message: str,
    author: str,
) -> Commit:
    """A new commit with these files as the head of `ref`. The blobs must be on disk already."""
    tree_id = keep_tree(con, store, tree)
    date = now_ms()
    if parent is not None:  # a child is never older than its parent, whatever the clock does
        row = con.execute("SELECT date FROM commits WHERE repo=? AND oid=?", (repo_id, parent)).fetchone()
        date = max(date, row["date"])
    commit = keep_commit(con, Commit(repo_id, "", parent, tree_id, title, message, author, date))
    erased = {row["sha256"] for row in con.execute("SELECT sha256 FROM erased WHERE repo=?", (repo_id,))}
    con.executemany(
        "INSERT OR IGNORE INTO repo_blobs VALUES (?, ?, ?)",
        [(repo_id, entry.blob, entry.size) for entry in tree.values() if not (entry.lfs and entry.blob in erased)],
    )
    point(con, repo_id, ref, commit.oid)
    return commit


def keep_tree(con: sqlite3.Connection, store: Store, tree: Tree) -> str:
    """The id of this tree, which is in the database afterwards."""
    text = trees.dump(tree)
    tree_id = trees.tree_id(text)
    if con.execute("SELECT 1 FROM trees WHERE id=?", (tree_id,)).fetchone() is None:
        facts = json.dumps(facts_of.derive(store.blobs, tree))
        con.execute("INSERT INTO trees VALUES (?, ?, ?)", (tree_id, text, facts))
    return tree_id


def keep_commit(con: sqlite3.Connection, commit: Commit) -> Commit:
    """This commit, which is in the database afterwards, with the oid that it has by what it says."""
    commit = replace(commit, oid=commit_oid(commit))
    con.execute("INSERT OR IGNORE INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)", astuple(commit))
    return commit


def commit_oid(commit: Commit) -> str:
    """40 hex digits that stand for everything in the commit."""
    lines = [f"tree {commit.tree}", f"parent {commit.parent}", f"author {commit.author} {commit.date}"]
    text = "\n".join([*lines, "", commit.title, "", commit.message])
    return hashlib.sha1(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()


def point(con: sqlite3.Connection, repo_id: int, ref: str, oid: str) -> None:
    """Let `ref` name this commit; for main, bring what lists show and filter by up to date."""
    con.execute(
        "INSERT INTO refs (repo, name, oid) VALUES (?, ?, ?) ON CONFLICT (repo, name) DO UPDATE SET oid=excluded.oid",
        (repo_id, ref, oid),
    )
    if ref != MAIN:
        return
    row = con.execute(
        "SELECT commits.tree, date, facts FROM commits JOIN trees ON trees.id=commits.tree WHERE repo=? AND oid=?",
        (repo_id, oid),
    ).fetchone()
    facts = json.loads(row["facts"])
    parameters = (facts["safetensors"] or {}).get("total")
    con.execute(
        "UPDATE repos SET head=?, tree=?, modified=?, pipeline=?, parameters=? WHERE id=?",
        (oid, row["tree"], row["date"], facts["pipeline"], parameters, repo_id),
    )
    repo = Repo(**con.execute("SELECT * FROM repos WHERE id=?", (repo_id,)).fetchone())
    _index_tags(con, repo_id, spaces.tags_of(repo, lineage.follow(facts, lineage.renamed(con))))


def _index_tags(con: sqlite3.Connection, repo_id: int, tags: list[str]) -> None:
    """What lists filter by. A tag that stays keeps its date, so that a lagging index lags on new tags only."""
    before = {row["tag"] for row in con.execute("SELECT tag FROM repo_tags WHERE repo=?", (repo_id,))}
    gone = [(tag, repo_id) for tag in before.difference(tags)]
    con.executemany("DELETE FROM repo_tags WHERE tag=? AND repo=?", gone)
    fresh = [(tag, repo_id, now_ms()) for tag in dict.fromkeys(tags) if tag not in before]
    con.executemany("INSERT INTO repo_tags (tag, repo, since) VALUES (?, ?, ?)", fresh)


def ancestors(con: sqlite3.Connection, repo: Repo, oid: str, limit: int = -1) -> Iterator[Commit]:
    """The commit and those before it, newest first."""
    rows = con.execute(
        "WITH RECURSIVE line (depth, oid) AS (SELECT 0, ? UNION ALL SELECT depth + 1, parent FROM line"
        " JOIN commits ON commits.repo=? AND commits.oid=line.oid WHERE parent IS NOT NULL)"
        " SELECT commits.* FROM line JOIN commits ON commits.repo=? AND commits.oid=line.oid ORDER BY depth LIMIT ?",
        (oid, repo.id, repo.id, limit),
    )
    return (Commit(**row) for row in rows)


def last_commits(con: sqlite3.Connection, store: Store, repo: Repo, commit: Commit) -> dict[str, Commit]:
    """For every file and folder of a commit, the commit that last changed it."""
    here = store.tree(con, commit.tree)
    found: dict[str, Commit] = {}
    open_paths = set(here)
    line = ancestors(con, repo, commit.oid)
    current = next(line, None)
    while current is not None and open_paths:
        before = next(line, None)
        old = store.tree(con, before.tree) if before else {}
        changed = {path for path in open_paths if path not in old or old[path].oid != here[path].oid}
        for path in changed:
            found[path] = current
        open_paths -= changed
        current = before
    for folder in trees.folders(here):
        inside = [found[path] for path in here if path.startswith(folder + "/")]
        found[folder] = max(inside, key=lambda c: c.date)
    return found
