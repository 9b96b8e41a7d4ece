"""Where the base stands on the Hub: head, lineage, generations; and mending what a killed publisher left.

The Hub is the only truth. A publisher makes one commit and then one tag; killed between the two it leaves a generation
without its tag, which `open_base` puts on the commit that added the generation's record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from hub_fusion.errors import HubConflict, HubError, RecordError, RepoMissing
from hub_fusion.publish.lineage import INDEX_PATH, read_lineage, root_index
from hub_fusion.records import Credit, Generation, Index, IndexEntry, generation_number, now, weights_identity

if TYPE_CHECKING:
    from hub_fusion.hub import Hub


PARTS = 1000  # generations of whose records is kept who is in them, some 30 kB each


@dataclass(frozen=True)
class BaseState:
    """The base as it was when a round began."""

    repo: str
    head: str  # commit of main
    index: Index
    revisions: dict[int, str]  # generation → commit
    index_is_new: bool  # no lineage yet: the first generation starts it
    stable: str | None = None  # commit of the tag of that name
    untagged: Mapping[int, str] = field(default_factory=dict)  # generations that lacked their tags
    branches: Mapping[str, str] = field(default_factory=dict)  # branch → commit, main among them

    @property
    def newest(self) -> IndexEntry:
        """The newest generation that was not withdrawn: what the round is fused onto."""
        return [entry for entry in self.index.generations if entry.status != "yanked"][-1]

    @property
    def generation(self) -> int:
        """Its number."""
        return self.newest.generation or 0

    @property
    def next_generation(self) -> int:
        """The number of the next one; those of withdrawn ones are not used again."""
        return (self.index.generations[-1].generation or 0) + 1

    @property
    def revision(self) -> str:
        """Its commit."""
        return self.revisions[self.generation]

    @property
    def lineage(self) -> Index:
        """The index with the commits of all generations; the file cannot hold that of its own."""
        at = {f"gen-{number}": {"revision": commit} for number, commit in self.revisions.items()}
        entries = tuple(entry.model_copy(update=at.get(entry.tag or "", {})) for entry in self.index.entries)
        return self.index.model_copy(update={"entries": entries})


def record_path(generation: int) -> str:
    """Where a generation's record is in the repository."""
    return f"fusion/gen-{generation}.json"


def open_base(hub: Hub, repo: str, root: str | None = None, *, mend: bool = True) -> BaseState:
    """Read the base and, if `mend`, tag what lacks its tag: the root, a generation whose publisher was killed.

    Raises RepoMissing if there is no such repository, RecordError or HubConflict for a lineage that cannot be read.
    """
    try:
        state = _read_base(hub, repo, root)
        torn = any(number >= state.next_generation for number in state.revisions)
    except HubConflict:
        torn = True
    if torn:  # somebody published between what the Hub read of heads and of tags; or tags are wrong, then they stay so
        state = _read_base(hub, repo, root)
    if mend:
        mend_tags(hub, state)
    return state


def _read_base(hub: Hub, repo: str, root: str | None) -> BaseState:
    """The base, by one answer about its refs."""
    refs = hub.refs(repo)
    tags, branches = refs.tags, refs.branches
    revisions = {number: sha for tag, sha in tags.items() if (number := generation_number(tag)) is not None}
    stable, untagged = tags.get("stable"), dict[int, str]()
    if "main" not in branches:
        raise RepoMissing(f"{repo} has no branch main on {hub.endpoint}")
    head = branches["main"]
    try:
        index = read_lineage(hub, repo, head)
    except RepoMissing:
        if set(revisions) - {0}:
            names = ", ".join(f"gen-{n}" for n in sorted(revisions) if n)
            raise HubConflict(
                f"{repo} has tags of generations ({names}) but no {INDEX_PATH} on main: restore it, or delete the tags"
            ) from None
        if 0 not in revisions:
            _check_root(hub, repo, head)
            untagged, revisions[0] = {0: head}, head
        index = root_index(repo, root, revisions[0], now())
        return BaseState(repo, head, index, revisions, True, stable, untagged=untagged, branches=branches)
    else:
        untagged = {n: _commit_of(hub, repo, n) for e in index.generations if (n := e.generation or 0) not in revisions}
        revisions |= untagged
        if not index.generations or index.generations[-1].generation not in revisions:
            raise RecordError(f"{repo}/{INDEX_PATH} lists no generation: restore it from an earlier commit")
        return BaseState(repo, head, index, revisions, False, stable, untagged=untagged, branches=branches)


