"""Domain posteriors are probabilities, and those of branch-train-merge's published code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub_fusion.errors import MergeError
from hub_fusion.evaluate.posterior import domain_posterior

blocks = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.floats(-5000, 0), min_size=n, max_size=n), min_size=1, max_size=8)
)


def test_one_block_gives_bayes_rule_with_a_uniform_prior() -> None:
    """Likelihoods 1 and 3."""
    np.testing.assert_allclose(domain_posterior(np.array([[0.0, np.log(3)]])), [0.25, 0.75])


def test_two_blocks_by_hand() -> None:
    """First [¼, ¾]; the second block's posterior is [2·¼, 1·¾]/1¼ = [0.4, 0.6]; 0.7·[¼, ¾] + 0.3·[0.4, 0.6]."""
    values = np.array([[0.0, np.log(3)], [np.log(2), 0.0]])
    np.testing.assert_allclose(domain_posterior(values), [0.295, 0.705])
    np.testing.assert_allclose(domain_posterior(values, decay=1.0), [0.4, 0.6])


@given(rows=blocks, shift=st.integers(-1000, 1000))
def test_weights_are_probabilities_and_only_differences_count(rows: list[list[float]], shift: int) -> None:
    """Whatever the likelihoods, also where all but one underflow; a better block for all says nothing."""
    values = np.array(rows)
    found = domain_posterior(values)
    assert found.shape == (values.shape[1],) and (found >= 0).all()
    np.testing.assert_allclose(found.sum(), 1)
    np.testing.assert_allclose(domain_posterior(values + shift), found, atol=1e-6)


def test_equals_an_exponential_average_of_the_posteriors() -> None:
    """btm's ``ewm(alpha=0.3, adjust=False)`` of all posteriors so far is the prior of the next block.

    pandas defines it by the weights 0.7ᵏ·0.3 of the posterior k blocks ago, and 0.7ᵏ of the first.
    """
    values = np.random.default_rng(0).normal(size=(20, 4))
    prior, seen = np.full(4, 0.25), list[np.ndarray]()
    for block in values:
        joint = np.exp(block) * prior
        seen.append(joint / joint.sum())
        ages = np.arange(len(seen))[::-1]
        prior = (0.7**ages * np.where(ages == len(seen) - 1, 1.0, 0.3)) @ np.stack(seen)
    np.testing.assert_allclose(domain_posterior(values), prior)


def test_a_domain_that_was_impossible_once_can_recover() -> None:
    """Its first posterior underflows to 0, and later text is its own."""
    found = domain_posterior(np.array([[0.0, -5000.0], *[[-5000.0, 0.0]] * 20]))
    assert found[1] > 0.9


@pytest.mark.parametrize(
    ("values", "decay", "message"),
    [
        (np.zeros(3), 0.3, r"not \(3,\)"),
        (np.zeros((0, 3)), 0.3, r"not \(0, 3\)"),
        (np.array([[0.0, np.nan]]), 0.3, "below"),
        (np.array([[-np.inf, -np.inf]]), 0.3, "possible"),
        (np.array([[0.0, np.inf]]), 0.3, "below"),
        (np.zeros((1, 2)), 0.0, r"in \(0, 1\], not 0"),
    ],
)
def test_what_is_no_likelihood_is_refused(values: np.ndarray, decay: float, message: str) -> None:
    """With the law and the value."""
    with pytest.raises(MergeError, match=message):
        domain_posterior(values, decay)
