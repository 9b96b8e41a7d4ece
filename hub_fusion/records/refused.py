"""Which refusals a record tells in full, of how many: a popular base refuses thousands, and its records stay small.

All are counted by code. In full are told at most 200 in 150 kB: first what nobody else can find out, since it took
measurements or tensors, then headers, then cards, of which ``hub-fusion check`` says the same at any time. Of an
account that has many, each further one comes after everybody's earlier ones, so nobody crowds others out. Of the rest
the name is told with its code, as far as 300 kB go. Those of a fuse are as few as its contributions and never left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hub_fusion.records.contribution import Refusal, Stage
from hub_fusion.records.record import encodable

FULL, FULL_BYTES, NAMES_BYTES = 200, 150_000, 300_000
SENTENCE = 500  # characters of a reason or a fix
FIRST: tuple[Stage, ...] = ("fuse", "screen", "filter", "discover")


@dataclass(frozen=True)
class Told:
    """What a record says of refusals: some in full in their old order, all counted by code, code → further names."""

    refusals: tuple[Refusal, ...] = ()
    refused: dict[str, int] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)


def tell_refusals(refusals: Iterable[Refusal]) -> Told:
    """Which of them are told in full; a commit that was refused twice for the same is counted once.

    >>> found = [Refusal(repo=f"ann/m{n}", sha="", author="ann", stage="filter", code="gated", reason="It is gated.",
    ...                  fix="Open it.") for n in range(1000)]
    >>> told = tell_refusals(found)
    >>> len(told.refusals), told.refused, len(told.names["gated"])
    (200, {'gated': 1000}, 800)
    """
    distinct = list({(r.repo, r.sha, r.code): r for r in refusals}.values())
    nth, places = Counter[str](), []
    for refusal in distinct:
        places.append((FIRST.index(refusal.stage), nth[refusal.author.lower()]))
        nth[refusal.author.lower()] += 1
    full, names, left, room = dict[int, Refusal](), dict[str, list[str]](), FULL_BYTES, NAMES_BYTES
    for number in sorted(range(len(distinct)), key=places.__getitem__):
        told = _shortened(distinct[number])
        size = len(told.to_json().encode())
        if told.stage == "fuse" or (len(full) < FULL and size <= left):
            full[number], left = told, left - size
            continue
        size = len(encodable(json.dumps(told.repo, ensure_ascii=False)).encode()) + 4  # a line of its own
        if size <= room:
            names.setdefault(told.code, []).append(told.repo)
            room -= size
    return Told(
        tuple(full[number] for number in sorted(full)),
        dict(sorted(Counter(r.code for r in distinct).items())),
        {code: tuple(found) for code, found in sorted(names.items())},
    )


def _shortened(refusal: Refusal) -> Refusal:
    if max(len(refusal.reason), len(refusal.fix)) <= SENTENCE:
        return refusal
    cut = {name: getattr(refusal, name)[: SENTENCE - 1] + "…" for name in ("reason", "fix")
           if len(getattr(refusal, name)) > SENTENCE}  # fmt: skip
    return refusal.model_copy(update=cut)
