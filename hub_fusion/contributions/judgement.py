"""What the measures of a round's task vectors say: who is refused, and whose change is made shorter.

Finite, changed, of the base's kin, not noise, no copy and no mirror image of an earlier one, not against all others, of
a length like the others' as a whole and in every layer. Pure: from inner products to refusals.
Not covered: a poisoned change of ordinary length in an ordinary direction. Nothing here can tell it from training.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from hub_fusion.contributions.votes import votes
from hub_fusion.recipe import Screen
from hub_fusion.records import Contribution, Refusal
from hub_fusion.weights.measure import Measures
from hub_fusion.weights.noise import APART

COPY_DISTANCE = 0.05  # of the longer: saving in 16 bits moves a task vector by about 1 %, another seed by about 100 %
MIRRORED = -0.9  # cosine: two trainings are nearly orthogonal, two of the same data nearly parallel, none are opposite
NEVER = datetime.max.replace(tzinfo=UTC)
SHORTER = "Train for fewer steps or with a lower learning rate; check that it started from this base."


def judge_tensors(
    candidates: Sequence[Contribution], measures: Measures, rule: Screen
) -> tuple[list[int], list[Refusal], list[float]]:
    """Which candidates pass (by number, in order), refusals of the others, and everybody's scale (below 1: capped)."""
    refusals: list[Refusal] = []
    alive: list[int] = []
    for i, c in enumerate(candidates):
        if i in measures.not_finite:
            where = measures.not_finite[i]
            refusals.append(c.refuse("screen", "not_finite", f"Tensor {where} holds NaN or infinity.",
                                     "Train again with a lower learning rate or in a wider dtype."))  # fmt: skip
        elif measures.gram[i, i] == 0:
            refusals.append(c.refuse("screen", "unchanged", "Its weights are those of the generation it started from.",
                                     "Publish the weights after training."))  # fmt: skip
        elif len(measures.kinship) and measures.kinship[i] < rule.min_kinship:
            refusals.append(c.refuse(
                "screen", "not_kin", f"Its matrices have cosine {measures.kinship[i]:.3f} with the base's; training "
                f"leaves more than {rule.min_kinship:g}. They are random, of another base, or far off from training.",
                "Train from this base with a lower learning rate; name the revision you started from."))  # fmt: skip
        elif rule.noise == "refuse" and measures.noise(i):
            refusals.append(c.refuse("screen", "noise", is_noise(measures, i), "Publish what training left, in a dtype "
                                     "that holds it: not rounded, quantised, or with most of it dropped."))  # fmt: skip
        else:
            alive.append(i)
    kept = _first_of_each(alive, candidates, measures, refusals)
    scales = [1.0] * len(candidates)
    if len(kept) >= rule.min_for_norms:
        kept = _with_the_others(kept, candidates, measures, rule, refusals)
    kept = _judge_norms(kept, candidates, measures, rule, refusals, scales)
    return kept, refusals, scales


def is_noise(measures: Measures, i: int) -> str:
    """What to say of a contribution that nothing tells from random numbers."""
    return (
        "Its change has no more order than random numbers: the singular values of its matrices are as far from those "
        f"of the same numbers with random signs as chance puts them (excess {measures.order[i]:.1f}; training leaves "
        f"more than {APART:g})."
    )


def _first_of_each(
    alive: Iterable[int], candidates: Sequence[Contribution], measures: Measures, refusals: list[Refusal]
) -> list[int]:
    """Without copies and mirror images of what was there before: by the repository's date, not by its name."""
    first: list[int] = []
    for i in sorted(alive, key=lambda i: (candidates[i].created_at or NEVER, candidates[i].key)):
        original = next((j for j in first if measures.distance(i, j) < COPY_DISTANCE), None)
        mirrored = next((j for j in first if measures.cosine(i, j) < MIRRORED), None)
        if original is not None:
            refusals.append(candidates[i].refuse(
                "screen", "copy", f"Its weights are those of {candidates[original].repo}, which was there first.",
                "Contribute your own training; copies do not count twice."))  # fmt: skip
        elif mirrored is not None:
            refusals.append(candidates[i].refuse(
                "screen", "mirrored", f"Its change is that of {candidates[mirrored].repo} with the sign turned (cosine "
                f"{measures.cosine(i, mirrored):.3f}).", "Contribute your own training."))  # fmt: skip
        else:
            first.append(i)
    return sorted(first)


