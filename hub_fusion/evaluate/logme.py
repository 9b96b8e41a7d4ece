"""LogME: how well a linear model on the frozen body's features explains the labels, without training one.

The log of the evidence (marginal likelihood) of Bayesian linear regression onto each class's indicator, maximised over
the two precisions, per example (You et al. 2021, arXiv 2102.11005; by the fixed point of its successor, arXiv
2110.10545). Larger is better; it is a log-likelihood, no accuracy, and has no right and wrong answers: one number for
each choice of examples. Scores compare only on the same examples. Cheap enough to rank many candidates by; it says
less than the probe, and the gate never decides by it unless the recipe names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hub_fusion.evaluate.features import FeatureStore, task_features
from hub_fusion.evaluate.probe import choose_subset
from hub_fusion.evaluate.tasks import TaskData
from hub_fusion.recipe import Probe
from hub_fusion.records import Role

SMOOTHING = 1e-5  # in both denominators, as in the authors' code
ITERATIONS, TOLERANCE = 11, 1e-3


def run_logme(
    folder: Path, task: TaskData, settings: Probe, seeds: Sequence[int], max_length: int, *,
    device: str = "cpu", progress: Callable[[str], None] | None = None, store: FeatureStore | None = None,
    count: Callable[[int], object] = lambda _: None,
) -> dict[Role, np.ndarray[Any, Any]]:  # fmt: skip
    """Per test part a matrix (seeds, 1) float64, the same for all parts: LogME of the training examples of that seed.

    Test examples are not looked at. Features that are not finite explain nothing, as if all were 0.
    """
    if progress:
        progress(f"LogME on {task.name}")
    subsets = [choose_subset(task.train.labels, settings.examples, seed) for seed in seeds]
    used = np.unique(np.concatenate(subsets))
    inputs = {"train": task.train.inputs[used]}
    features = task_features(
        folder, task, inputs, settings.pooling, max_length, device=device, store=store, progress=progress
    )["train"]
    values = [log_evidence(features[np.searchsorted(used, rows)], task.train.labels[rows]) for rows in subsets]
    count(sum(map(len, subsets)))
    return {role: np.array(values)[:, None] for role in task.parts}


def log_evidence(features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """LogME of `features` (n, hidden) and `labels` (n,) of whole numbers: the mean over the classes that occur.

    With singular values σ½ of the features, x the indicator in their basis, α and β the precisions of weights and
    noise and t = α/β, repeat γ = Σσ/(t+σ), α = γ/m², β = (n−γ)/r², where m² and r² are the squared lengths of the
    weights' mean and of the residual. The authors' newer code leaves −½(hidden−n)·log α out where hidden > n; here it
    is in, as in their older code and in the evidence itself. Example: features of zeros, or that are not finite,
    explain nothing, and give −½(1 + log π) ≈ −1.0724 for two labels that are equally frequent.
    """
    features = np.asarray(features, dtype=np.float64)
    if not np.isfinite(features).all():
        features = np.zeros_like(features)
    n = len(features)
    basis, roots, _ = np.linalg.svd(features, full_matrices=False)
    kept = roots > roots.max(initial=0.0) * max(features.shape) * np.finfo(np.float64).eps
    basis, sigma = basis[:, kept], roots[kept] ** 2
    return float(np.mean([_of_class(basis, sigma, labels == label, n) for label in np.unique(labels)]))


def _of_class(
    basis: np.ndarray[Any, Any], sigma: np.ndarray[Any, Any], indicator: np.ndarray[Any, Any], n: int
) -> float:
    y = indicator.astype(np.float64)
    x2 = (basis.T @ y) ** 2
    beyond = max(float(y @ y - x2.sum()), 0.0)  # of the indicator, what no weights could reach
    t = 1.0
    for _ in range(ITERATIONS):
        gamma = float((sigma / (t + sigma)).sum())
        m2 = float((sigma * x2 / (t + sigma) ** 2).sum())
        r2 = float((x2 * (t / (t + sigma)) ** 2).sum()) + beyond
        alpha, beta = gamma / (m2 + SMOOTHING), (n - gamma) / (r2 + SMOOTHING)
        before, t = t, alpha / beta
        if abs(t - before) <= TOLERANCE * before:
            break
    # log α comes hidden/2 times from the weights' prior and goes once for each singular value that is 0
    log_determinant = float(np.log1p(sigma / t).sum()) if len(sigma) else 0.0
    return (n * np.log(beta / (2 * np.pi)) - log_determinant - beta * r2 - alpha * m2) / (2 * n)
