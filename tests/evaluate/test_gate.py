"""Margins are exact, certain losses are rejected, noise is not, and every rule is told with its numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.errors import RecordError
from hub_fusion.evaluate.gate import Rival, find_rivals, judge
from hub_fusion.evaluate.paired import pair, smallest_noticed_drop
from hub_fusion.evaluate.scores import Key, Measurement, summarise
from hub_fusion.recipe import Gate
from hub_fusion.records import Estimate, Index, IndexEntry, Role, Score, Scores, Verdict, now

SUITE, WEIGHTS = "5" * 64, "7" * 64


def told(gate: float, *, suite: str = SUITE, **more: float) -> Measurement:
    """A gate mean by probe, and by the protocols in `more`; the answers behind it are not at hand."""
    values = {"probe": gate, **more}
    common = {"task": None, "role": "gate", "examples": 9, "per_seed": ()}
    means = tuple(Score.model_construct(mean=v, low=v, high=v, protocol=p, **common) for p, v in values.items())
    return Measurement(
        Scores.model_construct(suite=suite, weights_sha256=WEIGHTS, tasks=(), means=means, seconds=0.0), {}
    )


def answered(**tasks: np.ndarray) -> Measurement:
    """Answers to gate tasks by probe, (seeds, examples)."""
    correct: dict[Key, np.ndarray] = {(task, "gate", "probe"): matrix for task, matrix in tasks.items()}
    return Measurement(summarise(correct, suite=SUITE, weights_sha256=WEIGHTS), correct)


def bare(**tasks: np.ndarray) -> Measurement:
    """The same without any scores, which take most of the time."""
    correct: dict[Key, np.ndarray] = {(task, "gate", "probe"): matrix for task, matrix in tasks.items()}
    return Measurement(Scores(suite=SUITE, weights_sha256=WEIGHTS), correct)


def noisy(level: float, examples: int, seed: int = 0, seeds: int = 5) -> np.ndarray:
    """Answers of which about `level` are right."""
    return (np.random.default_rng(seed).random((seeds, examples)) < level).astype(np.uint8)


def worse(answers: np.ndarray, lost: int) -> np.ndarray:
    """The same answers, of which the first `lost` examples are wrong in every seed."""
    found = answers.copy()
    found[:, :lost] = 0
    return found


def rules(verdict: Verdict) -> dict[str, bool]:
    return {rule.task or rule.name: rule.passed for rule in verdict.rules}


def against_best(mean: float | None) -> list[Rival]:
    return [] if mean is None else [Rival("best", "gen-1", mean)]


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
@pytest.mark.parametrize("test", ["means", "significance", "noninferiority"])
def test_a_candidate_on_the_margin_passes_and_one_below_does_not(
    test: str, candidate: float, parent: float, best: float | None, accepted: bool
) -> None:
    """Where only means are at hand, all tests are the same."""
    gate = Gate.model_validate({"epsilon": 0.02, "test": test})
    verdict = judge(told(candidate), told(parent), gate, 0.5, rivals=against_best(best))
    assert verdict.accepted is accepted and verdict.step == 0.5 and verdict.tried == ((0.5, candidate),)
    assert verdict.best == (parent if best is None else best) and verdict.test == test
    assert f"{candidate:.4f}" in verdict.reason and f"{parent:.4f}" in verdict.reason


def test_the_allowed_losses_against_the_best_and_gen_0_can_be_given() -> None:
    gate = Gate(epsilon=0.02, epsilon_best=0.0)
    assert judge(told(0.80), told(0.80), gate, 1, rivals=against_best(0.80)).accepted
    assert not judge(told(0.79), told(0.79), gate, 1, rivals=against_best(0.80)).accepted
    root = [Rival("root", "gen-0", 0.80)]
    assert judge(told(0.78), told(0.78), Gate(epsilon=0.02), 1, rivals=root).accepted
    verdict = judge(told(0.77), told(0.77), Gate(epsilon=0.02), 1, rivals=root)
    assert not verdict.accepted and "too much lost against gen-0: -0.0300 (allowed −0.02)" in verdict.reason
    assert judge(told(0.77), told(0.77), Gate(epsilon=0.02, epsilon_root=0.03), 1, rivals=root).accepted


def test_a_certain_loss_is_rejected_however_small_and_noise_is_not() -> None:
    """1 % of 1,000 examples lost and nothing won: within ε, and certain. As many won elsewhere: noise."""
    parent = noisy(0.8, 1000)
    sure = worse(parent, 12)
    verdict = judge(answered(a=sure), answered(a=parent), Gate(), 1)
    rule = verdict.rules[0]
    assert not verdict.accepted and rule.high is not None and rule.high < 0 and rule.change > -rule.allowed
    assert "certainly worse than the parent: " in verdict.reason and f"{rule.change:+.4f}" in verdict.reason
    assert judge(answered(a=sure), answered(a=parent), Gate(test="means"), 1).accepted
    mixed = sure.copy()
    mixed[:, -40:] = 1  # of which four in five were right already
    assert judge(answered(a=mixed), answered(a=parent), Gate(), 1).accepted


def test_a_small_suite_rejects_nothing_for_its_noise_unless_it_is_asked_to() -> None:
    """40 examples cannot tell a loss of half a point from none; only non-inferiority wants proof."""
    parent, candidate = noisy(0.7, 40, 1), noisy(0.7, 40, 2)
    change = pair(answered(a=candidate), answered(a=parent))
    assert change is not None and change.mean.low < -0.05
    assert judge(answered(a=candidate), answered(a=parent), Gate(epsilon=0.05), 1).accepted
    strict = Gate(epsilon=0.05, test="noninferiority")
    verdict = judge(answered(a=candidate), answered(a=parent), strict, 1)
    assert not verdict.accepted and "perhaps too much lost" in verdict.reason
    assert judge(answered(a=parent), answered(a=parent), strict, 1).accepted


def test_one_task_that_collapsed_is_not_hidden_by_the_mean() -> None:
    parent = {name: noisy(0.5, 300, seed) for seed, name in enumerate("abcd")}
    better = {name: np.maximum(matrix, noisy(0.2, 300, 9)) for name, matrix in parent.items()}
    candidate = better | {"c": worse(parent["c"], 60)}
    verdict = judge(answered(**candidate), answered(**parent), Gate(), 1)
    assert verdict.candidate > verdict.parent and not verdict.accepted
    assert rules(verdict) == {"parent": True, "best": True, "a": True, "b": True, "c": False, "d": True}
    assert "too much lost against task c" in verdict.reason
    assert judge(answered(**candidate), answered(**parent), Gate(delta=None), 1).accepted


@pytest.mark.parametrize("tasks", [1, 20])
def test_noise_seldom_looks_like_a_lost_task_however_many_tasks_there_are(tasks: int) -> None:
    """Some task of an equal candidate is always the unluckiest; with single intervals 4 in 10 would be rejected."""
    certain = 0
    for turn in range(40):
        one, other = (
            bare(**{f"t{n}": noisy(0.6, 30, 1000 * turn + 2 * n + which, 2) for n in range(tasks)}) for which in (0, 1)
        )
        found = pair(one, other)
        assert found is not None
        certain += any(change.high < 0 for change in found.tasks.values())
    assert certain <= 5  # 1 expected; more than 5 has a chance of one in a thousand


def test_against_the_best_certainty_alone_does_not_reject() -> None:
    """The best of many generations is partly luck; held to it without a margin, a loop at its end would stop."""
    parent = noisy(0.8, 1000)
    lucky = np.maximum(parent, noisy(0.1, 1000, 3))
    best = Rival("best", "gen-4", float(lucky.mean()), answered(a=lucky))
    verdict = judge(answered(a=parent), answered(a=parent), Gate(), 1, rivals=[best])
    rule = verdict.rules[1]
    assert verdict.accepted and rule.against == "gen-4" and rule.high is not None and rule.high < 0
    assert not judge(answered(a=parent), answered(a=parent), Gate(epsilon_best=0.01), 1, rivals=[best]).accepted


def test_only_the_protocols_named_in_the_recipe_decide() -> None:
    candidate, parent = told(0.1, fewshot=0.9), told(0.8, fewshot=0.8)
    assert judge(candidate, parent, Gate(protocols=("fewshot",)), 1).accepted
    assert not judge(candidate, parent, Gate(protocols=("probe",)), 1).accepted
    assert judge(candidate, parent, Gate(), 1).candidate == pytest.approx(0.5)


def test_report_tasks_never_decide() -> None:
    matrix = noisy(0.9, 200)
    parent, candidate = ({("a", "gate", "probe"): matrix, ("a", "report", "probe"): m} for m in (matrix, 0 * matrix))
    one, other = (Measurement(summarise(c, suite=SUITE, weights_sha256=WEIGHTS), c) for c in (candidate, parent))
    assert judge(one, other, Gate(), 1).accepted


@pytest.mark.parametrize("damaged", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_never_pass(damaged: float) -> None:
    for candidate, parent, best in [(damaged, 0.5, None), (0.5, damaged, 0.5), (0.5, 0.5, damaged)]:
        with pytest.raises(RecordError, match="must be finite"):
            judge(told(candidate), told(parent), Gate(), 1, rivals=against_best(best))


def test_what_was_not_measured_cannot_be_judged() -> None:
    empty = Measurement(Scores(suite=SUITE, weights_sha256=WEIGHTS), {})
    with pytest.raises(RecordError, match="no score with role 'gate'"):
        judge(empty, empty, Gate(), 1)
    with pytest.raises(RecordError, match="fewshot"):
        judge(told(0.5), told(0.5), Gate(protocols=("fewshot",)), 1)
    with pytest.raises(RecordError, match="different suites"):
        judge(told(0.5), told(0.5, suite="6" * 64), Gate(), 1)
    with pytest.raises(RecordError, match="different questions"):
        judge(answered(a=noisy(0.5, 9)), answered(b=noisy(0.5, 9)), Gate(), 1)


def test_nothing_measured_passes_only_where_the_recipe_says_so() -> None:
    empty = Measurement(Scores(suite=SUITE, weights_sha256=WEIGHTS), {})
    verdict = judge(empty, empty, Gate(require_tasks=False), 1)
    assert verdict.accepted and "without a measurement" in verdict.reason
    assert not judge(told(0.1), told(0.5), Gate(require_tasks=False), 1).accepted


def test_rivals_are_sought_among_those_of_the_same_suite_that_were_not_withdrawn() -> None:
    def entry(generation: int, mean: float, suite: str = SUITE, role: Role = "gate", **more: str) -> IndexEntry:
        score = Score(mean=mean, low=mean, high=mean, role=role, protocol="probe", examples=9)
        data = {"id": str(generation), "status": "published", "generation": generation, "created_at": now()}
        return IndexEntry.model_validate(data | {"scores": (score,), "suite": suite} | more)

    entries = (
        entry(0, 0.5),
        entry(1, 0.7),
        entry(2, 0.6),
        entry(3, 0.9, suite="6" * 64),
        entry(4, 0.95, role="report"),
        entry(5, 0.99, status="yanked"),
    )
    index = Index(base="a/b", updated_at=now(), entries=entries)
    parent = told(0.6).scores
    assert [(r.name, r.tag, r.mean) for r in find_rivals(index, parent, Gate())] == [
        ("root", "gen-0", 0.5), ("best", "gen-1", 0.7)
    ]  # fmt: skip
    assert find_rivals(index, told(0.6, fewshot=0.6).scores, Gate()) == []
    assert find_rivals(index.model_copy(update={"entries": ()}), parent, Gate()) == []


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 2**32))
def test_a_checkpoint_always_passes_against_itself(tasks: int, examples: int, seed: int) -> None:
    model = answered(**{f"t{n}": noisy(0.5, examples, seed + n, 2) for n in range(tasks)})
    for test in ("means", "significance", "noninferiority"):
        gate = Gate.model_validate({"epsilon": 0, "epsilon_best": 0, "delta": 0, "test": test})
        assert judge(model, model, gate, 1, rivals=[Rival("root", "gen-0", model.scores.mean("gate"), model)]).accepted


def test_the_smallest_noticed_drop_is_noticed_in_four_of_five_cases() -> None:
    """The figure is checked against the rule itself: drops of that size, on top of the noise of a retraining."""
    random = np.random.default_rng(5)
    hard = random.uniform(-0.3, 0.3, 200)  # how hard an example is: what both find hard is no noise

    def draw(level: float) -> Measurement:
        return bare(a=(random.random((5, 200)) < level + hard).astype(np.uint8))

    def change(drop: float) -> Estimate:
        found = pair(draw(0.6 - drop), draw(0.6))
        assert found is not None
        return found.mean

    drop = float(np.mean([smallest_noticed_drop(change(0)) for _ in range(10)]))
    assert 0.02 < drop < 0.1
    noticed = sum(change(drop).high < 0 for _ in range(60))
    assert 38 <= noticed <= 58  # 48 expected, with a standard deviation of 3
    assert smallest_noticed_drop(change(0), epsilon=0.001) < drop


def by_likelihood(accuracies: dict[str, float], **values: float) -> Measurement:
    """Gate means of accuracies, and of log-likelihoods."""
    common = {"task": None, "role": "gate", "examples": 9, "per_seed": ()}
    apart = tuple(Score.model_construct(mean=v, low=v, high=v, protocol=p, **common) for p, v in values.items())
    scores = told(**accuracies).scores if accuracies else Scores(suite=SUITE, weights_sha256=WEIGHTS)
    return Measurement(scores.model_copy(update={"likelihoods": apart}), {})


def test_likelihoods_decide_only_where_they_are_named_or_perplexity_is_all_there_is() -> None:
    """LogME is a rough guide; and a mean of accuracies and nats would be a mean of nothing."""
    candidate, parent = (by_likelihood({"gate": 0.8}, logme=one, perplexity=two) for one, two in ((-9, -9), (-1, -3)))
    assert judge(candidate, parent, Gate(), 1).accepted
    assert not judge(candidate, parent, Gate(protocols=("logme",)), 1).accepted
    worse, better = (by_likelihood({}, perplexity=v, logme=0.0) for v in (-3.03, -3.0))
    assert not judge(worse, better, Gate(epsilon=0.02), 1).accepted
    assert judge(better, worse, Gate(epsilon=0.0, require_tasks=False), 1).candidate == -3.0
    assert judge(worse, better, Gate(epsilon=0.04), 1).accepted
    with pytest.raises(RecordError, match="no score"):
        judge(by_likelihood({}, logme=0.0), by_likelihood({}, logme=0.0), Gate(), 1)


def test_rivals_by_likelihood_are_sought_among_likelihoods() -> None:
    parent = by_likelihood({}, perplexity=-3.0).scores
    entries = tuple(
        IndexEntry(id=str(n), status="published", generation=n, created_at=now(), suite=SUITE,
                   likelihoods=by_likelihood({}, perplexity=value).scores.likelihoods)
        for n, value in enumerate((-3.5, -2.9, -3.0))
    )  # fmt: skip
    index = Index(base="a/b", updated_at=now(), entries=entries)
    assert [(r.tag, r.mean) for r in find_rivals(index, parent, Gate())] == [("gen-0", -3.5), ("gen-1", -2.9)]


def test_log_likelihoods_are_paired_like_answers() -> None:
    """A loss of 0.03 nats per token in every window is certain, though windows differ by far more."""
    losses = -3 + np.random.default_rng(0).normal(0, 0.5, (1, 100))
    key: Key = ("t", "gate", "perplexity")

    def of(matrix: np.ndarray) -> Measurement:
        return Measurement(summarise({key: matrix}, suite=SUITE, weights_sha256=WEIGHTS), {}, {key: matrix})

    verdict = judge(of(losses - 0.01), of(losses), Gate(), 1)
    assert not verdict.accepted and verdict.rules[0].high == pytest.approx(-0.01)
    assert judge(of(losses), of(losses), Gate(), 1).accepted
