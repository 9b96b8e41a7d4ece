"""An answer to a discussion of the base: said once, whatever is killed in between; what is final closes the discussion.

A mark in the watcher's own comments tells which answers were given. Composing answers is announcements.py.
"""

from __future__ import annotations

import re

from pydantic import Field

from hub_fusion.hub import Discussions, Hub
from hub_fusion.records.record import Record

NAME = r"[A-Za-z0-9][\w.-]{0,95}"
TITLE = re.compile(rf"hub-fusion: ({NAME}/{NAME})", re.ASCII)  # of a discussion that asks
MARK = re.compile(r"<!-- hub_fusion:(\S{1,250}) -->")


class Answer(Record):
    """What is said of a model; `mark` is another one whenever it is worth saying something new."""

    mark: str = Field(pattern="^[A-Za-z0-9_.:@/-]+$", max_length=250)
    text: str = Field(max_length=10_000)
    final: bool

    @property
    def comment(self) -> str:
        """The comment on the Hub."""
        return f"{self.text}\n\n<!-- hub_fusion:{self.mark} -->"


def give(hub: Hub, base: str, number: int, answer: Answer, account: str, closed: set[int]) -> bool:
    """Say it, unless `account`'s last word there is the same; close what has had its final answer.

    `closed` are the discussions that this process closed. Gives whether it was said.
    """
    discussions = Discussions(hub)
    marks = [m[1] for text in discussions.said_by(base, number, account) if (m := MARK.search(text))]
    new = not marks or marks[-1] != answer.mark
    if new:
        discussions.say(base, number, answer.comment)
    if answer.final and (new or number not in closed):  # else people want to talk
        discussions.close(base, number)
        closed.add(number)
    return new
