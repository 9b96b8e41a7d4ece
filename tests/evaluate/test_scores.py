"""Intervals hold their means, differences are paired, and the gate's floors are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hub_fusion.errors import RecordError
from hub_fusion.evaluate.gate import best_so_far, judge
from hub_fusion.evaluate.scores import RESAMPLES, Measurement, compare, resample, summarise
from hub_fusion.recipe import Gate
from hub_fusion.records import Index, IndexEntry, Role, Score, Scores, now

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


def scores(gate: float, *, suite: str = SUITE, **more: float) -> Scores:
    """Scores with a gate mean by probe, and by the protocols in `more`."""
    values = {"probe": gate, **more}
    common = {"task": None, "role": "gate", "examples": 9, "per_seed": ()}
    means = tuple(Score.model_construct(mean=v, low=v, high=v, protocol=p, **common) for p, v in values.items())
    return Scores.model_construct(suite=suite, weights_sha256=WEIGHTS, tasks=(), means=means, seconds=0.0)


@pytest.mark.parametrize(
    ("candidate", "parent", "best", "accepted"),
    [
        (0.48, 0.50, None, True),  # 0.50 − 0.02 > 0.48 in binary fractions
        (0.4799, 0.50, None, False),
        (0.90, 0.50, None, True),
        (0.76, 0.77, 0.80, True),  # exactly 2ε below the best
        (0.7599, 0.77, 0.80, False),
        (0.28, 0.30, 0.32, True),
    ],
)
def test_a_candidate_on_the_floor_passes_and_one_below_does_not(
    candidate: float, parent: float, best: float | None, accepted: bool
) -> None:
    verdict = judge(scores(candidate), scores(parent), best, Gate(epsilon=0.02), 0.5)
    assert verdict.accepted is accepted and verdict.step == 0.5 and verdict.tried == ((0.5, candidate),)
    assert verdict.best == (parent if best is None else best)
    assert f"{candidate:.4f}" in verdict.reason and f"{parent:.4f}" in verdict.reason


def test_the_allowed_loss_against_the_best_can_be_given() -> None:
    gate = Gate(epsilon=0.02, epsilon_best=0.0)
    assert judge(scores(0.80), scores(0.80), 0.80, gate, 1).accepted
    assert not judge(scores(0.79), scores(0.79), 0.80, gate, 1).accepted


def test_only_the_protocols_named_in_the_recipe_decide() -> None:
    candidate, parent = scores(0.1, fewshot=0.9), scores(0.8, fewshot=0.8)
    assert judge(candidate, parent, None, Gate(protocols=("fewshot",)), 1).accepted
    assert not judge(candidate, parent, None, Gate(protocols=("probe",)), 1).accepted
    assert judge(candidate, parent, None, Gate(), 1).candidate == pytest.approx(0.5)


def with_likelihoods(scores: Scores, **values: float) -> Scores:
    """The scores with gate means of log-likelihoods."""
    common = {"task": None, "role": "gate", "examples": 9, "per_seed": ()}
    apart = tuple(Score.model_construct(mean=v, low=v, high=v, protocol=p, **common) for p, v in values.items())
    return scores.model_copy(update={"likelihoods": apart})


def test_likelihoods_decide_only_where_they_are_named_or_perplexity_is_all_there_is() -> None:
    """LogME is a rough guide; and a mean of accuracies and nats would be a mean of nothing."""
    candidate, parent = with_likelihoods(scores(0.8), logme=-9, perplexity=-9), with_likelihoods(
        scores(0.8), logme=-1, perplexity=-3)  # fmt: skip
    assert judge(candidate, parent, None, Gate(), 1).accepted
    assert not judge(candidate, parent, None, Gate(protocols=("logme",)), 1).accepted
    nothing = Scores(suite=SUITE, weights_sha256=WEIGHTS)
    worse, better = (with_likelihoods(nothing, perplexity=v, logme=0.0) for v in (-3.03, -3.0))
    assert not judge(worse, better, None, Gate(epsilon=0.02), 1).accepted
    assert judge(better, worse, None, Gate(epsilon=0.0, require_tasks=False), 1).candidate == -3.0
    assert judge(worse, better, None, Gate(epsilon=0.04), 1).accepted
    with pytest.raises(RecordError, match="no score"):
        judge(with_likelihoods(nothing, logme=0.0), with_likelihoods(nothing, logme=0.0), None, Gate(), 1)


def test_the_best_generation_by_likelihood_is_sought_among_likelihoods() -> None:
    parent = with_likelihoods(Scores(suite=SUITE, weights_sha256=WEIGHTS), perplexity=-3.0)
    entries = tuple(
        IndexEntry(id=str(n), status="published", generation=n, created_at=now(), suite=SUITE,
                   likelihoods=with_likelihoods(parent, perplexity=value).likelihoods)
        for n, value in enumerate((-3.5, -2.9, -3.0))
    )  # fmt: skip
    index = Index(base="a/b", updated_at=now(), entries=entries)
    assert best_so_far(index, parent, Gate()) == -2.9


@pytest.mark.parametrize("damaged", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_never_pass(damaged: float) -> None:
    for arguments in [
        (scores(damaged), scores(0.5), None),
        (scores(0.5), scores(damaged), 0.5),
        (scores(0.5), scores(0.5), damaged),
    ]:
        with pytest.raises(RecordError, match="must be finite"):
            judge(*arguments, Gate(), 1)


def test_what_was_not_measured_cannot_be_judged() -> None:
    empty = Scores(suite=SUITE, weights_sha256=WEIGHTS)
    with pytest.raises(RecordError, match="no score with role 'gate'"):
        judge(empty, empty, None, Gate(), 1)
    with pytest.raises(RecordError, match="fewshot"):
        judge(scores(0.5), scores(0.5), None, Gate(protocols=("fewshot",)), 1)
    with pytest.raises(RecordError, match="different suites"):
        judge(scores(0.5), scores(0.5, suite="6" * 64), None, Gate(), 1)


def test_nothing_measured_passes_only_where_the_recipe_says_so() -> None:
    empty = Scores(suite=SUITE, weights_sha256=WEIGHTS)
    verdict = judge(empty, empty, None, Gate(require_tasks=False), 1)
    assert verdict.accepted and "without a measurement" in verdict.reason
    assert not judge(scores(0.1), scores(0.5), None, Gate(require_tasks=False), 1).accepted


def test_the_best_generation_is_sought_among_those_of_the_same_suite() -> None:
    def entry(generation: int, mean: float, suite: str = SUITE, role: Role = "gate") -> IndexEntry:
        score = Score(mean=mean, low=mean, high=mean, role=role, protocol="probe", examples=9)
        return IndexEntry(id=str(generation), status="published", generation=generation, created_at=now(),
                          scores=(score,), suite=suite)  # fmt: skip

    entries = (
        entry(0, 0.5),
        entry(1, 0.7),
        entry(2, 0.6),
        entry(3, 0.9, suite="6" * 64),
        entry(4, 0.95, role="report"),
    )
    index = Index(base="a/b", updated_at=now(), entries=entries)
    assert best_so_far(index, scores(0.6), Gate()) == 0.7
    assert best_so_far(index, scores(0.6, fewshot=0.6), Gate()) is None
    assert best_so_far(index.model_copy(update={"entries": ()}), scores(0.6), Gate()) is None
