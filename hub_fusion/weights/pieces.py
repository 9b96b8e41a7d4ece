"""Blocks of several tensors side by side in one flat array, and what methods ask for about them, on a device.

A launch on a GPU costs as much as work on thousands of elements, so small tensors go there together. Every function
gives the numbers that `merge.inputs` defines, in a number of launches that does not grow with the number of pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hub_fusion.merge.inputs import magnitude_bits, noise_at
from hub_fusion.weights.cuts import Cut
from hub_fusion.weights.tensors import TensorWork

Numbers = int | torch.Tensor  # of one piece, or for every element of several


@dataclass(frozen=True)
class Piece:
    """A block of a tensor: rows [start, stop)."""

    work: TensorWork
    number: int

    @property
    def rows(self) -> tuple[int, int]:
        """The rows [start, stop)."""
        return self.work.blocks[self.number]

    @property
    def range(self) -> tuple[int, int]:
        """Its flat elements in the tensor."""
        return self.work.range(*self.rows)

    @property
    def size(self) -> int:
        """How many there are."""
        first, last = self.range
        return last - first


def spread(values: Sequence[int], pieces: Sequence[Piece], device: torch.device) -> Numbers:
    """One number for each piece, repeated for each of its elements."""
    if len(pieces) == 1:
        return values[0]
    sizes = [piece.size for piece in pieces]
    numbers, repeats = torch.tensor([list(values), sizes]).to(device)
    return torch.repeat_interleave(numbers, repeats, output_size=sum(sizes))


def offsets(pieces: Sequence[Piece]) -> list[int]:
    """Where each piece begins in the array."""
    found, at = [], 0
    for piece in pieces:
        found.append(at)
        at += piece.size
    return found


def indices(pieces: Sequence[Piece], device: torch.device) -> torch.Tensor:
    """The index of every element in its own tensor, int64."""
    shifts = [piece.range[0] - at for piece, at in zip(pieces, offsets(pieces), strict=True)]
    index = torch.arange(sum(piece.size for piece in pieces), device=device)
    return index + spread(shifts, pieces, device)


def noise(pieces: Sequence[Piece], n: int, device: torch.device) -> torch.Tensor:
    """The noise of `n` contributions, float32 (contributions, elements)."""
    index = indices(pieces, device)
    found = torch.empty((n, len(index)), device=device)
    for i in range(n):
        first, second = zip(*(piece.work.keys[i] for piece in pieces), strict=True)
        found[i] = noise_at(index, spread(first, pieces, device), spread(second, pieces, device))
    return found


def keep_by_rank(
    pieces: Sequence[Piece], deltas: torch.Tensor, ranks: Sequence[tuple[int, int]]
) -> torch.Tensor:  # fmt: skip
    """Which elements of pieces that are whole tensors have ranks [first, last), bool like `deltas`; by one sort."""
    piece = spread(range(len(pieces)), pieces, deltas.device)
    order = (piece * 2**32 - magnitude_bits(deltas).reshape(deltas.shape).long()).argsort(dim=1, stable=True)
    place = torch.arange(deltas.shape[1], device=deltas.device)
    place = place - spread(offsets(pieces), pieces, deltas.device)  # rank within the piece, of what is sorted
    firsts, lasts = (spread(values, pieces, deltas.device) for values in zip(*ranks, strict=True))
    inside = (place >= firsts) & (place < lasts)
    return torch.zeros_like(deltas, dtype=torch.bool).scatter_(1, order, inside.expand(deltas.shape))


def keep_by_cuts(pieces: Sequence[Piece], deltas: torch.Tensor) -> torch.Tensor:
    """Which elements lie between the two thresholds of their tensor and contribution, bool like `deltas`."""
    index = indices(pieces, deltas.device)
    kept = torch.ones_like(deltas, dtype=torch.bool)
    for i, delta in enumerate(deltas):
        bits = magnitude_bits(delta)
        leads, lasts = zip(*(piece.work.cuts[i] for piece in pieces), strict=True)
        if any(cut != Cut.ALL for cut in lasts):
            kept[i] = _before(lasts, pieces, bits, index)
        if any(cut != Cut.NONE for cut in leads):
            kept[i] &= ~_before(leads, pieces, bits, index)
    return kept


def _before(cuts: Sequence[Cut], pieces: Sequence[Piece], bits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    border = spread([cut.bits for cut in cuts], pieces, bits.device)
    return (bits > border) | ((bits == border) & (index < spread([cut.index for cut in cuts], pieces, bits.device)))
