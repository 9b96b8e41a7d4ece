"""Examples → batches. Texts of similar length go together: padding is arithmetic for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
POOL = 16  # batches that are sorted by length together; of one kind of label no longer than chance has it


def by_length(inputs: Array, size: int) -> Iterator[Array]:
    """Rows of `inputs` in batches of at most `size`, each once, the longest texts first; images in order."""
    order = np.argsort(-_lengths(inputs), kind="stable")
    return (order[start : start + size] for start in range(0, len(order), size))


def shuffled(inputs: Array, size: int, random: np.random.Generator) -> Iterator[Array]:
    """Rows of `inputs` in random batches of at most `size`, every row once, in the order of `random` alone.

    Texts are sorted by length within pools of batches, and the batches shuffled: the shape of a batch tells a little
    about its length and nothing about its place in the epoch. Images are shuffled plainly.
    """
    order = random.permutation(len(inputs))
    if inputs.dtype != object:
        yield from (order[start : start + size] for start in range(0, len(order), size))
        return
    lengths = _lengths(inputs)
    pools = (order[start : start + size * POOL] for start in range(0, len(order), size * POOL))
    batches = [
        pool[start : start + size]
        for pool in (p[np.argsort(lengths[p], kind="stable")] for p in pools)
        for start in range(0, len(pool), size)
    ]
    yield from (batches[n] for n in random.permutation(len(batches)))


def _lengths(inputs: Array) -> Array:
    """Letters of each text (pairs together); of images, all the same."""
    if inputs.dtype != object:
        return np.zeros(len(inputs), dtype=np.int64)
    return np.array([sum(map(len, row)) for row in inputs], dtype=np.int64)
