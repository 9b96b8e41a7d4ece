"""What methods ask for is exact, and the same for every cut of a tensor into blocks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.merge.inputs import find_cut, noise_like

sizes = st.integers(1, 300)
seeds = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=seeds, share=st.floats(0, 1), block=st.integers(1, 100), kinds=st.integers(1, 40))
def test_a_cut_keeps_exactly_the_largest_and_of_equals_the_first(
    size: int, seed: int, share: float, block: int, kinds: int
) -> None:
    """Against a stable sort, with many ties, zeros of both signs, and blocks of any size."""
    random = torch.Generator().manual_seed(seed)
    delta = torch.randint(-kinds, kinds + 1, (size,), generator=random) * torch.tensor(0.1)
    rank = round(share * size)
    cut = find_cut(lambda: delta.split(block), rank, size)
    kept = torch.cat([cut.before(part, i * block) for i, part in enumerate(delta.split(block))])
    expected = torch.zeros(size, dtype=torch.bool)
    expected[delta.abs().sort(descending=True, stable=True).indices[:rank]] = True
    assert torch.equal(kept, expected)


def test_magnitudes_of_every_size_are_told_apart() -> None:
    """Subnormal numbers, neighbours in the last bit, and infinity's neighbours sort by value."""
    info = torch.finfo(torch.float32)
    delta = torch.tensor([1e-45, -3e-45, info.tiny, 1.0, 1.0 + info.eps, -info.max, 0.0])
    for rank, largest in enumerate([5, 4, 3, 2, 1, 0]):
        before, after = (find_cut(lambda: [delta], r, 7).before(delta, 0) for r in (rank, rank + 1))
        assert (after & ~before).nonzero().tolist() == [[largest]]


@settings(max_examples=30, deadline=None)
@given(size=sizes, seed=seeds, block=st.integers(1, 100))
def test_noise_of_an_element_does_not_depend_on_the_block_it_is_in(size: int, seed: int, block: int) -> None:
    """It is a function of seed, tensor, contribution and index."""
    delta = torch.zeros(size)
    whole = noise_like(delta, 0, seed=seed, tensor="t", contribution="c")
    parts = [
        noise_like(part, i * block, seed=seed, tensor="t", contribution="c")
        for i, part in enumerate(delta.split(block))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert ((whole >= 0) & (whole < 1)).all()


def test_noise_is_uniform_and_independent_between_seeds_tensors_and_contributions() -> None:
    """Means of 100,000 numbers lie within 5 standard errors (0.0009 each); so do the correlations."""
    delta = torch.zeros(100_000)
    keys = [(0, "t", "c"), (1, "t", "c"), (0, "u", "c"), (0, "t", "d")]
    draws = torch.stack([noise_like(delta, 0, seed=s, tensor=t, contribution=c) for s, t, c in keys])
    assert (draws.mean(dim=1) - 0.5).abs().max() < 5 * 0.0009
    assert (draws.quantile(torch.tensor([0.1, 0.9]), dim=1) - torch.tensor([[0.1], [0.9]])).abs().max() < 0.005
    off_diagonal = torch.corrcoef(draws) - torch.eye(4)
    assert off_diagonal.abs().max() < 5 / 100_000**0.5
    beyond = noise_like(delta, 2**32, seed=0, tensor="t", contribution="c")
    assert abs(float(torch.corrcoef(torch.stack([draws[0], beyond]))[0, 1])) < 5 / 100_000**0.5


def test_noise_stays_what_it_was() -> None:
    """Published generations are reproduced from their seed: these numbers must never change."""
    drawn = noise_like(torch.zeros(3), 7, seed=1, tensor="layer.weight", contribution="ann/model@0")
    assert [round(x, 6) for x in drawn.tolist()] == [0.77303, 0.743706, 0.332676]
