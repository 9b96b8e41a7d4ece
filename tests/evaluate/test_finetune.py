"""Full finetuning stops when it no longer gains, by examples that are never tested on, and keeps the best model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hub_fusion.evaluate.fewshot import finetune, predict
from hub_fusion.evaluate.models import load_classifier, load_encode
from hub_fusion.evaluate.stopping import Watch, split_dev
from hub_fusion.evaluate.suite import measure
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import EarlyStopping, FewShot, Finetune, Task, Training

from .conftest import settings

A = "a" * 64


@given(st.integers(2, 500), st.floats(0.001, 0.999), st.integers(1, 100), st.integers(0, 5))
def test_the_split_takes_every_example_once_and_leaves_some_on_either_side(
    examples: int, share: float, at_most: int, seed: int
) -> None:
    stop = EarlyStopping(share=share, at_most=at_most)
    rows, held = split_dev(examples, stop, seed)
    assert sorted([*rows, *held]) == list(range(examples)) and len(rows) and 1 <= len(held) <= at_most
    assert all(np.array_equal(a, b) for a, b in zip(split_dev(examples, stop, seed), (rows, held), strict=True))


def watched(accuracies: list[float], every: int | None = None, **stop: float) -> tuple[list[int], float, int]:
    """Shown examples at each look, the weight of the model that is restored, and where training stopped."""
    model, looks = torch.nn.Linear(1, 1), []
    now = iter(accuracies)

    def accuracy() -> float:
        looks.append(shown)
        return next(now)

    watch = Watch(EarlyStopping(every=every, **stop), 100, accuracy)  # type: ignore[arg-type]
    for shown in range(10, 10 * 100, 10):
        torch.nn.init.constant_(model.weight, shown)
        if watch.enough(model, shown):
            break
    watch.restore(model)
    return looks, float(model.weight.detach()), shown


def test_training_ends_after_as_many_looks_without_gain_as_patience_has() -> None:
    looks, restored, end = watched([0.5, 0.7, 0.69, 0.7, 0.6, 0.9], patience=3, min_gain=0.01)
    assert (looks, restored, end) == ([100, 200, 300, 400, 500], 200, 500)


def test_a_gain_below_the_least_one_does_not_prolong_training_but_its_model_is_kept() -> None:
    """Creeping upwards adds up: three steps of 0.4 are a gain of 1.2 over the look that counted last."""
    assert watched([0.5, 0.504, 0.508, 0.9], patience=2, min_gain=0.01) == ([100, 200, 300], 300, 300)
    assert watched([0.5, 0.504, 0.508, 0.512, 0.4, 0.4, 0.4], patience=3, min_gain=0.01)[0][-1] == 700


def test_looks_come_at_the_distance_that_was_asked_for() -> None:
    """Batches need not divide it: with tens and 25 asked for, looks come at the first batch beyond."""
    assert watched([0.1] * 5, every=25, patience=4)[0] == [30, 50, 80, 100, 130]


def test_the_best_model_is_restored_and_the_random_state_is_left_alone(images: Path, vit: Path) -> None:
    """With a learning rate that destroys the model later on: what is returned is what was best at a look."""
    task = load_task(Task(name="t", path=images), max_test=30)
    encode = load_encode(vit, task, max_length=16)
    stop = EarlyStopping(share=0.3, every=8, patience=50)
    asked = Training(examples=40, epochs=12, batch_size=4, learning_rate=3e-2, stop=stop)
    _, held = split_dev(len(task.train), stop, 3)
    dev = task.train.take(held)
    best = 0.0
    model = load_classifier(vit, task, seed=3)
    before = torch.get_rng_state()
    shown = finetune(model, encode, task.train, asked, seed=3)
    assert torch.equal(torch.get_rng_state(), before) and shown == 12 * 28
    kept = float((predict(model, encode, dev.inputs) == dev.labels).mean())
    for epochs in range(1, 13):  # the same steps again, stopped elsewhere, would have another schedule; so by hand
        short = asked.model_copy(update={"stop": stop.model_copy(update={"every": 28 * epochs})})
        other = load_classifier(vit, task, seed=3)
        finetune(other, encode, task.train, short, seed=3)
        best = max(best, float((predict(other, encode, dev.inputs) == dev.labels).mean()))
    assert kept >= best - 1e-9


def test_early_stopping_shows_fewer_examples_and_says_so(images: Path, vit: Path) -> None:
    task = load_task(Task(name="t", path=images), max_test=30)
    encode = load_encode(vit, task, max_length=16)
    stop = EarlyStopping(share=0.25, patience=2, min_gain=1.0)
    asked = Training(epochs=50, batch_size=10, learning_rate=1e-3, stop=stop)
    model = load_classifier(vit, task, seed=0)
    assert finetune(model, encode, task.train, asked, seed=0) == 3 * 30  # the first look is a gain over nothing


def test_few_shot_trains_to_the_end_unless_asked_otherwise(images: Path, vit: Path) -> None:
    """Its scores are those that it had before it could stop."""
    assert FewShot().stop is None and Finetune().stop is not None
    stopped = {"examples": 20, "epochs": 30, "learning_rate": 1e-3, "stop": {"patience": 1, "min_gain": 1.0}}
    scores = measure(vit, settings(images, probe=None, fewshot=stopped), weights_sha256=A).scores
    assert {s.shown for s in scores.tasks} == {2 * 2 * 18}


def test_full_finetuning_is_measured_with_seeds_and_costs_of_its_own(images: Path, vit: Path) -> None:
    """On all 40 examples it learns what 12 do not teach."""
    full = {"epochs": 15, "batch_size": 8, "learning_rate": 3e-3, "seeds": 3, "stop": {"patience": 15}}
    measurement = measure(vit, settings(images, probe=None, finetune=full), weights_sha256=A)
    assert measurement.correct["quadrants", "gate", "finetune"].shape == (3, 30)
    assert measurement.correct["quadrants", "gate", "fewshot"].shape == (2, 30)
    scores = {s.protocol: s for s in measurement.scores.means if s.role == "gate"}
    assert scores["finetune"].shown == 3 * 15 * 36 and scores["finetune"].seconds > 0
    assert scores["finetune"].mean > scores["fewshot"].mean


def test_no_more_examples_are_used_than_asked_for(images: Path, vit: Path) -> None:
    few = {"examples": 10, "epochs": 1, "stop": None}
    measurement = measure(vit, settings(images, probe=None, fewshot=None, finetune=few), weights_sha256=A)
    assert {s.shown for s in measurement.scores.tasks} == {20}


@pytest.mark.parametrize("wrong", [{"share": 0}, {"share": 1}, {"patience": 0}, {"every": 0}, {"min_gain": -1}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EarlyStopping.model_validate(wrong)
