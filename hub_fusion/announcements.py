"""Answers to those who announce a contribution in a discussion of the base: queued, fused, or refused with a fix.

A discussion with the title ``hub-fusion: USER/MODEL`` asks. It adds nothing to the queue, which is what the Hub lists
under the base: it is a question, and the answer is what the watcher's own rules say. Each answer is given once,
whatever is killed in between: a mark in the watcher's own comments tells which ones were. Fused and refused close the
discussion; whoever mended something opens it again. A look asks for one page of open discussions; of the title nothing
is used but a name that has the form of one. Not covered: titles beyond the newest 50 open discussions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hub_fusion.contribute.check import check_contribution
from hub_fusion.deeds import Deeds
from hub_fusion.errors import HubError, HubUnreachable, RepoMissing
from hub_fusion.events import Event, Say
from hub_fusion.hub import Discussions, Hub, Thread
from hub_fusion.publish.answers import TITLE, Answer
from hub_fusion.publish.markdown import code, md
from hub_fusion.publish.state import BaseState, fused_credits, open_base
from hub_fusion.recipe import Recipe

if TYPE_CHECKING:
    from hub_fusion.records import Contribution, Refusal

ANSWERS = 10  # of one look: each costs a dozen requests, and anybody may open discussions
AGAIN_S = 3600.0  # after which an open discussion that was answered with a refusal is looked at again


@dataclass
class Announcements:
    """The discussions of a recipe's base, and what this process knows to have been answered there."""

    recipe: Recipe
    hub: Hub
    deeds: Deeds
    say: Say = lambda _: None
    _told: dict[int, tuple[str, float]] = field(default_factory=dict, init=False)  # number → mark, when

    def answer(self, queue: tuple[Contribution, ...] = (), refusals: tuple[Refusal, ...] = ()) -> int:
        """Answer what is new; gives how many comments were made.

        `queue` and `refusals` are what a look found: who waits stays queued, and what tensors or measurements told
        against a contribution is known to the look alone.

        Raises HubUnreachable; of other errors the log tells.
        """
        discussions, base, state, made = Discussions(self.hub), self.recipe.base, None, 0
        waiting, refused = {c.repo.lower() for c in queue}, {(r.repo.lower(), r.sha): r for r in refusals}
        try:
            threads = [t for t in discussions.newest(base) if TITLE.fullmatch(t.title)]
            account = self.deeds.account() if threads else None
        except HubUnreachable:
            raise
        except HubError as error:  # a base without discussions
            self.say(Event("note", f"announcements are not read: {error}"))
            return 0
        if account is None:
            return 0
        self._told = {t.number: self._told[t.number] for t in threads if t.number in self._told}
        for thread in reversed(threads):
            asked = TITLE.fullmatch(thread.title)
            if asked is None or made >= ANSWERS or not self._due(thread, asked[1], waiting):
                continue
            try:
                state = state or open_base(self.hub, base, mend=False)
                answer = self._answer(asked[1], state, refused)
                made += self._give(thread, answer)
            except HubUnreachable:
                raise
            except HubError as error:  # no right to speak there, say
                self._told[thread.number] = ("", time.monotonic())
                self.say(Event("note", f"discussion {thread.number} could not be answered: {error}"))
        return made

    def _due(self, thread: Thread, repo: str, waiting: set[str]) -> bool:
        """Whether there may be something new to say."""
        mark, when = self._told.get(thread.number, (None, 0.0))
        if mark is None:
            return True
        if mark.startswith("queued:"):
            return repo.lower() not in waiting
        return time.monotonic() - when > AGAIN_S

    def _answer(self, repo: str, state: BaseState, refused: dict[tuple[str, str], Refusal]) -> Answer:
        try:
            sha = self.hub.resolve(repo)
        except RepoMissing:
            text = f"{code(repo)} is not there, or not public. Check its name, then open this discussion again."
            return Answer(mark=f"missing:{repo}", text=text, final=True)
        for number, credit in reversed(fused_credits(self.hub, state)):
            if credit.repo.lower() == repo.lower() and credit.sha == sha:
                text = f"{code(repo)} at {code(sha[:8])} is part of **gen-{number}**. Thank you!"
                return Answer(mark=f"fused:{repo}@{sha[:12]}", final=True,
                              text=f"{text} A new commit will be considered again.")  # fmt: skip
        first = refused.get((repo.lower(), sha))
        if first is None:
            check = check_contribution(f"{repo}@{sha}", hub=self.hub, base=state.repo, recipe=self.recipe)
            first = check.refusals[0] if check.refusals else None
        if first is None:
            text = (f"{code(repo)} at {code(sha[:8])} is **queued** for gen-{state.next_generation}, if its weights "
                    "pass the screen. This discussion will tell what comes of it.")  # fmt: skip
            return Answer(mark=f"queued:{repo}@{sha[:12]}", text=text, final=False)
        text = f"{code(repo)} at {code(sha[:8])} is **refused** ({code(first.code)}): {md(first.reason, 500)}\n\n"
        return Answer(mark=f"refused:{first.code}:{repo}@{sha[:12]}", final=True,
                      text=f"{text}What helps: {md(first.fix, 500)} Then open this discussion again.")  # fmt: skip

    def _give(self, thread: Thread, answer: Answer) -> int:
        if new := self.deeds.answer(thread.number, answer):
            self.say(Event("note", f"answered discussion {thread.number}: {answer.mark}"))
        self._told[thread.number] = (answer.mark, time.monotonic())
        return int(new)
