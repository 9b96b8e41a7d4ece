"""What a round changes on the Hub, as a closed list of deeds; everything else that a round does there is reading.

`Direct` carries them out itself, with the token that its Hub has. Where the process that works on contributions has no
token that may write, `keeper` has the same list: it asks another process (keeper/asked.py), which carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hub_fusion.errors import OutputError
from hub_fusion.events import Say
from hub_fusion.hub import Hub
from hub_fusion.publish import answers, channel, keep, status
from hub_fusion.publish.answers import Answer
from hub_fusion.publish.commit import publish
from hub_fusion.publish.proposal import open_proposal
from hub_fusion.publish.state import BaseState, mend_tags
from hub_fusion.recipe import Recipe
from hub_fusion.records import (
    Aside,
    Attempt,
    Contribution,
    Credit,
    Generation,
    Headroom,
    Later,
    Proposed,
    Refusal,
    Waiting,
)
from hub_fusion.weights.remote import Spool


class Deeds(Protocol):
    """The list. Methods raise what the functions of `publish` of these names raise."""

    def account(self) -> str | None:
        """The name behind the token that may write; None without one."""

    def mend(self, state: BaseState) -> None:
        """Tag the generations that lack their tags."""

    def keep_stable(self, state: BaseState) -> None:
        """Put the tag ``stable`` where it should be."""

    def proposal(self, state: BaseState, *, dry_run: bool) -> Proposed | None:
        """The pull request that awaits a human; superfluous ones are closed unless this is a `dry_run`."""

    def tell_queue(
        self, generation: int, queue: Sequence[Waiting], refusals: Sequence[Refusal], headroom: Headroom,
        aside: Aside | None = None, later: Sequence[Later] | None = None,
    ) -> None:  # fmt: skip
        """Who waits for the next generation, who was refused and set aside, and what became of those fused before."""

    def tell_headroom(self, headroom: Headroom) -> None:
        """What was spent."""

    def tell_error(self, text: str) -> None:
        """Why no round can be made."""

    def tell_rejected(self, record: Attempt, headroom: Headroom | None) -> None:
        """What the gate rejected."""

    def open_archive(self, state: BaseState, fused: Sequence[Contribution]) -> tuple[str, tuple[Credit, ...]]:
        """The archive, made if it was not there: its name, and what it lacks and may have."""

    def keep_copy(self, key: str, names: Sequence[str]) -> None:
        """Keep one of these (``repo@sha``), by its files in the spool."""

    def publish(self, state: BaseState, record: Generation, beside: Mapping[str, str] | None = None) -> str:
        """Publish or propose what lies in ``candidate``, and tell of it; gives the commit, or ``refs/pr/N``."""

    def answer(self, number: int, answer: Answer) -> bool:
        """Answer in a discussion of the base; gives whether that was new."""


@dataclass
class Direct:
    """Deeds, done at once. `work` is the round's folder: ``candidate`` and ``spool`` lie in it."""

    recipe: Recipe
    hub: Hub
    work: Path
    say: Say = lambda _: None
    _account: str | None = field(default=None, init=False)
    _archive: keep.Opened | None = field(default=None, init=False)
    _closed: set[int] = field(default_factory=set, init=False)  # discussions; those that are open were opened again

    def account(self) -> str | None:
        self._account = self._account or self.hub.account()
        return self._account

    def mend(self, state: BaseState) -> None:
        mend_tags(self.hub, state)

    def keep_stable(self, state: BaseState) -> None:
        promoted = status.read_status(self.hub, state).stable
        channel.keep_stable(self.hub, state, self.recipe.publish.hold_back, promoted, self.say)

    def proposal(self, state: BaseState, *, dry_run: bool) -> Proposed | None:
        return open_proposal(self.hub, state, self.say, dry_run=dry_run)

    def tell_queue(
        self, generation: int, queue: Sequence[Waiting], refusals: Sequence[Refusal], headroom: Headroom,
        aside: Aside | None = None, later: Sequence[Later] | None = None,
    ) -> None:  # fmt: skip
        status.tell_queue(self.hub, self.recipe.base, generation, queue, refusals, headroom, aside, later)

    def tell_headroom(self, headroom: Headroom) -> None:
        status.tell_headroom(self.hub, self.recipe.base, headroom)

    def tell_error(self, text: str) -> None:
        status.tell_error(self.hub, self.recipe.base, text)

    def tell_rejected(self, record: Attempt, headroom: Headroom | None) -> None:
        status.tell_rejected(self.hub, record, headroom)

    def open_archive(self, state: BaseState, fused: Sequence[Contribution]) -> tuple[str, tuple[Credit, ...]]:
        self._archive = opened = keep.open_archive(self.hub, self.recipe, state, fused, self.say)
        return opened.archive.repo, tuple(opened.wanted.values())

    def keep_copy(self, key: str, names: Sequence[str]) -> None:
        if self._archive is None or key not in self._archive.wanted:
            raise OutputError(f"{key[:200]!r} is not among what the archive lacks and may have")
        spool = Spool(self.work / "spool", self.recipe.screen.spool_bytes)
        keep.keep_copy(self.hub, self._archive, self.recipe.base, key, names, spool)

    def publish(self, state: BaseState, record: Generation, beside: Mapping[str, str] | None = None) -> str:
        rules, repo = self.recipe, state.repo
        rejected = tuple(a for a in status.read_status(self.hub, state).rejected if a.id != record.id)
        revision = publish(self.hub, state, self.work / "candidate", record, rejected, license=rules.license,
                           keep_formats=rules.publish.keep_formats, keep_heads=rules.heads.kind == "keep",
                           beside=beside, propose=rules.publish.mode == "pull-request", say=self.say)  # fmt: skip
        if revision.startswith("refs/pr/"):
            number = int(revision.rpartition("/")[2])
            proposed = Proposed(id=record.id, generation=record.generation, number=number)
            status.tell_proposed(self.hub, repo, add=proposed)
        else:
            status.tell_published(self.hub, record, rejected)
        return revision

    def answer(self, number: int, answer: Answer) -> bool:
        return answers.give(self.hub, self.recipe.base, number, answer, self.account() or "", self._closed)
