"""Thresholds of one contribution, exactly and in bounded memory, by histograms of the magnitudes' bits.

The numpy form of merge.inputs.find_cut, which defines it; ties are broken by lowest index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hub_fusion.weights import kernels

SMALL = 2**12  # elements
Blocks = Callable[[], Iterable[np.ndarray]]  # a contribution's delta in order, flat float32, block by block


@dataclass(frozen=True)
class Cut:
    """The border after the largest magnitudes: those above `bits`, or equal and at an index below `index`."""

    bits: int
    index: int
    NONE: ClassVar[Cut]
    ALL: ClassVar[Cut]

    def before(self, delta: np.ndarray, first: int) -> np.ndarray:
        """Which elements of a block, whose first has the index `first`, lie before the border."""
        bits = delta.view(np.int32) & kernels.MAGNITUDE
        return (bits > self.bits) | ((bits == self.bits) & (np.arange(first, first + len(bits)) < self.index))


Cut.NONE, Cut.ALL = Cut(0x7FFFFFFF, 0), Cut(-1, 0)


def find_cuts(blocks: Blocks, ranks: tuple[int, int], size: int) -> tuple[Cut, Cut]:
    """The borders after the first and after the second number of largest magnitudes, of `size`.

    Two passes over the blocks, and a third up to the border where only some of those equal to a threshold are before
    it; a small tensor is sorted instead.
    """
    if size <= SMALL:
        return _sorted_cuts(blocks, ranks, size)
    cuts = [Cut.NONE if rank <= 0 else Cut.ALL if rank >= size else None for rank in ranks]
    if None not in cuts:
        return cuts[0], cuts[1]  # type: ignore[return-value]
    counts = np.zeros(1 << 15, np.int64)
    for block in blocks():
        kernels.count_upper(block, counts)
    uppers = [_bucket(counts, rank) if cut is None else None for rank, cut in zip(ranks, cuts, strict=True)]
    lower = {upper[0]: np.zeros(1 << 16, np.int64) for upper in uppers if upper}
    for block in blocks():
        for bucket, inside in lower.items():
            kernels.count_lower(block, np.int32(bucket), inside)
    for number, upper in enumerate(uppers):
        if upper:
            bucket, left = upper
            low, left = _bucket(lower[bucket], left)
            bits = bucket << 16 | low
            partly = left < lower[bucket][low]
            cuts[number] = Cut(bits, _index_of(blocks, bits, left) if partly else size)
    return cuts[0], cuts[1]  # type: ignore[return-value]


def _sorted_cuts(blocks: Blocks, ranks: tuple[int, int], size: int) -> tuple[Cut, Cut]:
    whole = np.concatenate([np.empty(0, np.float32), *(block.copy() for block in blocks())])
    bits = whole.view(np.int32) & kernels.MAGNITUDE
    order = np.argsort(-bits, kind="stable")
    found = [Cut.NONE if rank <= 0 else Cut.ALL if rank >= size else
             Cut(int(bits[order[rank - 1]]), int(order[rank - 1]) + 1) for rank in ranks]  # fmt: skip
    return found[0], found[1]


def _bucket(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """Where, counted from the largest, number `rank` lies, and its number there (from 1)."""
    from_largest = counts[::-1].cumsum()
    place = int(np.searchsorted(from_largest, rank))
    bucket = len(counts) - 1 - place
    return bucket, rank - int(from_largest[place] - counts[bucket])


def _index_of(blocks: Blocks, bits: int, number: int) -> int:
    """One more than the index of the `number`-th element (from 1) with exactly this magnitude."""
    start = 0
    for block in blocks():
        equal = kernels.count_equal(block, np.int32(bits))
        if equal >= number:
            places = np.flatnonzero((block.view(np.int32) & kernels.MAGNITUDE) == bits)
            return start + int(places[number - 1]) + 1
        number -= equal
        start += len(block)
    raise AssertionError("the histogram counted elements that are not there")
