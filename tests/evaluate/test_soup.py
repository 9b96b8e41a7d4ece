"""Greedy soups keep what helps on held-out data, strictly and in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub_fusion.errors import MergeError
from hub_fusion.evaluate.soup import greedy_soup

scores = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(0, 5).map(float), min_size=1)


def test_the_example_of_the_docstring() -> None:
    """b has the second score, but brings nothing; equal is not better."""
    together = {("a", "b"): 0.8, ("a", "c"): 0.9}
    assert greedy_soup({"c": 0.6, "a": 0.8, "b": 0.7}, lambda names: together[tuple(names)]) == (["a", "c"], 0.9)


@given(scores=scores)
def test_equals_the_loop_of_model_soups(scores: dict[str, float]) -> None:
    """Step 4 of main.py in mlfoundations/model-soups, with ties by name; every mean is measured once."""
    asked: list[tuple[str, ...]] = []

    def measured(names: Sequence[str]) -> float:
        return sum(map(ord, "".join(names))) % 7

    def score_of(names: Sequence[str]) -> float:
        asked.append(tuple(names))
        return measured(names)

    ranked = sorted(sorted(scores), key=lambda name: scores[name], reverse=True)
    ingredients, best = [ranked[0]], scores[ranked[0]]
    for name in ranked[1:]:
        if (score := measured([*ingredients, name])) > best:
            ingredients, best = [*ingredients, name], score
    assert greedy_soup(scores, score_of) == (ingredients, best)
    assert len(asked) == len(set(asked)) == len(scores) - 1
    assert greedy_soup(dict(reversed(scores.items())), measured) == (ingredients, best)


def test_one_contribution_is_a_soup_and_none_is_not() -> None:
    assert greedy_soup({"a": 0.5}, lambda names: 1 / 0) == (["a"], 0.5)
    with pytest.raises(MergeError, match="at least one"):
        greedy_soup({}, lambda names: 0.0)


def test_a_score_that_is_no_number_is_named() -> None:
    """NaN compares as neither better nor worse, and would be left out in silence."""
    with pytest.raises(MergeError, match="the score of b is not a number"):
        greedy_soup({"a": 0.5, "b": float("nan")}, lambda names: 0.0)
    with pytest.raises(MergeError, match=r"the score of a \+ b is not a number"):
        greedy_soup({"a": 0.5, "b": 0.4}, lambda names: float("nan"))
