"""Generations that await a human: with ``publish.mode: pull-request`` a round ends in a pull request, not in a commit.

Merged, it is a generation: main has its record then, and the next look puts the tag on the commit that brought it.
Closed, the same attempt is not made again. While one is open nothing else is fused, since all would be the same
generation. One that main has left behind (another generation came, or it conflicts) is closed, and its attempt may be
made anew. Killed after the pull request was opened, a watcher finds it again by title, author and the attempt's id.
"""

from __future__ import annotations

import re

from hub_fusion.events import Event, Say
from hub_fusion.hub import Hub
from hub_fusion.hub.pulls import Pull, Pulls
from hub_fusion.publish.state import BaseState
from hub_fusion.publish.status import read_status, tell_proposed
from hub_fusion.records import Generation, Proposed

TITLE = re.compile(r"Generation (\d{1,9}): ")
ATTEMPT = re.compile(r"^Attempt: ([0-9a-f]{64})$", re.MULTILINE)


def description(record: Generation, credits: str) -> str:
    """The text of a pull request."""
    verdict = record.verdict.reason if record.verdict else "not measured"
    return (
        f"{record.tag} awaits a decision. Merge it, and the watcher's next look makes it {record.tag}; close it, and "
        f"this attempt is not made again.\n\nThe gate: {verdict}\n\n{credits}\n\nAttempt: {record.id}"
    )


def open_proposal(hub: Hub, state: BaseState, say: Say, *, dry_run: bool = False) -> Proposed | None:
    """The pull request that awaits a human, if there is one; older and superfluous ones are closed."""
    pulls, status, waiting = Pulls(hub, state.repo), read_status(hub, state), None
    for pull in pulls.own():
        found = _read(pull)
        if found is None:
            continue
        if waiting is None and pull.clean and found.generation == state.next_generation:
            waiting = found
            if found not in status.proposed and not dry_run:
                tell_proposed(hub, state.repo, add=found)
        if waiting is found or dry_run:
            continue
        why = "There is another one for the same generation." if waiting else "Main has moved on; it is made anew."
        say(Event("closed", f"pull request {pull.number} is closed: {why}", number=pull.number))
        pulls.close(pull.number, why)
        if waiting is None or waiting.id != found.id:
            tell_proposed(hub, state.repo, drop=found.id)
    return waiting


def _read(pull: Pull) -> Proposed | None:
    title, attempt = TITLE.match(pull.title), ATTEMPT.search(pull.text)
    return Proposed(id=attempt[1], generation=int(title[1]), number=pull.number) if title and attempt else None
