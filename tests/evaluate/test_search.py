"""The search finds what it is meant to find, within its budget, and by gate tasks alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from hub_fusion.evaluate.gate import judge
from hub_fusion.evaluate.scores import Key, Measurement, summarise
from hub_fusion.evaluate.search import Found, Tried, search
from hub_fusion.recipe import Gate, Search

SUITE = "5" * 64
KEYS = ("a@1", "b@2", "c@3", "d@4")
HARD = np.random.default_rng(0).random((2, 300))  # an answer is right where the level is above this
Level = Callable[[Sequence[str], float], float]


def measured(level: float, report: float = 0.5) -> Measurement:
    """Answers of a checkpoint as good as `level`; they differ by what lies between their levels."""
    correct: dict[Key, np.ndarray] = {
        ("t", "gate", "probe"): (level > HARD).astype(np.uint8),
        ("t", "report", "probe"): (report > HARD).astype(np.uint8),
    }
    return Measurement(summarise(correct, suite=SUITE, weights_sha256="7" * 64, seconds=1.0), correct)


def find(level: Level, way: Sequence[float] = (1.0,), parent: float = 0.7, **rules: Any) -> tuple[Found, list[Any]]:
    """Search where fused members at a step are as good as `level` says; also gives the calls in order."""
    calls: list[tuple[tuple[str, ...], float]] = []
    gate = Gate()

    def attempt(members: Sequence[str], step: float) -> Tried:
        calls.append((tuple(members), step))
        found = measured(level(members, step))
        return Tried(tuple(members), step, found, judge(found, measured(parent), gate, step))

    reserved = rules.pop("reserved", 0)
    return search(KEYS, way, Search.model_validate(rules), gate, attempt, reserved=reserved), calls


def test_the_best_step_is_taken_and_not_only_the_first_that_passes() -> None:
    levels = {1.0: 0.70, 0.5: 0.78, 0.25: 0.74}
    found, calls = find(lambda _, step: levels[step], (1.0, 0.5, 0.25))
    assert found.best.step == 0.5 and [step for _, step in calls] == [1.0, 0.5, 0.25]
    assert [round(t.candidate, 1) for t in found.trials] == [0.7, 0.8, 0.7] and all(t.accepted for t in found.trials)
    first, calls = find(lambda _, step: levels[step], (1.0, 0.5, 0.25), steps="first")
    assert first.best.step == 1.0 and len(calls) == 1


def test_a_step_that_is_rejected_never_wins_and_without_any_that_passes_the_best_is_told() -> None:
    found, _ = find(lambda _, step: {1.0: 0.60, 0.5: 0.701}[step], (1.0, 0.5))
    assert found.best.step == 0.5 and found.best.verdict.accepted
    found, _ = find(lambda _, step: {1.0: 0.60, 0.5: 0.65, 0.25: 0.5}[step], (1.0, 0.5, 0.25))
    assert found.best.step == 0.5 and not found.best.verdict.accepted


def test_a_difference_that_may_be_noise_does_not_make_the_step_smaller() -> None:
    """One answer more of 600, if any: the step that stands first stays."""
    found, _ = find(lambda _, step: {1.0: 0.75, 0.5: 0.7505}[step], (1.0, 0.5))
    assert found.best.step == 1.0 and len(found.trials) == 2


@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_no_more_is_measured_than_the_budget_allows(evaluations: int) -> None:
    found, calls = find(lambda _, step: 0.6, (1.0, 0.5, 0.25, 0.1), evaluations=evaluations)
    assert len(calls) == len(found.trials) == evaluations
    _, calls = find(lambda _, step: 0.6, (1.0, 0.5, 0.25, 0.1), evaluations=evaluations, reserved=1)
    assert len(calls) == max(evaluations - 1, 1)


def test_seconds_of_measuring_are_a_budget_too() -> None:
    """Those that the measurements say of themselves, so that a killed round, answered by its cache, stops alike."""
    _, calls = find(lambda _, step: 0.6, (1.0, 0.5, 0.25), seconds=2.0)
    assert len(calls) == 2


def test_who_made_it_worse_is_left_out() -> None:
    level: Level = lambda members, _: 0.80 - 0.1 * ("c@3" in members)  # noqa: E731
    found, calls = find(level, contributions="leave-one-out")
    assert found.best.members == ("a@1", "b@2", "d@4") and set(found.dropped) == {"c@3"}
    against = found.dropped["c@3"]
    assert against.kind == "without" and against.change is not None and against.change.low > 0.05
    assert [len(members) for members, _ in calls] == [4, 3, 3, 3, 3, 3]
    assert [t.contribution for t in found.trials] == [None, *KEYS, None]


def test_nobody_is_left_out_for_noise_or_for_nothing() -> None:
    found, _ = find(lambda members, _: 0.8 + 0.0005 * ("a@1" not in members), contributions="leave-one-out")
    assert found.best.members == KEYS and found.dropped == {}


def test_those_whose_absence_together_is_no_gain_stay() -> None:
    """Two that each look harmful beside the other, and without which nothing is left that helps."""
    level: Level = lambda members, _: {4: 0.75, 3: 0.80, 2: 0.71}.get(len(members), 0.5)  # noqa: E731
    found, _ = find(level, contributions="leave-one-out")
    assert found.best.members == KEYS and found.dropped == {}


def test_the_most_suspicious_are_left_out_first_where_the_budget_is_short() -> None:
    _, calls = find(lambda *_: 0.8, contributions="leave-one-out", evaluations=4)
    left_out = [next(k for k in KEYS if k not in members) for members, _ in calls[1:]]
    assert left_out == ["a@1", "b@2"], "one is kept for the candidate without them"


def test_a_greedy_soup_is_made_where_it_beats_all_together() -> None:
    worth = {"a@1": 0.02, "b@2": 0.06, "c@3": -0.05, "d@4": -0.1}
    level: Level = lambda members, _: 0.72 + sum(worth[m] for m in members)  # noqa: E731
    found, calls = find(level, contributions="greedy-soup", evaluations=20)
    assert found.best.members == ("a@1", "b@2") and set(found.dropped) == {"c@3", "d@4"}
    assert len(calls) == 1 + 4 + 3 and {t.kind for t in found.trials} == {"step", "alone", "with"}
    together, _ = find(lambda members, _: 0.7 + 0.02 * len(members), contributions="greedy-soup", evaluations=20)
    assert together.best.members == KEYS and together.dropped == {}


def test_a_soup_that_the_budget_does_not_cover_is_not_begun() -> None:
    found, calls = find(lambda *_: 0.8, contributions="greedy-soup", evaluations=7)
    assert len(calls) == 1 and found.best.members == KEYS


def test_the_same_search_gives_the_same_trials() -> None:
    level: Level = lambda members, step: 0.7 + 0.02 * step + 0.01 * len(members)  # noqa: E731
    one, other = (find(level, (1.0, 0.5), contributions="leave-one-out")[0] for _ in range(2))
    assert one.trials == other.trials and one.best.members == other.best.members
