"""Right and wrong answers → accuracies with intervals, and the paired difference of two checkpoints.

Log-likelihoods, which are no accuracies, go the same way beside them and are never averaged with them.

Intervals are 95 % percentile bootstrap intervals: seeds and test examples are drawn with replacement together, so that
both the luck of the training run and that of the test set are in them. Tasks are not drawn: an interval of a mean
speaks of these tasks, not of tasks in general. With one seed, only the test set varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import numpy as np

from hub_fusion.errors import RecordError
from hub_fusion.records import Difference, Role, Score, Scores

RESAMPLES = 1000
BOOTSTRAP_SEED = 1983
Key = tuple[str, Role, str]  # task, role, protocol
Answers = Mapping[Key, "np.ndarray[Any, Any]"]  # (seeds, examples): 1 right, 0 wrong; or log-likelihoods
LIKELIHOODS = ("logme", "perplexity")  # the protocols that give log-likelihoods in nats; all others give answers


@dataclass(frozen=True)
class Cost:
    """Of one protocol on one task, all seeds and parts together: wall time, and training examples shown."""

    seconds: float = 0.0
    shown: int = 0


NO_COSTS: Mapping[tuple[str, str], Cost] = {}


@dataclass(frozen=True, eq=False)
class Measurement:
    """A checkpoint's `scores`, and what is behind them per (task, role, protocol).

    `correct`: matrices (seeds, examples) uint8, 1 where right. `likelihoods`: float64, of perplexity (seeds, windows),
    of LogME (seeds, 1), for it is no mean over examples.
    """

    scores: Scores
    correct: dict[Key, np.ndarray[Any, Any]]
    likelihoods: dict[Key, np.ndarray[Any, Any]] = field(default_factory=dict)


def resample(answers: np.ndarray[Any, Any], stream: int = 0) -> np.ndarray[Any, Any]:
    """Means (resamples,) of `answers` (seeds, examples) with seeds and examples drawn with replacement.

    How often each seed and each example is drawn is counted, and counts are whole numbers in float64, so that constant
    answers give exactly that constant. The draws depend on shape and `stream` alone.
    """
    seeds, examples = answers.shape
    of_seeds, of_examples = (drawn.astype(np.float64) for drawn in _draws(seeds, examples, stream))
    sums: np.ndarray[Any, Any] = ((of_seeds @ answers.astype(np.float64)) * of_examples).sum(1)
    return sums / (seeds * examples)


@lru_cache(maxsize=64)
def _draws(seeds: int, examples: int, stream: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """How often each seed and each example is drawn, (resamples, seeds) and (resamples, examples); slow to make."""
    random = np.random.default_rng([BOOTSTRAP_SEED, stream])
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    of_examples = random.multinomial(examples, np.full(examples, 1 / examples), RESAMPLES)
    return of_seeds.astype(np.uint16), of_examples.astype(np.uint16)  # 2 MB for a thousand examples


def summarise(
    answers: Answers, *, suite: str, weights_sha256: str, seconds: float = 0.0,
    costs: Mapping[tuple[str, str], Cost] = NO_COSTS,
) -> Scores:  # fmt: skip
    """One score per task, role and protocol, and one per role and protocol for the mean over its tasks.

    `costs` are per task and protocol.
    """
    tasks = tuple(
        Score(
            **_interval(float(matrix.mean()), resample(matrix)),
            task=task, role=role, protocol=protocol,
            examples=matrix.shape[1], per_seed=tuple(matrix.mean(1).tolist()),
            **vars(costs.get((task, protocol), Cost())),
        )
        for (task, role, protocol), matrix in answers.items()
    )  # fmt: skip
    means = tuple(
        Score(
            **_interval(*_over_tasks(group)),
            role=role, protocol=protocol, examples=sum(m.shape[1] for m in group),
            per_seed=tuple(np.mean([m.mean(1) for m in group], axis=0).tolist()),
            seconds=round(sum(s.seconds for s in tasks if (s.role, s.protocol) == (role, protocol)), 3),
            shown=sum(s.shown for s in tasks if (s.role, s.protocol) == (role, protocol)),
        )
        for (role, protocol), group in _groups(answers).items()
    )  # fmt: skip
    apart = tuple(s for s in (*tasks, *means) if s.protocol in LIKELIHOODS)
    tasks, means = (tuple(s for s in group if s.protocol not in LIKELIHOODS) for group in (tasks, means))
    return Scores(suite=suite, weights_sha256=weights_sha256, tasks=tasks, means=means, likelihoods=apart,
                  seconds=seconds)  # fmt: skip


def compare(candidate: Measurement, parent: Measurement) -> tuple[Difference, ...]:
    """Candidate minus parent per role and protocol, mean over tasks, paired by seed and test example.

    Raises RecordError if they were not measured by the same suite. A checkpoint against itself: 0 with interval [0, 0].
    """
    check_suites(candidate.scores, parent.scores)
    return _differences(candidate.correct, parent.correct)


def compare_likelihoods(candidate: Measurement, parent: Measurement) -> tuple[Difference, ...]:
    """The same for log-likelihoods, in nats: +0.01 of perplexity is a loss per token that is 0.01 lower."""
    check_suites(candidate.scores, parent.scores)
    return _differences(candidate.likelihoods, parent.likelihoods)


def _differences(candidate: Answers, parent: Answers) -> tuple[Difference, ...]:
    if {k: m.shape for k, m in candidate.items()} != {k: m.shape for k, m in parent.items()}:
        raise RecordError("candidate and parent answered different questions although their suites agree; measure anew")
    return tuple(
        Difference(**_interval(*_over_tasks(group)), role=role, protocol=protocol)
        for (role, protocol), group in _groups(_changes(candidate, parent)).items()
    )


def difference(candidate: Answers, parent: Answers) -> dict[str, float]:
    """Mean, low and high of candidate minus parent over all their tasks, paired by seed and test example.

    Both answer the same questions: equal keys and shapes.
    """
    return _interval(*_over_tasks(list(_changes(candidate, parent).values())))


def _changes(candidate: Answers, parent: Answers) -> dict[Key, np.ndarray[Any, Any]]:
    return {k: m.astype(np.float64) - parent[k].astype(np.float64) for k, m in candidate.items()}


def check_suites(candidate: Scores, parent: Scores) -> None:
    """Raise RecordError if the two were measured by different suites."""
    if candidate.suite != parent.suite:
        raise RecordError(
            "scores of different suites do not compare: "
            f"candidate {candidate.suite[:12]}…, parent {parent.suite[:12]}…; "
            "measure the parent again with the present tasks and settings"
        )


def _groups(answers: Answers) -> dict[tuple[Role, str], list[np.ndarray[Any, Any]]]:
    groups: dict[tuple[Role, str], list[np.ndarray[Any, Any]]] = {}
    for (_, role, protocol), matrix in answers.items():
        groups.setdefault((cast(Role, role), protocol), []).append(matrix)
    return groups


def _over_tasks(group: list[np.ndarray[Any, Any]]) -> tuple[float, np.ndarray[Any, Any]]:
    """Mean over tasks, every task counting the same: the value and its resamples."""
    draws: np.ndarray[Any, Any] = np.mean([resample(matrix, stream) for stream, matrix in enumerate(group)], axis=0)
    return float(np.mean([matrix.mean() for matrix in group])), draws


def _interval(mean: float, draws: np.ndarray[Any, Any]) -> dict[str, float]:
    """Mean, low and high; a percentile interval of a very skewed sample is widened so as to hold its own mean."""
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    return {"mean": mean, "low": min(low, mean), "high": max(high, mean)}
