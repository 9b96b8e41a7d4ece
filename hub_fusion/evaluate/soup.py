"""Greedy soup: which contributions to average, by trying them one by one on held-out tasks.

A search, not a formula: it needs scores, so it stands beside the gate and not among the merge methods. Every step asks
for the score of an average of several contributions, by a measurement or from a cache. Not covered: what to do with the
winner's score. It was chosen as the best of many on the same held-out data, and so is too good; report other tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from hub_fusion.errors import MergeError


def greedy_soup(
    scores: Mapping[str, float], score_of: Callable[[Sequence[str]], float]
) -> tuple[list[str], float]:  # fmt: skip
    """The contributions of the soup, in the order they joined it, and its score (Wortsman et al. 2022, recipe 1).

    As mlfoundations/model-soups does it: contributions are tried from the best held-out score of their own down,
    beginning with the best alone; one stays if and only if the equal-weight mean with it is strictly better than the
    best mean so far. `scores` are those of single contributions, larger is better; of equal ones the first name comes
    first, whatever the order of the mapping. `score_of` is called once for every contribution but the best.
    Example: scores a 0.8, b 0.7, c 0.6, where a and b together have 0.8 and a and c 0.9: ``(["a", "c"], 0.9)``.
    Raises MergeError if there is no contribution or a score is not a number.
    """
    if not scores:
        raise MergeError("a soup needs at least one contribution")
    names = sorted(scores, key=lambda name: (-_number(scores[name], [name]), name))
    soup, best = names[:1], scores[names[0]]
    for name in names[1:]:
        score = _number(score_of([*soup, name]), [*soup, name])
        if score > best:
            soup, best = [*soup, name], score
    return soup, best


def _number(score: float, of: Sequence[str]) -> float:
    if math.isnan(score):
        raise MergeError(f"the score of {' + '.join(of)} is not a number: leave it out, or measure it again")
    return score
