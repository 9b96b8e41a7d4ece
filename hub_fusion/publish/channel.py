"""The channel ``stable``: a tag that follows the generations at a distance, for those who want no surprises.

A generation is published as a candidate. It becomes stable when it has been out for the recipe's ``publish.hold_back``
and was not withdrawn, or when somebody promotes it; with neither there is no such tag. It never goes back, but for a
withdrawal. On the Hub a tag cannot be moved, only deleted and set anew; between the two requests it is not there, and a
program that is killed there leaves it missing until the next look. What was promoted is therefore written into the
status first.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from hub_fusion.errors import RecordError
from hub_fusion.events import Event, Say
from hub_fusion.publish.status import tell_stable
from hub_fusion.records import Index, now

if TYPE_CHECKING:
    from hub_fusion.hub import Hub
    from hub_fusion.publish.state import BaseState

STABLE = "stable"


def due_stable(index: Index, current: int | None, hold_back: timedelta | None, at: datetime) -> int | None:
    """The generation that should be stable at this moment, where `current` is, or was promoted to be.

    The newest that is not withdrawn and either old enough or not newer than `current`; None: there should be no tag.
    """
    ripe = {0} if hold_back is not None or current is not None else set[int]()
    for entry in index.generations:
        number = entry.generation or 0
        old = hold_back is not None and entry.created_at + hold_back <= at
        if entry.status != "yanked" and (old or (current is not None and number <= current)):
            ripe.add(number)
    return max(ripe, default=None)


def is_off(state: BaseState, hold_back: timedelta | None, promoted: int | None) -> bool:
    """Whether `keep_stable` has something to do or to say: the tag is not where it should be, or somebody else's."""
    return (bool(state.stable) and _tagged(state) is None) or _wanted(state, hold_back, promoted) is not None


def keep_stable(hub: Hub, state: BaseState, hold_back: timedelta | None, promoted: int | None, say: Say) -> None:
    """Move the tag if it is not where it should be; no request otherwise. A tag ``stable`` of others is left alone."""
    if state.stable and _tagged(state) is None:
        return say(f"the tag {STABLE} of {state.repo} is on {state.stable[:8]}, which is no generation: left alone")
    if (wanted := _wanted(state, hold_back, promoted)) is not None:
        set_stable(hub, state, wanted, say)


def _wanted(state: BaseState, hold_back: timedelta | None, promoted: int | None) -> int | None:
    """The generation that the tag belongs on, None if it is there."""
    tagged = _tagged(state)
    known = [number for number in (tagged, promoted) if number is not None]
    wanted = due_stable(state.index, max(known, default=None), hold_back, now())
    return None if wanted == tagged else wanted


def set_stable(hub: Hub, state: BaseState, generation: int, say: Say = lambda _: None) -> None:
    """Put the tag on a generation. Raises HubConflict if somebody puts it elsewhere meanwhile."""
    revision = state.revisions[generation]
    if state.stable:
        hub.delete_tag(state.repo, STABLE)
    hub.tag(state.repo, STABLE, revision, f"Generation {generation}")
    say(Event("stable", f"gen-{generation} is {STABLE} now", generation=generation, revision=revision))


def promote(hub: Hub, state: BaseState, generation: int, say: Say = lambda _: None) -> None:
    """Make a generation stable before its time. Raises RecordError for one that cannot be."""
    good = {e.generation or 0 for e in state.index.generations if e.status != "yanked"}
    if generation not in good:
        known = ", ".join(f"gen-{n}" for n in sorted(good))
        raise RecordError(f"{state.repo} has no gen-{generation} that can be {STABLE}; there are {known}")
    at = _tagged(state)
    if state.stable and at is None:
        raise RecordError(f"the tag {STABLE} of {state.repo} is on {state.stable[:8]}, no generation: delete it first")
    if at is not None and at > generation:
        raise RecordError(
            f"gen-{at} of {state.repo} is {STABLE} already, which is newer: hub-fusion rollback withdraws a generation"
        )
    tell_stable(hub, state.repo, generation)
    if at != generation:
        set_stable(hub, state, generation, say)


def _tagged(state: BaseState) -> int | None:
    """The generation that the tag is on; None without the tag, or where it is on no generation."""
    return next((number for number, sha in state.revisions.items() if sha == state.stable), None)
