"""How much each contribution counts, before any cap: one vote for each account, and none for saying the same again.

An account or an organisation (what stands before the slash) has one vote, split over its contributions. What several
accounts say together, near-copies of one task vector or training on the same data sets *and* task, has one vote among
all of them. Groups never chain: a near-copy is one of the earliest of its group, so that nobody can tie two strangers'
votes together with models in between; and a group only ever makes its own members lighter.
Not covered: one person with many accounts and as many different models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hub_fusion.records import Contribution

if TYPE_CHECKING:
    from hub_fusion.weights.measure import Measures

NEAR = 0.95  # cosine of task vectors: seeds of one training on the same data have less, copies with noise more
NEVER = datetime.max.replace(tzinfo=UTC)


def votes(contributions: Sequence[Contribution], vote: str, measures: Measures | None = None) -> list[float]:
    """Weights that add up to 1. `measures` are those of these contributions; without them near-copies are not seen.

    Example: three of ann's and one of bob's count 1/6 each and 1/2; if all three are near-copies of bob's, 1/4 each.
    """
    accounts = Counter(c.author.lower() for c in contributions)
    shares = [1.0 if vote == "contribution" else 1 / accounts[c.author.lower()] for c in contributions]
    for group in (*near_copies(contributions, measures), *same_work(contributions)):
        together = sum(shares[i] for i in group)
        if together > 1:
            for i in group:
                shares[i] /= together
    total = sum(shares)
    return [share / total for share in shares]


def capped(
    contributions: Sequence[Contribution], shares: Sequence[float], vote: str, most: float
) -> tuple[list[float], float]:
    """Shares that add up to 1, and the part of a step that they take where nobody may have more than `most` of it all.

    What is left stays with the parent: weight × part is what each has of the step. Example: two accounts with a half
    each and ``most = 1/8`` keep a half each of a quarter of the step.
    """
    owners = [c.key if vote == "contribution" else c.author.lower() for c in contributions]
    held: dict[str, float] = {}
    for owner, share in zip(owners, shares, strict=True):
        held[owner] = held.get(owner, 0.0) + share
    bound = [share * min(1.0, most / held[owner]) for owner, share in zip(owners, shares, strict=True)]
    part = sum(bound)
    if not shares or part >= 1 - 1e-9:
        return list(shares), 1.0
    return [share / part for share in bound], part


def near_copies(contributions: Sequence[Contribution], measures: Measures | None) -> list[list[int]]:
    """Groups of more than one, each around the earliest of it."""
    groups: dict[int, list[int]] = {}
    order = sorted(
        range(len(contributions)), key=lambda i: (contributions[i].created_at or NEVER, contributions[i].key)
    )
    for i in order if measures else ():
        assert measures is not None
        leader = next((j for j in groups if measures.cosine(i, j) > NEAR), i)
        groups.setdefault(leader, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def same_work(contributions: Sequence[Contribution]) -> list[list[int]]:
    """Groups of more than one that name the same data sets and the same task; naming neither or one is no claim."""
    groups: dict[tuple[frozenset[str], str], list[int]] = {}
    for i, c in enumerate(contributions):
        if c.task and c.datasets:
            groups.setdefault((frozenset(d.lower() for d in c.datasets), c.task.lower()), []).append(i)
    return [group for group in groups.values() if len(group) > 1]
