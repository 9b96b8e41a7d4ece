"""How the contributions that were fused lie to each other, for people who look at a generation. Nothing is decided.

The screen measures all survivors once; what the search then leaves out is no part of the generation, so shares, cosines
and tables are those of the rest among themselves, from the same inner products.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from hub_fusion.contributions.screen import Screened
from hub_fusion.contributions.votes import capped, votes
from hub_fusion.recipe import Merge
from hub_fusion.records import Analysis, Contribution

if TYPE_CHECKING:
    from hub_fusion.weights.measure import Measures


def among(screened: Screened, members: Collection[str], merge: Merge) -> tuple[list[Contribution], Analysis | None]:
    """These survivors (``repo@sha``) with the shares and cosines that they have among themselves, and how they lie."""
    rows = [row for row, c in enumerate(screened.contributions) if c.key in members]
    kept = [screened.contributions[row] for row in rows]
    measured = None if screened.measures is None else screened.measures.only(rows)
    shares, _ = capped(kept, votes(kept, merge.vote, measured), merge.vote, merge.max_weight)
    if measured is None:
        return [c.model_copy(update={"weight": share}) for c, share in zip(kept, shares, strict=True)], None
    effective = [share * c.scale for c, share in zip(kept, shares, strict=True)]
    kept = [c.model_copy(update={"weight": share, "cosine": measured.cosine_with_mean(i, effective)})
            for i, (c, share) in enumerate(zip(kept, shares, strict=True))]  # fmt: skip
    return kept, analyse(kept, measured)


def part_of_step(screened: Screened, merge: Merge) -> float:
    """How much of a step all survivors together may take, so that none has more than ``merge.max_weight`` of it."""
    people = screened.contributions
    return capped(people, votes(people, merge.vote, screened.measures), merge.vote, merge.max_weight)[1]


def analyse(contributions: list[Contribution], measures: Measures) -> Analysis:
    """The tables of contributions in the order of their `measures`, rounded to what people look at."""
    import numpy as np

    from hub_fusion.weights.directions import cosines, effective_directions, spectrum

    gram = measures.gram
    opposed = np.zeros_like(gram) if measures.opposed is None else measures.opposed
    tables = [tuple(map(tuple, np.round(table, 4).tolist())) for table in (cosines(gram), opposed)]
    return Analysis(contributions=tuple(c.key for c in contributions), cosines=tables[0], opposed=tables[1],
                    spectrum=tuple(np.round(spectrum(gram), 4).tolist()),
                    directions=round(effective_directions(gram), 3))  # fmt: skip
