"""Does a row of scores have its columns in another order? Tables that people publish do.

Of 386 rows for one architecture in the results of the model-recycling site, 33 have scores under the wrong tasks' names
(a sentiment task at 67 and a harder one at 95, say). Their means are right, so nobody notices; every statement about a
task is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

COLUMNS = 5  # with fewer, chance finds a good assignment
MOVED = 0.5  # share of the columns that the best assignment moves
APART = 0.05  # mean difference as the columns are named; closer rows have nothing to explain
BETTER = 3.0  # how many times closer the best assignment is


@dataclass(frozen=True)
class Permutation:
    """The best assignment of a row's columns to the reference's.

    `columns`: name → the reference's column that it agrees with; `before` and `after` are mean absolute differences.
    """

    columns: dict[str, str]
    before: float
    after: float

    @property
    def moved(self) -> int:
        """How many columns agree with another one than their own."""
        return sum(name != other for name, other in self.columns.items())


def find_permutation(row: Mapping[str, float], reference: Mapping[str, float]) -> Permutation | None:
    """The assignment of `row` to `reference` (task → score in [0, 1]), if the row looks permuted; else None.

    It does if the two are at least 5 points apart on average, the best assignment moves more than half of the columns
    and is then at least three times closer. A row that is worse everywhere is not: no assignment brings it closer
    than the difference of the means. Needs five tasks that both have.
    """
    from scipy.optimize import linear_sum_assignment

    tasks = sorted(set(row) & set(reference))
    if len(tasks) < COLUMNS:
        return None
    ours, theirs = (np.array([scores[task] for task in tasks]) for scores in (row, reference))
    distances = np.abs(ours[:, None] - theirs[None, :])
    if not np.isfinite(distances).all():
        return None
    _, places = linear_sum_assignment(distances - 1e-9 * np.eye(len(tasks)))  # equal columns stay where they are
    before, after = float(np.diagonal(distances).mean()), float(distances[np.arange(len(tasks)), places].mean())
    found = Permutation({task: tasks[place] for task, place in zip(tasks, places, strict=True)}, before, after)
    looks = found.moved > MOVED * len(tasks) and before >= APART and after * BETTER <= before
    return found if looks else None