def mend_tags(hub: Hub, state: BaseState) -> None:
    """Tag what lacks its tag. Raises HubConflict where somebody takes one meanwhile."""
    for number, commit in state.untagged.items():
        about = f"Generation {number}" if number else "The root: weights from before the first fuse"
        hub.tag(state.repo, f"gen-{number}", commit, about)


def check_base(hub: Hub, state: BaseState) -> None:
    """Raise HubConflict if the next generation cannot follow from what is there.

    A tag is taken; or main's weights are not the newest generation's, and fusing would silently undo that change.
    """
    foreign = {number: commit for number, commit in state.revisions.items() if number >= state.next_generation}
    if foreign:
        names = ", ".join(f"gen-{number} on {commit[:8]}" for number, commit in sorted(foreign.items()))
        raise HubConflict(
            f"{state.repo} is at gen-{state.generation} but has tags of later generations ({names}): delete them"
        )
    if state.revision != state.head and _weights(hub, state, state.revision) != _weights(hub, state, state.head):
        raise HubConflict(
            f"main of {state.repo} does not have the weights of gen-{state.generation} ({state.revision[:8]}) but "
            f"others ({state.head[:8]}): restore them, or make the new weights a repository of their own"
        )


def _weights(hub: Hub, state: BaseState, commit: str) -> dict[str, str]:
    files = hub.files(state.repo, commit).items()
    return {path: file.oid for path, file in files if "/" not in path and ".safetensors" in path}


def read_record(hub: Hub, repo: str, generation: int, revision: str) -> Generation:
    """A generation's record. Raises RepoMissing, RecordError."""
    path = record_path(generation)
    return Generation.from_json(hub.read_text(repo, path, revision=revision), source=f"{repo}/{path}")


@dataclass(frozen=True)
class Fused:
    """What went into the generations of a base, by ``repo@sha`` of every contribution and the sha256 of its weights.

    `keys`: what is in any of them now, not what was in withdrawn ones; also the generations' own weights, since a
    generation published again is no contribution. `first`: the first generation that had it, withdrawn or not.
    """

    keys: frozenset[str]
    first: dict[str, int]


def read_fused(hub: Hub, state: BaseState) -> Fused:
    """What all records say together. Raises RepoMissing, RecordError."""
    keys, first = set[str](), dict[str, int]()
    for entry, part in _fused(hub, state):
        keys |= {part.weights, *part.subtracted}
        held = {k for credit in part.credits for k in (credit.key, credit.weights_sha256) if k}
        for key in held:
            first.setdefault(key, part.generation)
        if entry.status != "yanked":  # what went into it went out again with it
            keys |= held
    return Fused(frozenset(keys), first)


def fused_credits(hub: Hub, state: BaseState) -> list[tuple[int, Credit]]:
    """All that is in any generation, with the generation it came in by, oldest first; of withdrawn ones nothing."""
    kept = [part for entry, part in _fused(hub, state) if entry.status != "yanked"]
    return [(part.generation, credit) for part in kept for credit in part.credits]


@dataclass(frozen=True)
class _Part:
    """What a record says of who is in its generation; `subtracted` are ``repo@sha`` that are not to come in again."""

    generation: int
    credits: tuple[Credit, ...]
    weights: str
    subtracted: frozenset[str]


def _fused(hub: Hub, state: BaseState) -> Iterator[tuple[IndexEntry, _Part]]:
    """The generations that something went into, and what their records say of that."""
    for entry in state.index.generations:
        if entry.generation and entry.contributions:
            yield entry, _part(hub, state.repo, entry.generation, state.revisions[entry.generation])


@lru_cache(maxsize=PARTS)
def _part(hub: Hub, repo: str, generation: int, revision: str) -> _Part:
    """Of the record at a commit, which does not change: it is read and checked once in a process."""
    record = read_record(hub, repo, generation, revision)
    subtracted = frozenset(r.key for r in record.refusals if r.code == "subtracted")
    return _Part(generation, record.contributions, weights_identity(record.weights.values()), subtracted)


def _check_root(hub: Hub, repo: str, head: str) -> None:
    names = set(hub.files(repo, head))
    if not names & {"model.safetensors", "model.safetensors.index.json"}:
        raise HubError(f"{repo} has no model.safetensors on main: upload the root's weights and config.json first")


def _commit_of(hub: Hub, repo: str, generation: int) -> str:
    """The commit of main that added a generation's record."""
    path, added = record_path(generation), None
    for commit in hub.commits(repo):
        if path not in hub.files(repo, commit.sha):
            break
        added = commit.sha
    if added is None:
        raise RecordError(f"{repo}/{INDEX_PATH} lists gen-{generation}, but {path} is not on main: restore it")
    return added
