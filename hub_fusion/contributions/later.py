"""What became of contributions after they were fused: gone, forbidden, or under another licence.

Nothing of it changes a generation by itself: what was fused was offered under the terms of its commit. A maintainer is
told, and may take a contribution out again (``hub-fusion subtract``). Not covered: cards that changed and changed back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hub_fusion.contributions.discover import OPT_OUT
from hub_fusion.records import Contribution, Credit, Later, Refusal

MOST = 100  # that are told
Today = Contribution | Refusal


def changed_later(credits: Iterable[tuple[int, Credit]], today: Callable[[str], Today | None]) -> tuple[Later, ...]:
    """Those of `credits` (with the generation each came in by) that are no longer what they were, oldest first.

    `today` gives what a repository is now, None if it is gone.
    """
    found: list[Later] = []
    for generation, credit in credits:
        found += [Later(repo=credit.repo, sha=credit.sha, generation=generation, code=code, reason=reason)
                  for code, reason in _changes(credit, today(credit.repo))]  # fmt: skip
    return tuple(found[:MOST])


def _changes(credit: Credit, today: Today | None) -> Iterator[tuple[str, str]]:
    if today is None:
        yield "gone", "Its repository is gone, or private."
    if not isinstance(today, Contribution):
        return
    if any(tag.lower() == OPT_OUT for tag in today.tags):
        yield "opted_out", f"Its author has tagged it {OPT_OUT}."
    if today.license != credit.license:
        was, now = credit.license or "none", today.license or "none"
        yield "relicensed", f"Its card says license {now}; it said {was} when it was fused."
