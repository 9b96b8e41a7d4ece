"""Those in the queue that failed the screen already: not read again at every look, and in nobody's way.

The screen downloads and reads whole models, and a round has so many places. What failed is set aside until its author
commits something new, or the base, the recipe or the suite is another one; what may pass by itself (downloads, a scan,
a file that could not be fetched) until a while is over. The list is kept in the status on the Hub, so it holds for
whoever looks next. Pure. Not covered: more than the newest `MOST`; older ones are screened once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from hub_fusion.records import Aside, Contribution, Refusal, now

MOST = 300
PASSING = frozenset({"not_fetched", "not_scanned", "few_downloads"})  # codes that time alone may take away


@dataclass(frozen=True)
class SetAside:
    """A queue in two parts: what may be chosen, and why the rest may not. `at`: since when the oldest `PASSING` is."""

    left: list[Contribution]
    refusals: list[Refusal]
    round: str
    at: datetime

    def with_more(self, refusals: Sequence[Refusal]) -> Aside:
        """What is to be kept when the screen has refused these too."""
        return Aside(round=self.round, at=self.at, refusals=tuple([*self.refusals, *refusals][-MOST:]))


def set_aside(queue: Sequence[Contribution], known: Aside | None, round: str, patience: timedelta) -> SetAside:
    """Part a queue by what is `known`, if that is of this `round` (an id of base, recipe and suite)."""
    at = now()
    refused: dict[str, Refusal] = {}
    if known and known.round == round:
        over = at - known.at >= patience
        refused = {r.key: r for r in known.refusals if not (over and r.code in PASSING)}
        at = at if over else known.at
    left = [c for c in queue if c.key not in refused]
    found = [refused[c.key] for c in queue if c.key in refused]
    return SetAside(left, found, round, at)
