"""The lineage: ``fusion/index.json`` as a value, and how it grows by one attempt. No HTTP, no clock.

`append` is called once per attempt, oldest first: the rejected attempts that wait in ``fusion/status.json``, then the
new generation. The index stays below 200 kB: numbers are rounded to 0.01 points, and where the lineage is long the
oldest entries lose details that their own records (``fusion/gen-N.json``) keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol, TypeVar

from pydantic import ValidationError

from hub_fusion.errors import RecordError
from hub_fusion.records import Attempt, Estimate, Index, IndexEntry, Score, attempt_id

INDEX_PATH = "fusion/index.json"
INDEX_BYTES = 190_000
KEEP_WHOLE = 20  # the newest entries are never shortened
CONTRIBUTORS = 1000  # those who gave most are counted by name
DIGITS = 4  # of an accuracy: 0.01 points, a tenth of the width of a narrow interval

E = TypeVar("E", bound=Estimate)


class ReadsText(Protocol):
    """What `read_lineage` needs of a Hub."""

    def read_text(self, repo: str, path: str, *, revision: str) -> str:
        """The text of a file. Raises RepoMissing if it is not there."""


def read_lineage(hub: ReadsText, repo: str, revision: str | None = None) -> Index:
    """The lineage of `repo` as of `revision` (default: main).

    Raises RepoMissing where there is none yet, RecordError where it cannot be read.
    """
    return Index.from_json(hub.read_text(repo, INDEX_PATH, revision=revision or "main"), source=f"{repo}/{INDEX_PATH}")


def root_index(base: str, root: str | None, revision: str, created_at: datetime) -> Index:
    """A lineage that holds generation 0 alone: the weights at `revision`, from before the first fuse."""
    entry = IndexEntry(
        id=attempt_id(revision, "", "", ()),
        status="root",
        generation=0,
        tag="gen-0",
        revision=revision,
        created_at=created_at,
        method="",
    )
    return Index(base=base, root=root, updated_at=created_at, entries=(entry,))


def append(index: Index | None, record: Attempt, *, revisions: Mapping[int, str]) -> Index:
    """The lineage with one more attempt at its end; None starts one with gen-0, the attempt's parent.

    `revisions` maps generations to commits, as their tags say now: where a tag is known, it wins. The scores of gen-0
    come from the first attempt that was made from it. Raises RecordError for a number or id that is there already, a
    gap between numbers, an unknown parent, or a status that does not fit the number.
    """
    if index is None:
        index = _start(record, revisions)
    _check(index, record)
    entries = [_with_revision(entry, revisions) for entry in index.entries]
    if record.parent_generation == 0 and record.parent_scores:
        measured = {"scores": _round_scores(record.parent_scores.means), "suite": record.parent_scores.suite}
        entries = [e.model_copy(update=measured) if e.generation == 0 and not e.scores else e for e in entries]
    revision = None if record.generation is None else revisions.get(record.generation)
    entry = record.to_entry(revision)
    rounded = {"scores": _round_scores(entry.scores), "differences": tuple(map(_round, entry.differences))}
    entries.append(entry.model_copy(update=rounded))
    changed = {
        "base": record.base,
        "root": record.root or index.root,
        "updated_at": max(index.updated_at, record.created_at),
        "contributors": _count(index.contributors, record),
        "entries": tuple(entries),
    }
    return _fit(index.model_copy(update=changed))


def _start(record: Attempt, revisions: Mapping[int, str]) -> Index:
    if record.status == "root":
        return Index(base=record.base, root=record.root, updated_at=record.created_at)
    first = revisions.get(0) or (record.parent_revision if record.parent_generation == 0 else None)
    if first is None:
        raise RecordError(
            f"{record.base} has no lineage and the attempt's parent is generation {record.parent_generation}: "
            f"a lineage starts at gen-0; tag the first weights gen-0, or restore {INDEX_PATH}"
        )
    return root_index(record.base, record.root, first, record.created_at)


def _check(index: Index, record: Attempt) -> None:
    """Raise RecordError unless `record` continues `index`."""
    numbers = [entry.generation for entry in index.generations]
    expected = len(numbers) and (numbers[-1] or 0) + 1
    where = f"the lineage of {index.base}"
    if any(entry.id == record.id for entry in index.entries):
        raise RecordError(f"attempt {record.id} is in {where} already; the same attempt is not made twice")
    if (record.generation is None) != (record.status == "rejected"):
        raise RecordError(f"attempt {record.id} is {record.status} but its generation is {record.generation}")
    if record.generation is not None and record.generation in numbers:
        raise RecordError(f"gen-{record.generation} is in {where} already; numbers are never used again")
    if record.generation is not None and record.generation != expected:
        raise RecordError(f"gen-{record.generation} leaves a gap in {where}: the next generation is gen-{expected}")
    if record.parent_generation is not None and record.parent_generation not in numbers:
        raise RecordError(f"attempt {record.id} starts from gen-{record.parent_generation}, which is not in {where}")


def _with_revision(entry: IndexEntry, revisions: Mapping[int, str]) -> IndexEntry:
    if entry.generation is None or entry.revision == revisions.get(entry.generation, entry.revision):
        return entry
    try:
        return IndexEntry.model_validate(entry.model_dump() | {"revision": revisions[entry.generation]})
    except ValidationError:
        raise RecordError(
            f"tag {entry.tag} is at {revisions[entry.generation]!r}, which is not a commit of 40 hex digits"
        ) from None


def _count(before: Mapping[str, int], record: Attempt) -> dict[str, int]:
    """Contributions of every account, those of `record` included if it was published."""
    counts = Counter(before)
    if record.generation is not None:
        counts.update(credit.author for credit in record.contributions)
    return dict(sorted(counts.most_common(CONTRIBUTORS)))


def _round(estimate: E) -> E:
    return estimate.model_copy(
        update={name: round(getattr(estimate, name), DIGITS) for name in ("mean", "low", "high")}
    )


def _round_scores(scores: tuple[Score, ...]) -> tuple[Score, ...]:
    return tuple(_round(score).model_copy(update={"per_seed": ()}) for score in scores)


def _fit(index: Index) -> Index:
    """The index, shortened from the oldest entry on until it fits: details, then rejected attempts, then authors.

    An attempt's id is made from its parent's commit, so a rejected attempt of old cannot come up again.
    """
    kept: list[IndexEntry | None] = list(index.entries)
    size = len(index.to_json().encode())
    if size <= INDEX_BYTES:
        return index
    for shorten in STEPS:
        for place, entry in enumerate(kept[:-KEEP_WHOLE]):
            if size <= INDEX_BYTES:
                break
            if entry is not None and (short := shorten(entry)) != entry:
                kept[place] = short
                size -= len(entry.to_json().encode()) - (len(short.to_json().encode()) if short else -2)
    return index.model_copy(update={"entries": tuple(entry for entry in kept if entry is not None)})


def _without_details(entry: IndexEntry) -> IndexEntry | None:
    return entry.model_copy(update={"differences": (), "reason": "", "parent_revision": None})


def _without_rejected(entry: IndexEntry) -> IndexEntry | None:
    return None if entry.status == "rejected" else entry


def _without_authors(entry: IndexEntry) -> IndexEntry | None:
    return entry.model_copy(update={"authors": ()})


STEPS: tuple[Callable[[IndexEntry], IndexEntry | None], ...] = (_without_details, _without_rejected, _without_authors)