def _with_the_others(
    kept: list[int], candidates: Sequence[Contribution], measures: Measures, rule: Screen, refusals: list[Refusal]
) -> list[int]:
    """Without those that go against the mean of all other accounts, whose lengths are made equal for this."""
    passed = []
    for i in kept:
        others = [j for j in kept if candidates[j].author != candidates[i].author]
        weights = [0.0] * len(candidates)
        for j, share in zip(others, votes([candidates[j] for j in others], "account"), strict=True):
            weights[j] = share / math.sqrt(float(measures.gram[j, j]))
        against = measures.cosine_with_mean(i, weights)
        if against < rule.min_cosine:
            refusals.append(candidates[i].refuse(
                "screen", "opposed", f"Its change has cosine {against:.3f} with the mean of the others'; below "
                f"{rule.min_cosine:g} it would undo their work.",
                "Check that it started from the generation that its card names."))  # fmt: skip
        else:
            passed.append(i)
    return passed


def _judge_norms(
    kept: list[int], candidates: Sequence[Contribution], measures: Measures, rule: Screen, refusals: list[Refusal],
    scales: list[float],
) -> list[int]:  # fmt: skip
    """Without the far too long; `scales` shortens the somewhat too long, by the whole or by its worst layer.

    Where there are too few to call anybody an outlier nobody is refused, but all are capped.
    """
    norms = {i: measures.norm(i) for i in kept}
    if not kept:
        return []
    enough = len(kept) >= rule.min_for_norms
    median, limit = _limit(kept, candidates, norms.__getitem__, rule.cap_mad, rule.cap_ratio, rule.min_for_norms)
    passed = []
    for i in kept:
        if enough and norms[i] > rule.refuse_ratio * median:
            refusals.append(candidates[i].refuse(
                "screen", "norm_outlier",
                f"Its change of the base has norm {norms[i]:.4g}, the round's median is {median:.4g}; "
                f"more than {rule.refuse_ratio:g} times the median is refused.", SHORTER))  # fmt: skip
            continue
        scales[i] = min(1.0, limit / norms[i])
        passed.append(i)
    return _judge_layers(passed, candidates, measures, rule, refusals, scales)


def _judge_layers(
    kept: list[int], candidates: Sequence[Contribution], measures: Measures, rule: Screen, refusals: list[Refusal],
    scales: list[float],
) -> list[int]:  # fmt: skip
    """The same layer by layer, among those that change the layer at all: few layers may be trained, and honestly so.

    A layer above its cap shortens the whole: what is left is a point between base and finetune, and who puts too much
    into one layer gains nothing in the others (benchmarks/LOG.md has what that costs).
    """
    out = set[int]()
    for layer, squared in measures.layers.items():
        changing = [i for i in kept if squared[i] > 0]
        if len(changing) < rule.min_for_norms:
            continue
        norms = {i: math.sqrt(squared[i]) for i in changing}
        median, limit = _limit(
            changing, candidates, norms.__getitem__, rule.cap_mad, rule.layer_cap_ratio, rule.min_for_norms
        )
        for i in changing:
            if i not in out and norms[i] > rule.layer_refuse_ratio * median:
                out.add(i)
                refusals.append(candidates[i].refuse(
                    "screen", "layer_outlier",
                    f"Its change of {layer} has norm {norms[i]:.4g}, the round's median there is {median:.4g}; "
                    f"more than {rule.layer_refuse_ratio:g} times the median is refused.", SHORTER))  # fmt: skip
            scales[i] = min(scales[i], limit / norms[i])
    return [i for i in kept if i not in out]


def _limit(
    kept: Sequence[int], candidates: Sequence[Contribution], norm: Callable[[int], float], mads: float, ratio: float,
    enough: int,
) -> tuple[float, float]:  # fmt: skip
    """The median norm, and the norm above which is capped: max(median + mads·MAD, ratio·median).

    One norm for each account, so that many small contributions of one cannot make the others' look too large. Of fewer
    accounts than `enough` the lower median, so that one among two or four cannot raise it.
    """
    by_author: dict[str, list[float]] = {}
    for i in kept:
        by_author.setdefault(candidates[i].author, []).append(norm(i))
    typical = [statistics.median(own) for own in by_author.values()]
    typical = typical if len(typical) > 1 else [norm(i) for i in kept]
    middle = statistics.median if len(typical) >= enough else statistics.median_low
    median = middle(typical)
    mad = middle([abs(length - median) for length in typical])
    return median, max(median + mads * mad, ratio * median)
