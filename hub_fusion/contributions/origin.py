"""Which generation a contribution started from, and how that is known.

In order of trust: the card's ``hub_fusion.base_revision`` (a sha or a tag), PEFT's ``revision``, a few slices of its
tensors (nearest.py), else the newest generation that existed when the contribution's repository was made.

Where the slices certainly contradict a card, they are believed: most wrong cards are mistakes, and the change against
the generation that the weights started from is what was learned, whatever the card says. A card that names an older
generation to have the base's own progress counted as its author's gains nothing by it.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from hub_fusion.errors import HubError, HubUnreachable, RepoMissing
from hub_fusion.recipe import Round
from hub_fusion.records import Contribution, KnownBy, Refusal, generation_number, restored_generation, weights_identity

if TYPE_CHECKING:
    from hub_fusion.contributions.nearest import Nearest
    from hub_fusion.hub import Hub


@dataclass(frozen=True)
class Generations:
    """The base's generations on the Hub: number, commit and date, oldest first, and every commit of main."""

    commits: tuple[tuple[int, str, datetime], ...]
    history: dict[str, int]  # commit of main → the generation whose weights it has
    timeline: tuple[tuple[datetime, int], ...] = ()  # from when on main had which one's weights, if not in their order

    @classmethod
    def of(cls, hub: Hub, base: str) -> Generations:
        """Read tags and history. A commit between two generations (a card edit) has the earlier one's weights."""
        tags = {sha: n for tag, sha in hub.tags(base).items() if (n := generation_number(tag)) is not None}
        commits, history, timeline, numbers = [], {}, list[tuple[datetime, int]](), set(tags.values())
        newest: int | None = None
        for commit in reversed(hub.commits(base)):
            if commit.sha in tags:
                newest = tags[commit.sha]
                commits.append((newest, commit.sha, commit.created_at))
                timeline.append((commit.created_at, newest))
            elif (back := restored_generation(commit.title)) is not None and back in numbers:
                newest = back  # a generation was withdrawn
                timeline.append((commit.created_at, newest))
            if newest is not None:
                history[commit.sha] = newest
        return cls(tuple(sorted(commits)), history, tuple(timeline))

    def revision(self, generation: int) -> str:
        """The commit of a generation."""
        return next(sha for number, sha, _ in self.commits if number == generation)

    def find(self, claim: str) -> int | None:
        """The generation behind a tag or a sha (of seven digits or more), or None."""
        if re.fullmatch("[0-9a-f]{7,40}", claim.lower()):
            found = {generation for sha, generation in self.history.items() if sha.startswith(claim.lower())}
            return found.pop() if len(found) == 1 else None
        return next((number for number, _, _ in self.commits if claim == f"gen-{number}"), None)

    def before(self, c: Contribution, fused_into: Mapping[str, int]) -> list[int]:
        """Those that a contribution can have started from: made before its newest commit, and before any that it is in.

        `fused_into` tells of ``repo@sha`` and of sha256s of weights the first generation that holds them.
        """
        first = min((fused_into[k] for k in (c.key, c.weights_sha256) if k and k in fused_into), default=None)
        until = c.last_modified
        there = [number for number, _, made in self.commits if until is None or made <= until]
        return [number for number in there if first is None or number < first]

    def at(self, date: datetime) -> int:
        """The generation whose weights main had at this time (the first one for earlier times)."""
        timeline = self.timeline or tuple((made, number) for number, _, made in self.commits)
        place = bisect.bisect_right([made for made, _ in timeline], date)
        return timeline[max(place - 1, 0)][1]


def resolve_origin(
    contribution: Contribution, generations: Generations, hub: Hub, *, frozen: bool = False,
    nearest: Nearest | None = None, fused_into: Mapping[str, int] = MappingProxyType({}),
) -> Contribution | Refusal:  # fmt: skip
    """The contribution with generation, origin_revision and known_by filled in.

    Where the base's weights are `frozen`, PEFT's ``revision`` names them and not the adapter that was gone on with.
    With `nearest` the weights of finetunes are asked; `fused_into` as in `Generations.before`.

    A refusal where its card claims a revision that no generation has, and its weights do not tell: its change would be
    taken against other weights.
    """
    claims: list[tuple[str | None, KnownBy]] = [(contribution.base_revision, "card")]
    if contribution.relation == "adapter" and not frozen:
        claims.append((_peft_revision(contribution, hub), "peft"))
    found: tuple[int, KnownBy] | None = None
    for claim, known_by in claims:
        number = generations.find(claim) if claim and not found else None
        found = found if number is None else (number, known_by)
    date = contribution.created_at
    guess = found[0] if found else generations.at(date) if date else generations.commits[-1][0]
    possible = generations.before(contribution, fused_into)
    measured = nearest.generation(contribution, guess, possible) if nearest else None
    if measured is not None and not (found and found[0] == measured):
        return _with(contribution, measured, "tensors", generations)
    if found:
        return _with(contribution, *found, generations)
    if contribution.base_revision:
        return contribution.refuse(
            "screen", "unknown_revision",
            f"Its card says that it started from {contribution.base_revision}, which is no generation of the base.",
            "Set hub_fusion.base_revision to the commit or tag it was trained from.")  # fmt: skip
    return _with(contribution, guess, "date" if date else "assumed", generations)


def too_old(c: Contribution, newest: int, rule: Round) -> Refusal | None:
    """Why a contribution started too long ago, if it did. What it learned is of weights that the base has left."""
    age = newest - (c.generation or 0)
    if rule.max_age is None or age <= rule.max_age:
        return None
    return c.refuse(
        "screen", "too_old",
        f"It started from gen-{c.generation or 0}, {age} generations ago; at most {rule.max_age} are allowed.",
        f"Train again from gen-{newest}.")  # fmt: skip


def identify_weights(contribution: Contribution, hub: Hub) -> Contribution:
    """The contribution with `weights_sha256` filled in: a new commit with a new card does not make the weights new."""
    try:
        files = hub.files(contribution.repo, contribution.sha)
    except RepoMissing:
        return contribution  # the screen refuses it with a reason
    digests = [f.sha256 or f.oid for path, f in files.items() if "/" not in path and path.endswith(".safetensors")]
    return contribution.model_copy(update={"weights_sha256": weights_identity(digests) if digests else None})


def _with(contribution: Contribution, generation: int, known_by: KnownBy, generations: Generations) -> Contribution:
    update = {"generation": generation, "origin_revision": generations.revision(generation), "known_by": known_by}
    return contribution.model_copy(update=update)


def _peft_revision(contribution: Contribution, hub: Hub) -> str | None:
    try:
        text = hub.read_text(contribution.repo, "adapter_config.json", revision=contribution.sha, max_bytes=1_000_000)
        revision = json.loads(text).get("revision")
    except HubUnreachable:
        raise  # without an answer the date would decide, and the change be taken against another generation
    except (HubError, ValueError, AttributeError, RecursionError):
        return None  # the screen reads the same file and refuses it with a reason
    return revision if isinstance(revision, str) else None
