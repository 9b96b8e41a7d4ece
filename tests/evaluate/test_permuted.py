"""Columns under wrong names are found in a table like the published ones, and honest rows are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from hub_fusion.evaluate.permuted import find_permutation

TASKS = [f"task{n}" for n in range(36)]


def named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(TASKS, map(float, values), strict=False))


def test_permuted_rows_of_a_large_table_are_found_and_no_other_is() -> None:
    """386 rows of 36 tasks, 33 of them permuted: small tasks differ by some 3 points from model to model, large by 0.5.

    Every tenth honest row is a bad base, up to 25 points below on every task: no assignment explains that.
    """
    random = np.random.default_rng(5)
    base = random.uniform(0.35, 0.97, 36)
    noise = np.where(np.arange(36) % 7 == 0, 0.03, 0.005)
    rows = np.clip(base + random.normal(size=(386, 36)) * noise, 0, 1)
    rows[::10] -= random.uniform(0.05, 0.25, (39, 1)) * random.uniform(0.5, 1.0, (39, 36))
    permuted = random.choice(np.flatnonzero(np.arange(386) % 10), 33, replace=False)
    for row in permuted:
        moved = random.choice(36, 28, replace=False)
        rows[row, moved] = rows[row, np.roll(moved, 1)]
    found = [row for row in range(386) if find_permutation(named(rows[row]), named(base))]
    assert found == sorted(permuted)


def test_the_assignment_names_the_columns_that_agree() -> None:
    """A rotation of six tasks: each score is that of the next task."""
    reference = np.array([0.3, 0.45, 0.6, 0.7, 0.8, 0.9])
    found = find_permutation(named(np.roll(reference, -1) + 0.004), named(reference))
    assert found is not None
    assert found.columns == {TASKS[n]: TASKS[(n + 1) % 6] for n in range(6)} and found.moved == 6
    assert found.before > 0.15 and found.after == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ([0.3, 0.45, 0.6, 0.7, 0.8, 0.9], [0.3, 0.45, 0.6, 0.7, 0.8, 0.9]),
        ([0.45, 0.3, 0.6, 0.7, 0.8, 0.9], [0.3, 0.45, 0.6, 0.7, 0.8, 0.9]),  # two of six: chance
        ([0.7, 0.7, 0.7, 0.7, 0.7, 0.7], [0.7, 0.7, 0.7, 0.7, 0.7, 0.7]),  # nothing to tell columns apart by
        ([0.9, 0.3, 0.6, 0.45], [0.3, 0.45, 0.9, 0.6]),  # too few columns
        ([float("nan"), 0.3, 0.6, 0.45, 0.5], [0.3, 0.45, 0.9, 0.6, 0.5]),
        ([], []),
    ],
)
def test_what_is_no_sign_of_a_permutation(row: list[float], reference: list[float]) -> None:
    assert find_permutation(named(np.array(row)), named(np.array(reference))) is None
