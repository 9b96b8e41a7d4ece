"""Two checkpoints on the same questions: how much the gate mean and each task changed, and how sure that is.

Pairing is by seed and test example, so what both find hard is no noise. Protocols of one task share their draws of
examples, as they share the examples. Intervals are those of `scores`; what a loss means is the gate's business.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hub_fusion.errors import RecordError
from hub_fusion.evaluate.scores import Key, Measurement, check_suites, resample
from hub_fusion.records import Estimate

CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Paired:
    """Candidate minus the other: of the mean over protocols and tasks, and of every task over its protocols."""

    mean: Estimate
    tasks: dict[str, Estimate]  # intervals hold for all tasks at once


def pair(
    candidate: Measurement, other: Measurement, *, role: str = "gate", protocols: Collection[str] = ()
) -> Paired | None:  # fmt: skip
    """The change from `other` to `candidate`; None where the answers of either are not at hand, or there are none.

    `protocols` empty means those that decide, see `Scores.deciding`. A task's interval has the level 1 − 0.05/tasks
    (Bonferroni), from the bootstrap's standard deviation: with many tasks noise must not look like a loss more often
    than with one. Raises RecordError if the two were not measured by one suite.
    """
    check_suites(candidate.scores, other.scores)
    ours, theirs = (measured.correct | measured.likelihoods for measured in (candidate, other))
    wanted = set(protocols) or {k[2] for k in candidate.correct} or {"perplexity"}
    keys = [k for k in ours if k[1] == role and k[2] in wanted]
    if not keys or not theirs:
        return None
    if any(k not in theirs or theirs[k].shape != ours[k].shape for k in keys):
        raise RecordError("the two checkpoints answered different questions although their suites agree; measure anew")
    tasks = sorted({task for task, _, _ in keys})
    changes = {k: ours[k].astype(np.float64) - theirs[k] for k in keys}
    draws = {k: resample(change, tasks.index(k[0])) for k, change in changes.items()}

    def over(some: Sequence[Key]) -> tuple[float, np.ndarray]:
        return float(np.mean([changes[k].mean() for k in some])), np.mean([draws[k] for k in some], axis=0)

    by_protocol = [over([k for k in keys if k[2] == protocol]) for protocol in sorted({k[2] for k in keys})]
    mean, drawn = np.mean([m for m, _ in by_protocol]), np.mean([d for _, d in by_protocol], axis=0)
    low, high = np.quantile(drawn, (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)).tolist()
    wide = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / len(tasks))
    found = {}
    for task in tasks:
        value, of_task = over([k for k in keys if k[0] == task])
        half = wide * float(of_task.std())
        found[task] = Estimate(mean=value, low=value - half, high=value + half)
    return Paired(Estimate(mean=float(mean), low=min(low, mean), high=max(high, mean)), found)


def smallest_noticed_drop(change: Estimate, epsilon: float | None = None) -> float:
    """The true loss that would be rejected in four of five cases, by a suite as noisy as the interval of `change`.

    A loss is noticed when its interval lies below 0, for which it must be 1.96 + 0.84 standard errors; or, with
    `epsilon` (of a gate with margins), when it exceeds ε, for which ε + 0.84 standard errors do. The smaller counts.
    Example: an interval of ±0.0196 has a standard error of 0.01, so 0.028.
    """
    normal = NormalDist()
    error = standard_error(change)
    certain = (normal.inv_cdf(0.5 + CONFIDENCE / 2) + normal.inv_cdf(POWER)) * error
    return certain if epsilon is None else min(certain, epsilon + normal.inv_cdf(POWER) * error)


def standard_error(change: Estimate) -> float:
    """That of the change of a mean, from its interval."""
    return (change.high - change.low) / (2 * NormalDist().inv_cdf(0.5 + CONFIDENCE / 2))


def is_gain(change: Estimate, among: int = 1) -> bool:
    """Whether a change is certainly up, although it was looked for `among` so many (Bonferroni)."""
    return change.mean > NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / among) * standard_error(change)
