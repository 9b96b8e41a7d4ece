"""Giving disk space back: `hub-fusion hub gc`, safe beside a running server.

Removed are contents that no repository and no recent upload refers to, uploads that were never committed, left-overs
of killed processes, and packs of chunks (xorbs) of an earlier epoch; with `history`, also commits that no branch, tag
or pull request leads to, such as a squash leaves behind. What is younger than the grace period stays. Uploads and
commits hold the blobs' guard; this takes it alone, in short turns.

Xorbs are kept because clients remember what they have sent to a URL and later only refer to it. So they are never
removed under a URL that is still handed out: the epoch in the URL is raised first, and the next sweep, a grace period
later, removes what belongs to the epochs before.
"""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hub_fusion.local_hub.blobs import SHA256, remove_left_overs
from hub_fusion.local_hub.db import now_ms
from hub_fusion.local_hub.store import Store

GRACE_S = 24 * 3600.0
BATCH = 500

REACHABLE = """
WITH RECURSIVE reached (repo, oid) AS (
    SELECT repo, oid FROM refs
    UNION SELECT commits.repo, commits.parent FROM commits JOIN reached USING (repo, oid) WHERE parent IS NOT NULL)
"""


@dataclass
class Freed:
    """What a sweep removed, or would remove."""

    blobs: int = 0
    uploads: int = 0
    left_overs: int = 0
    xorbs: int = 0
    commits: int = 0
    bytes: int = 0


def collect(root: Path, *, grace_s: float = GRACE_S, history: bool = False, dry_run: bool = False) -> Freed:
    """Remove what nothing refers to; returns what that was."""
    store, freed = Store(root), Freed()
    try:
        cutoff = time.time() - grace_s
        with store.db.write() as con:
            _forget(con, freed, int(cutoff * 1000), history=history)
            doomed = _unreferenced(con, store, cutoff)
            if dry_run:
                for sha256 in doomed:
                    freed.blobs, freed.bytes = freed.blobs + 1, freed.bytes + (store.blobs.size(sha256) or 0)
                raise _DryRun
        while batch := list(islice(doomed, BATCH)):
            _remove_blobs(store, batch, cutoff, freed)
        count, size = remove_left_overs(store.blobs.scratch)
        freed.left_overs, freed.bytes = freed.left_overs + count, freed.bytes + size
        _remove_parts(store, cutoff, freed)
        _remove_xorbs(store, cutoff, freed)
    except _DryRun:
        pass
    finally:
        store.close()
    return freed


class _DryRun(Exception):
    """Leaves the transaction so that nothing of it happens."""


def _forget(con: sqlite3.Connection, freed: Freed, cutoff_ms: int, *, history: bool) -> None:
    """Index rows that hold contents for nobody."""
    freed.uploads = con.execute("DELETE FROM uploads WHERE at < ?", (cutoff_ms,)).rowcount
    if history:
        con.execute(
            f"{REACHABLE} DELETE FROM commits WHERE date < ? AND (repo, oid) NOT IN (SELECT repo, oid FROM reached)",  # noqa: S608 - a constant
            (cutoff_ms,),
        )
        freed.commits = con.execute("SELECT changes()").fetchone()[0]
    con.execute("DELETE FROM trees WHERE id NOT IN (SELECT tree FROM commits)")
    if history:
        con.execute(
            "DELETE FROM repo_blobs WHERE (repo, sha256) NOT IN (SELECT commits.repo, json_extract(entry.value, '$[1]')"
            " FROM commits JOIN trees ON trees.id=commits.tree, json_each(trees.entries) AS entry)"
        )


def _unreferenced(con: sqlite3.Connection, store: Store, cutoff: float) -> Iterator[str]:
    """Blobs older than the cutoff that no index row names."""
    named = {row[0] for row in con.execute("SELECT sha256 FROM repo_blobs UNION SELECT sha256 FROM uploads")}
    names = (name for name in store.blobs.names() if SHA256.fullmatch(name) and name not in named)
    return iter([name for name in names if _age_ok(store.blobs.path(name), cutoff)])


def _remove_blobs(store: Store, batch: list[str], cutoff: float, freed: Freed) -> None:
    """Look again while nobody can begin to use them, then remove."""
    with store.blobs.guard(alone=True), store.db.write() as con:
        for sha256 in batch:
            used = con.execute(
                "SELECT 1 FROM repo_blobs WHERE sha256=? UNION ALL SELECT 1 FROM uploads WHERE sha256=?",
                (sha256, sha256),
            ).fetchone()
            path = store.blobs.path(sha256)
            if used is None and _age_ok(path, cutoff):
                freed.blobs, freed.bytes = freed.blobs + 1, freed.bytes + path.stat().st_size
                path.unlink()


def _remove_parts(store: Store, cutoff: float, freed: Freed) -> None:
    """Multipart uploads that nobody has added to for long."""
    for path in store.parts.iterdir():
        if _age_ok(path, cutoff):
            freed.left_overs, freed.bytes = freed.left_overs + 1, freed.bytes + path.stat().st_blocks * 512
            path.unlink(missing_ok=True)


def _remove_xorbs(store: Store, cutoff: float, freed: Freed) -> None:
    """Remove the packs of epochs that ended before the cutoff; end the present one if it has packs that old."""
    with store.db.read() as con:
        meta = dict(con.execute("SELECT key, value FROM meta").fetchall())
    epoch, began = int(meta.get("xet_epoch", 0)), int(meta.get("xet_epoch_at", 0))
    for folder in store.xorbs.iterdir():
        is_epoch = folder.name.startswith("e") and folder.name[1:].isdigit()
        current = is_epoch and int(folder.name[1:]) >= epoch
        if not current and began <= cutoff * 1000:
            packs = [path for path in folder.rglob("*") if path.is_file()]
            freed.xorbs, freed.bytes = freed.xorbs + len(packs), freed.bytes + sum(p.stat().st_size for p in packs)
            shutil.rmtree(folder, ignore_errors=True)
        elif current and any(path.is_file() and _age_ok(path, cutoff) for path in folder.rglob("*")):
            with store.db.write() as con:
                for key, value in (("xet_epoch", epoch + 1), ("xet_epoch_at", now_ms())):
                    con.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))


def _age_ok(path: Path, cutoff: float) -> bool:
    try:
        return path.stat().st_mtime <= cutoff
    except FileNotFoundError:
        return False
