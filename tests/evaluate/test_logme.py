"""LogME is the evidence that it says it is, and degenerate features have one too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from hub_fusion.evaluate.logme import log_evidence


def made(n: int, hidden: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features that tell something of their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return random.normal(size=(n, hidden)) + labels[:, None] * random.normal(size=hidden), labels


def by_the_formula(features: np.ndarray, labels: np.ndarray) -> tuple[float, list[tuple[float, float]]]:
    """Evidence and (α, β) of each class by the published recursion over matrices, without any decomposition.

    A = αI + βFᵀF, m = βA⁻¹Fᵀy; log evidence as in arXiv 2102.11005, equation 2.
    """
    n, hidden = features.shape
    evidences, precisions = [], []
    for label in range(labels.max() + 1):
        y = (labels == label).astype(float)
        alpha = beta = 1.0
        for _ in range(11):
            a = alpha * np.eye(hidden) + beta * features.T @ features
            m = beta * np.linalg.solve(a, features.T @ y)
            gamma = hidden - alpha * np.trace(np.linalg.inv(a))
            m2, r2 = m @ m, ((y - features @ m) ** 2).sum()
            before = alpha / beta
            alpha, beta = gamma / (m2 + 1e-5), (n - gamma) / (r2 + 1e-5)
            if abs(alpha / beta - before) / before <= 1e-3:
                break
        determinant = np.linalg.slogdet(alpha * np.eye(hidden) + beta * features.T @ features)[1]
        evidence = hidden / 2 * np.log(alpha) + n / 2 * np.log(beta) - determinant / 2
        evidences.append((evidence - beta / 2 * r2 - alpha / 2 * m2 - n / 2 * np.log(2 * np.pi)) / n)
        precisions.append((alpha, beta))
    return float(np.mean(evidences)), precisions


@pytest.mark.parametrize(("n", "hidden"), [(60, 8), (30, 30), (20, 50), (7, 1)])
def test_it_equals_the_published_recursion(n: int, hidden: int) -> None:
    """Also with more features than examples, where the authors' newer code leaves a term out."""
    features, labels = made(n, hidden)
    assert log_evidence(features, labels) == pytest.approx(by_the_formula(features, labels)[0], abs=1e-6)


@pytest.mark.parametrize(("n", "hidden"), [(60, 8), (20, 50)])
def test_it_is_the_likelihood_of_the_labels_under_the_model(n: int, hidden: int) -> None:
    """y ~ N(0, I/β + FFᵀ/α). Where the recursion has not quite converged the two differ a little."""
    features, labels = made(n, hidden)
    precisions = by_the_formula(features, labels)[1]
    densities = [
        multivariate_normal.logpdf((labels == k).astype(float), cov=np.eye(n) / beta + features @ features.T / alpha)
        / n
        for k, (alpha, beta) in enumerate(precisions)
    ]
    assert log_evidence(features, labels) == pytest.approx(np.mean(densities), abs=5e-3)


def test_features_that_tell_nothing_give_the_evidence_of_noise_alone() -> None:
    """By hand: β = n/|y|² = 2, so ½(log 2/2π − 1) for each of two equally frequent labels."""
    labels = np.array([0, 1] * 20)
    expected = -(1 + math.log(math.pi)) / 2
    assert log_evidence(np.zeros((40, 5)), labels) == pytest.approx(expected, abs=1e-5)
    assert log_evidence(np.full((40, 5), np.nan), labels) == pytest.approx(expected, abs=1e-5)


def test_features_that_tell_more_have_more_evidence() -> None:
    features, labels = made(200, 10)
    noise = np.random.default_rng(1).permutation(features)
    assert log_evidence(features, labels) > log_evidence(noise, labels) + 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_features_of_any_size_and_shape_have_a_finite_evidence(scale: float) -> None:
    """Constant columns, columns twice, one example of a class, one class only, far more columns than examples."""
    features, labels = made(24, 6)
    cases = [
        (np.ones((24, 6)), labels),
        (np.hstack([features, features]), labels),
        (features, np.zeros(24, dtype=int)),
        (features, np.array([1] + [0] * 23)),
        (features[:2], labels[:2]),
        (np.repeat(features, 100, axis=1), labels),
        (np.eye(24)[:, :6], labels),
    ]
    for values, of in cases:
        assert math.isfinite(log_evidence(values * scale, of))


def test_rotating_features_or_adding_columns_of_zeros_changes_nothing() -> None:
    features, labels = made(50, 6)
    turned = features @ np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    expected = log_evidence(features, labels)
    assert log_evidence(turned, labels) == pytest.approx(expected, abs=1e-9)
    assert log_evidence(np.hstack([features, np.zeros((50, 3))]), labels) == pytest.approx(expected, abs=1e-9)


def test_a_class_that_does_not_occur_does_not_count() -> None:
    """A seed's choice may miss a rare label; the evidence of no examples at all would be huge."""
    features, labels = made(40, 5, classes=2)
    assert log_evidence(features, labels * 7) == pytest.approx(log_evidence(features, labels), abs=1e-12)
