"""Linear probe: how much of a task can be read off the frozen body ("ColD-Frozen", arXiv 2212.01378, section 4).

Features are, unless the recipe asks for the first or last token, the mean over the tokens of the last hidden state, for
text over the attended ones, for images over all (a class token included); they are standardised and go into a logistic
regression. What the probe does not see: whether
the body is easy to *finetune*, which is what `fewshot` is for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hub_fusion.evaluate.features import FeatureStore, task_features
from hub_fusion.evaluate.tasks import TaskData
from hub_fusion.recipe import Probe
from hub_fusion.records import Role


def choose_subset(labels: np.ndarray[Any, Any], examples: int, seed: int) -> np.ndarray[Any, Any]:
    """Rows of at most `examples` training examples, classes as balanced as `labels` (n,) allow, in random order.

    Depends on the arguments alone: every checkpoint learns from the same examples. Labels [0, 0, 0, 1] with two
    examples give row 3 and one of rows 0, 1, 2.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    turn = np.zeros(len(labels), dtype=np.int64)  # the how-manieth of its class an example is, in random order
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turn[mine] = np.arange(len(mine))
    chosen = order[np.argsort(turn[order], kind="stable")][:examples]
    return random.permutation(chosen)


def run_probe(
    folder: Path, task: TaskData, settings: Probe, seeds: Sequence[int], max_length: int, *,
    device: str = "cpu", progress: Callable[[str], None] | None = None, store: FeatureStore | None = None,
    count: Callable[[int], object] = lambda _: None,
) -> dict[Role, np.ndarray[Any, Any]]:  # fmt: skip
    """Per test part a matrix (seeds, examples) uint8: 1 where the probe trained with that seed is right.

    A seed chooses the training examples; with fewer in the pool than `settings.examples`, all seeds agree. A body that
    gives numbers that are not finite is right nowhere. `store` keeps features, `count` hears of examples shown.
    """
    if progress:
        progress(f"probe on {task.name}")
    subsets = [choose_subset(task.train.labels, settings.examples, seed) for seed in seeds]
    used = np.unique(np.concatenate(subsets))
    inputs = {"train": task.train.inputs[used]} | {f"test-{role}": part.inputs for role, part in task.parts.items()}
    vectors = task_features(
        folder, task, inputs, settings.pooling, max_length, device=device, store=store, progress=progress
    )
    count(sum(map(len, subsets)))
    correct = {role: np.zeros((len(seeds), len(part)), dtype=np.uint8) for role, part in task.parts.items()}
    if not all(np.isfinite(values).all() for values in vectors.values()):
        return correct
    for row, subset in enumerate(subsets):
        predict = fit_probe(vectors["train"][np.searchsorted(used, subset)], task.train.labels[subset])
        for role, part in task.parts.items():
            correct[role][row] = predict(vectors[f"test-{role}"]) == part.labels
    return correct


def fit_probe(
    features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Features → labels, by scikit-learn's logistic regression (lbfgs, C = 1) on standardised features."""
    predict: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = _fit(features, labels).predict
    return predict


def fit_log_probabilities(
    features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """The same regression: features → log-probabilities (n, labels), a column for each of the sorted labels."""
    score: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = _fit(features, labels).predict_log_proba
    return score


def _fit(features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an optimiser that stops at its limit still predicts
        model.fit(features, labels)
    return model
