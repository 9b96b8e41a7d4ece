"""Intervals hold their means, and differences are paired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hub_fusion.errors import RecordError
from hub_fusion.evaluate.scores import RESAMPLES, Measurement, compare, resample, summarise
from hub_fusion.records import Role

SUITE, WEIGHTS = "5" * 64, "7" * 64
MATRICES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.integers(0, 1))


def measured(**matrices: np.ndarray) -> Measurement:
    correct: dict[tuple[str, Role, str], np.ndarray] = {(t, "gate", "probe"): m for t, m in matrices.items()}
    return Measurement(summarise(correct, suite=SUITE, weights_sha256=WEIGHTS), correct)


@given(MATRICES)
def test_an_interval_holds_its_mean_and_stays_within_0_and_1(matrix: np.ndarray) -> None:
    for score in (*measured(a=matrix).scores.tasks, *measured(a=matrix, b=1 - matrix).scores.means):
        assert 0 <= score.low <= score.mean <= score.high <= 1


@given(MATRICES)
def test_a_model_compared_with_itself_differs_by_exactly_nothing(matrix: np.ndarray) -> None:
    model = measured(a=matrix, b=matrix[:, ::-1])
    (difference,) = compare(model, model)
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)


@pytest.mark.parametrize("value", [0, 1])
def test_constant_answers_have_an_interval_of_no_width(value: int) -> None:
    score = measured(a=np.full((3, 7), value, dtype=np.uint8)).scores.tasks[0]
    assert (score.mean, score.low, score.high) == (value, value, value)


def test_the_bootstrap_agrees_with_drawing_one_by_one() -> None:
    """The counts of draws are a shortcut; means and spreads must be those of the long way round."""
    random = np.random.default_rng(0)
    matrix = (random.random((4, 50)) < np.array([[0.5], [0.6], [0.7], [0.8]])).astype(np.uint8)
    slow = [matrix[random.integers(4, size=4)][:, random.integers(50, size=50)].mean() for _ in range(4000)]
    fast = resample(matrix)
    assert fast.shape == (RESAMPLES,)
    assert abs(fast.mean() - np.mean(slow)) < 0.01  # 5 standard errors of 1,000 draws with deviation 0.07
    assert abs(fast.std() / np.std(slow) - 1) < 0.15


def test_pairing_makes_the_interval_of_a_difference_narrow() -> None:
    """Two models that agree on all but two of 200 examples: unpaired, ±0.07 would hide the difference of 0.01."""
    parent = np.tile(np.arange(200) % 2, (3, 1)).astype(np.uint8)
    candidate = parent.copy()
    candidate[:, [0, 2]] = 1
    (difference,) = compare(measured(a=candidate), measured(a=parent))
    assert difference.mean == pytest.approx(0.01) and difference.high - difference.low < 0.03


def test_every_task_counts_the_same_in_the_mean() -> None:
    small, large = np.ones((2, 2), dtype=np.uint8), np.zeros((2, 98), dtype=np.uint8)
    (mean,) = measured(a=small, b=large).scores.means
    assert (mean.mean, mean.examples, mean.per_seed, mean.task) == (0.5, 100, (0.5, 0.5), None)


def test_measurements_that_do_not_compare_are_refused() -> None:
    one = measured(a=np.ones((2, 3), dtype=np.uint8))
    other = Measurement(one.scores.model_copy(update={"suite": "6" * 64}), one.correct)
    with pytest.raises(RecordError, match="different suites"):
        compare(one, other)
    with pytest.raises(RecordError, match="different questions"):
        compare(one, Measurement(one.scores, {}))
