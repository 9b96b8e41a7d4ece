"""Every example is met once, whatever its length."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hub_fusion.evaluate.batches import by_length, shuffled

TEXTS = st.lists(st.text("a ", max_size=30), min_size=1, max_size=400)


def as_inputs(texts: list[str]) -> np.ndarray:
    return np.array([[text] for text in texts], dtype=object).reshape(len(texts), 1)


@given(TEXTS, st.integers(1, 40), st.integers(0, 5))
def test_batches_hold_every_row_once_and_no_more_than_their_size(texts: list[str], size: int, seed: int) -> None:
    for inputs in (as_inputs(texts), np.zeros((len(texts), 1, 2, 2), dtype=np.float32)):
        for batches in (by_length(inputs, size), shuffled(inputs, size, np.random.default_rng(seed))):
            rows = list(batches)
            assert sorted(np.concatenate(rows).tolist()) == list(range(len(texts)))
            assert max(map(len, rows)) <= size


def test_texts_of_like_length_go_together_in_an_order_that_length_does_not_tell() -> None:
    """Half the padding of a plain shuffle at least; and the first batch is not always the shortest."""
    random = np.random.default_rng(0)
    inputs = as_inputs(["a" * n for n in random.integers(1, 400, 2000)])
    lengths = np.array([len(row[0]) for row in inputs])

    def padding(batches: list[np.ndarray]) -> int:
        return sum(int((lengths[b].max() - lengths[b]).sum()) for b in batches)

    grouped = list(shuffled(inputs, 16, random))
    plain = np.array_split(random.permutation(2000), 125)
    assert padding(grouped) < padding(plain) / 5
    firsts = [lengths[next(iter(shuffled(inputs, 16, np.random.default_rng(s))))].mean() for s in range(20)]
    assert np.std(firsts) > 50
    assert [len(b) for b in by_length(inputs, 16)] == [16] * 125
    assert lengths[next(iter(by_length(inputs, 16)))].min() >= np.sort(lengths)[-16]
