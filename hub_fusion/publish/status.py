"""``fusion/status.json`` on the branch ``fusion-status``: queue, heartbeat, and what the gate rejected.

The branch keeps main's commit, and everybody's caches and webhooks, quiet. Rejected attempts stay here until the next
generation takes them into main; an attempt that is here is not made again. The file stays below 1.5 MB: of thousands
of refusals some are told in full and many by name (records/refused.py), of a long queue its head; where many attempts
were rejected the oldest lose details, and in the end the oldest are left out: were just their contributions chosen
once more, they would be measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from hub_fusion.errors import HubConflict, HubUnreachable, RepoMissing
from hub_fusion.publish.state import BaseState
from hub_fusion.records import (
    Aside,
    Attempt,
    Contribution,
    Generation,
    Headroom,
    Later,
    Proposed,
    Refusal,
    Status,
    Waiting,
    now,
    tell_refusals,
)

if TYPE_CHECKING:
    from hub_fusion.hub import Hub

BRANCH = "fusion-status"
PATH = "fusion/status.json"
HEARTBEAT = timedelta(hours=1)
STATUS_BYTES = 1_500_000
QUEUE = 1000  # of those who wait are named
SQUASH = 50  # commits, after which the branch's history becomes one


def read_status(hub: Hub, state: BaseState, *, as_of_state: bool = False) -> Status:
    """The status, or an empty one before the first; attempts that the index lists already are left out.

    `as_of_state` reads what was there when the state was read, which asks for no refs; by default what is there now.
    """
    at = state.branches if as_of_state else hub.branches(state.repo)
    status = _read(hub, state.repo, at.get(BRANCH))
    if status is None and as_of_state and BRANCH in at:  # squashed meanwhile, so that commit is gone
        return read_status(hub, state)
    status = status or Status(base=state.repo, heartbeat=now())
    known = {entry.id for entry in state.index.entries}
    left = {name: tuple(a for a in getattr(status, name) if a.id not in known) for name in ("rejected", "proposed")}
    return status.model_copy(update=left)


def waiting(queue: Sequence[Contribution]) -> tuple[Waiting, ...]:
    """What the status says of those who wait."""
    return tuple(Waiting(repo=c.repo, sha=c.sha, since=c.last_modified) for c in queue)


def tell_queue(
    hub: Hub, repo: str, generation: int, queue: Sequence[Waiting], refusals: Sequence[Refusal],
    headroom: Headroom | None = None, aside: Aside | None = None, later: Sequence[Later] | None = None,
) -> None:  # fmt: skip
    """Who waits and who was refused, so that contributors need not wait for a generation to know.

    `aside`: what the screen need not look at again; `later`: fused contributions that changed since. None leaves what
    is known of that.
    """
    told = tell_refusals(refusals)
    update = {"generation": generation, "queue": tuple(queue[:QUEUE]), "queued": len(queue), "last_error": None}
    update |= {"refusals": told.refusals, "refused": told.refused, "refused_names": told.names}
    update |= {"headroom": headroom} if headroom else {}
    update |= {"aside": aside} if aside else {}
    update |= {} if later is None else {"later": tuple(later)}
    _write(hub, repo, lambda status: status.model_copy(update=update))


def tell_error(hub: Hub, repo: str, error: str) -> None:
    """Why the watcher cannot make a round; what is known of queue and attempts stays. The next good round clears it."""
    _write(hub, repo, lambda status: status.model_copy(update={"last_error": error[:2000]}))


def tell_proposed(hub: Hub, repo: str, *, add: Proposed | None = None, drop: str = "") -> None:
    """That an attempt is in a pull request, or may be made anew; the 100 newest are known."""

    def change(status: Status) -> Status:
        gone = {drop, add.id if add else drop}
        kept = tuple(p for p in status.proposed if p.id not in gone)
        return status.model_copy(update={"proposed": (*kept, *([add] if add else []))[-100:]})

    _write(hub, repo, change)


def tell_stable(hub: Hub, repo: str, generation: int) -> None:
    """That a generation is promoted, before its tag is set."""
    _write(hub, repo, lambda status: status.model_copy(update={"stable": generation}))


def tell_headroom(hub: Hub, repo: str, headroom: Headroom) -> None:
    """What was spent, where a round ends without a record of it."""
    _write(hub, repo, lambda status: status.model_copy(update={"headroom": headroom}))


def tell_rejected(hub: Hub, record: Attempt, headroom: Headroom | None = None) -> None:
    """An attempt that the gate rejected."""

    def change(status: Status) -> Status:
        others = tuple(a for a in status.rejected if a.id != record.id)
        update = {"rejected": (*others, record), "generation": record.parent_generation, "headroom": headroom}
        return _after(status, record).model_copy(update=update)

    _write(hub, record.base, change)


def tell_published(hub: Hub, record: Generation, rejected: Sequence[Attempt]) -> None:
    """A new generation; the attempts `rejected` before it are on main now."""
    told = {a.id for a in rejected}

    def change(status: Status) -> Status:
        later = tuple(a for a in status.rejected if a.id not in told)
        update = {"rejected": later, "generation": record.generation}
        return _after(status, record).model_copy(update=update)

    _write(hub, record.base, change)


def _after(status: Status, record: Attempt) -> Status:
    """What is said of queue and refusals after a fuse; who was known by name alone stays so until the next look."""
    told = {c.repo for c in record.contributions} | {r.repo for r in record.refusals}
    left = ((code, tuple(name for name in names if name not in told)) for code, names in status.refused_names.items())
    update = {"refusals": record.refusals, "refused": record.refused, "refused_names": {c: n for c, n in left if n}}
    return status.model_copy(update=update | {"queue": (), "queued": 0, "last_error": None})


def _read(hub: Hub, repo: str, at: str | None) -> Status | None:
    """The status at a commit of its branch; None where there is none."""
    if at is None:
        return None
    try:
        text = hub.read_text(repo, PATH, revision=at)
    except RepoMissing:
        return None
    return Status.from_json(text, source=f"{repo}@{BRANCH}/{PATH}")


def _write(hub: Hub, repo: str, change: Callable[[Status], Status]) -> None:
    """Commit ``change(status)`` if more than the heartbeat changed, or the heartbeat is an hour old.

    When somebody else was first the change is applied to what they wrote. Raises HubConflict after five such losses.
    Headroom alone is no change: a disk is never twice as full. Every 50th commit makes one of the branch's history.
    """
    from huggingface_hub import CommitOperationAdd

    parent = hub.branches(repo).get(BRANCH)
    if parent is None:
        hub.create_branch(repo, BRANCH)
    for _ in range(5):
        parent = parent or hub.branches(repo).get(BRANCH)
        if parent is None:
            raise HubUnreachable(f"{hub.endpoint} does not show the branch {BRANCH} of {repo} yet, which is there now")
        there = _read(hub, repo, parent)
        old = there or Status(base=repo, heartbeat=now())
        new = _fit(change(old).model_copy(update={"heartbeat": now(), "commits": old.commits + 1}))
        same = _without_clock(new) == _without_clock(old)
        if same and new.heartbeat - old.heartbeat < HEARTBEAT and there:
            return
        try:
            operation = CommitOperationAdd(PATH, (new.to_json(indent=1) + "\n").encode())
            hub.commit(repo, [operation], "Status", branch=BRANCH, parent=parent)
            if new.commits % SQUASH == 0:  # a watcher that is killed before leaves it to the next 50th
                hub.squash(repo, BRANCH, "Status")
            return
        except HubConflict:
            parent = None  # somebody else was first
    raise HubConflict(f"{repo}@{BRANCH} keeps moving; is another watcher running in a tight loop?")


def _without_clock(status: Status) -> dict[str, object]:
    """What a change is, and what of the headroom: money and seconds count, free bytes do not."""
    spent = (status.headroom.generation, status.headroom.spent, status.headroom.budget) if status.headroom else None
    return status.model_dump(exclude={"heartbeat", "commits", "headroom"}) | {"spent": spent}


def _fit(status: Status) -> Status:
    """The status with so much of its rejected attempts that it fits, the oldest shortened first; the newest stays."""
    kept: list[Attempt | None] = list(status.rejected)
    steps: tuple[Callable[[Attempt], Attempt | None], ...] = (_without_cards, _without_analysis, lambda _: None)
    size = len(status.to_json(indent=1).encode())
    for shorten in steps:
        for place, attempt in enumerate(kept):
            if size <= STATUS_BYTES:
                break
            short = shorten(attempt) if attempt else None
            if attempt and short != attempt and (short or place < len(kept) - 1):
                kept[place] = short
                size -= _size(attempt) - (_size(short) if short else 0)
    return status.model_copy(update={"rejected": tuple(a for a in kept if a)})


def _size(attempt: Attempt) -> int:
    return len(attempt.to_json(indent=1).encode())


def _without_cards(attempt: Attempt) -> Attempt:
    """Without refusals that ``hub-fusion check`` tells at any time; their number stays."""
    left = tuple(r for r in attempt.refusals if r.stage in ("screen", "fuse"))
    return attempt.model_copy(update={"refusals": left, "refused": attempt.refused_by_code})


def _without_analysis(attempt: Attempt) -> Attempt:
    left = tuple(r for r in attempt.refusals if r.stage == "fuse")
    return _without_cards(attempt).model_copy(update={"refusals": left, "analysis": None})
