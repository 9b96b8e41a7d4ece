"""Weights for contributions from how well each predicts a target domain: the domain posterior of branch-train-merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.errors import MergeError

if TYPE_CHECKING:
    import numpy as np


def domain_posterior(log_likelihoods: np.ndarray, decay: float = 0.3) -> np.ndarray:
    """Weights of T contributions, shape (T,), not negative, adding up to 1, for averaging parameters or predictions.

    `log_likelihoods` has the shape (blocks, T): for each block of held-out text of the target domain, in order, its
    log-likelihood under each contribution (natural logarithm, the whole block, not the mean per token). By Bayes' rule
    p(j|x) ∝ p(x|j)·p(j), where the prior of a block is the exponential moving average of the posteriors before it, and
    uniform before the first (Li et al. 2022, arXiv 2208.03306, section 2; DEMix, arXiv 2108.05036, section 5).

    Of the variants in hadasah/btm this is "updating_prior" on the development blocks (at most 100 there), whose last
    average is the "cached_prior" that it then averages parameters by: average ← (1 − decay)·average + decay·posterior,
    beginning with the first posterior, that is pandas' ``ewm(alpha=0.3, adjust=False)``.
    Example: [[0, log 3]] gives [¼, ¾]. Raises MergeError for other shapes, NaN, +∞, or blocks impossible for everyone.
    """
    import numpy as np

    values = np.asarray(log_likelihoods, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise MergeError(f"log-likelihoods have the shape (blocks, contributions), at least (1, 1), not {values.shape}")
    if np.isnan(values).any() or (values.max(axis=1) == -np.inf).any() or (values == np.inf).any():
        raise MergeError("log-likelihoods are numbers below +∞, and every block is possible for some contribution")
    if not 0 < decay <= 1:
        raise MergeError(f"the decay is in (0, 1], not {decay:g}")
    tiny = np.finfo(np.float64).tiny
    average = np.full(values.shape[1], 1 / values.shape[1])
    for i, block in enumerate(values):
        joint = block + np.log(np.maximum(average, tiny))  # a prior of 0 could never recover
        posterior = np.exp(joint - joint.max())
        posterior /= posterior.sum()
        average = posterior if i == 0 else (1 - decay) * average + decay * posterior
    weights: np.ndarray = average / average.sum()
    return weights
