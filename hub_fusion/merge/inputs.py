"""What a merge method may ask for besides deltas and weights, worked out exactly with bounded memory.

Every function sees a tensor as blocks that can be read again and again; no more than one block is in memory at a time.
Results depend on the values alone: not on the blocks, the number of processes or threads, nor on the kind of device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Blocks = Callable[[], Iterable[torch.Tensor]]  # one contribution's delta of one tensor, in order, block by block


class Stack:
    """Tensors of one shape, one of each contribution, made when they are asked for: a stack that is never there whole.

    Each is good until the next one is made; whoever goes through them again makes them again.
    """

    def __init__(self, shape: Sequence[int], make: Callable[[int], torch.Tensor], dtype: torch.dtype) -> None:
        self.shape, self.dtype, self._make = tuple(shape), dtype, make

    def __iter__(self) -> Iterator[torch.Tensor]:
        return map(self._make, range(self.shape[0]))


@dataclass(frozen=True)
class Cut:
    """The border after the `rank` largest magnitudes: above `bits`, or equal and before `index`.

    Magnitudes are compared by the bits of their float32, whose order is that of the values. Ties are broken by lowest
    index, so exactly `rank` elements lie before the border.
    """

    bits: int
    index: int

    def before(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        """Which elements of a block lie before the border; `start` is the flat index of its first element."""
        import torch

        bits = magnitude_bits(delta)
        indices = torch.arange(start, start + bits.numel(), device=bits.device)
        return ((bits > self.bits) | ((bits == self.bits) & (indices < self.index))).reshape(delta.shape)


def magnitude_bits(delta: torch.Tensor) -> torch.Tensor:
    """The bits of |δ| as int32, flat; they sort like the magnitudes."""
    import torch

    return delta.reshape(-1).contiguous().view(torch.int32) & 0x7FFFFFFF


def find_cut(blocks: Blocks, rank: int, size: int) -> Cut:
    """The border after the `rank` largest of `size` magnitudes, by a histogram of the upper and then the lower 16 bits.

    Three passes over the blocks, 512 KB of counts.
    """
    import torch

    if rank <= 0:
        return Cut(0x7FFFFFFF, 0)
    if rank >= size:
        return Cut(-1, 0)
    left, prefix = rank, 0
    for shift in (16, 0):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for block in blocks():
            bits = magnitude_bits(block)
            inside = bits if shift else bits[(bits >> 16) == prefix]
            counts += torch.bincount((inside >> shift) & 0xFFFF, minlength=1 << 16).cpu()
        from_largest = counts.flip(0).cumsum(0)
        place = int(torch.searchsorted(from_largest, left))
        bucket = (1 << 16) - 1 - place
        left -= int(from_largest[place] - counts[bucket])
        prefix = (prefix << 16) | bucket
    start = 0
    for block in blocks():  # of those equal to the threshold, the first `left` lie before the border
        equal = (magnitude_bits(block) == prefix).nonzero().reshape(-1)
        if equal.numel() >= left:
            return Cut(prefix, start + int(equal[left - 1]) + 1)
        left -= equal.numel()
        start += block.numel()
    raise AssertionError("the histogram counted elements that are not there")


def noise_keys(seed: int, tensor: str, contribution: str) -> tuple[int, int]:
    """The two 32-bit keys of a contribution's noise on one tensor: the first bytes of a sha256 over the three."""
    digest = hashlib.sha256(f"{seed}\n{tensor}\n{contribution}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def noise_like(delta: torch.Tensor, start: int, *, seed: int, tensor: str, contribution: str) -> torch.Tensor:
    """Uniform numbers in [0, 1), float32, for the elements of a block; `start` is the flat index of its first element.

    Counter-based: a 32-bit integer hash of the element's index, keyed by (seed, tensor, contribution), so that an
    element's number is the same in every block, process and device. 24 bits of each number are random.
    """
    import torch

    index = torch.arange(start, start + delta.numel(), dtype=torch.int64, device=delta.device)
    return noise_at(index, *noise_keys(seed, tensor, contribution)).reshape(delta.shape)


def noise_at(index: torch.Tensor, first: int | torch.Tensor, second: int | torch.Tensor) -> torch.Tensor:
    """The noise of elements with these indices (int64) and keys, float32."""
    import torch

    mixed = _mix((index & 0xFFFFFFFF) ^ first)
    mixed = _mix((mixed + (index >> 32) * 0x9E3779B1 + second) & 0xFFFFFFFF)
    return (mixed >> 8).to(torch.float32) * 2.0**-24


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A bijection of 32-bit integers in which every output bit depends on every input bit (murmur3's finaliser)."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
