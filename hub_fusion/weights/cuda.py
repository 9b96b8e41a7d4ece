"""The arithmetic of a fuse on a GPU: stored bytes → device → deltas → merged change → bytes, by torch.

The formulas are those of merge/, a launch for each operation, so nothing is contracted, and elementwise methods give
the CPU's bytes. Sums over elements (Gram matrices, norms) and products of adapters' factors are rounded in another
order: within one step of a 16-bit output, n·2⁻²⁴ of the change in float32. Two runs on one kind of device give the
same bytes, whatever the threads: no sum depends on who comes first. Imported only where torch is in use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from hub_fusion.merge import BoundMethod
from hub_fusion.merge.inputs import Stack, find_cut
from hub_fusion.merge.method import STATISTICS
from hub_fusion.weights.arithmetic import Arithmetic, Fused
from hub_fusion.weights.checkpoint import TORCH_NAMES, Checkpoint
from hub_fusion.weights.codec import STORED, is_finite
from hub_fusion.weights.cuts import Cut
from hub_fusion.weights.device import DeviceReader, Origins
from hub_fusion.weights.pieces import Piece, keep_by_cuts, keep_by_rank, noise
from hub_fusion.weights.tensors import TensorWork

DEVICE_ELEMENTS = 2**24  # of all contributions together: 64 MB in float32, 32 MB on the way in 16 bits
BUNDLE_ELEMENTS = 2**22  # of small tensors that go together
MOST_THREADS = 8  # reading from the page cache takes several to keep a link busy
SORTED = 2**16  # elements: the magnitudes of smaller tensors are sorted, those of larger ones counted
HELD = 2**26  # elements of a delta that stays on the device while its thresholds are found: 256 MB


class TorchArithmetic(Arithmetic):
    """Works on blocks of `TensorWork` on a device; safe to use from several threads."""

    def __init__(self, formula: BoundMethod, step: float, seed: int, device: str) -> None:
        super().__init__(formula, step, seed)
        if device.startswith("cuda"):  # products that do not depend on how many streams there are
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.device, self.twin = torch.device(device), None
        self.reader = DeviceReader(self.device, MOST_THREADS)
        self.elements, self.bundle = DEVICE_ELEMENTS, BUNDLE_ELEMENTS

    def threads(self, available: int) -> int:
        """At least two, so that reading and computing overlap."""
        return min(max(available, 2), MOST_THREADS)

    def fuse(self, work: TensorWork, base: Checkpoint, start: int, stop: int) -> np.ndarray:
        """As Arithmetic.fuse."""
        return next(iter(self.fuse_all(base, [(work, work.blocks.index((start, stop)))])))[2]

    def fuse_all(self, base: Checkpoint, bundle: Sequence[tuple[TensorWork, int]]) -> Iterator[Fused]:
        """As Arithmetic.fuse_all, small tensors together; not in the order of the bundle."""
        groups: dict[Hashable, list[Piece]] = {}
        for work, number in bundle:
            groups.setdefault(self._likeness(work) or (work, number), []).append(Piece(work, number))
        for pieces in groups.values():
            if not pieces[0].work.taking:
                yield from ((p.work, p.number, self.copied(p.work, base, *p.range)) for p in pieces)
                continue
            stored, finite = self.reader.carry_out(partial(self._fuse, pieces, base))
            at = 0
            for piece in pieces:
                data = stored[at : at + piece.size]
                if not finite and not is_finite(data, piece.work.out.dtype):
                    raise self.not_finite(piece.work, base, *piece.range)
                yield piece.work, piece.number, data
                at += piece.size

    def _likeness(self, work: TensorWork) -> Hashable:
        """What tensors have in common that can be fused side by side; None where a tensor goes by itself."""
        method = self.formula.method
        whole = method.whole or method.by_rows or method.inputs & (STATISTICS | {"gram"})
        if whole or not work.taking or ("keep" in work.asked and not self.over_model and not _is_small(work)):
            return None
        parts = []
        for source in work.taking:
            target, saved = source.targets.get(work.name), source.names.get(work.name)
            if target and target.a:
                return None  # a product of factors
            parts.append((id(source), saved and (source.files[saved].dtype, source.origin[work.name].dtype)))
        return work.out.dtype, work.stored.dtype, tuple(parts)

    def _fuse(self, pieces: Sequence[Piece], base: Checkpoint) -> tuple[np.ndarray, bool]:
        """The output of all pieces as it is stored, side by side, in a buffer of this thread's; and if it is finite."""
        origins: Origins = {}
        dtype = pieces[0].work.out.dtype
        if pieces[0].work.one_by_one:
            change = self._each(pieces[0], origins) * self.step
        else:
            change = self._merged(pieces, self.reader.changes(pieces, origins)) * self.step
        there = origins[id(base)] if id(base) in origins else self.reader.there(base, pieces)
        # x + (−0) is x for every x, but −0 + 0 is 0
        fused = (there + torch.where(change == 0, -0.0, change)).to(getattr(torch, TORCH_NAMES[dtype]))
        ends = torch.stack(fused.aminmax())
        stored: np.ndarray = self.reader.lane.fetch(fused).view(STORED[dtype])
        return stored, all(map(math.isfinite, ends.tolist()))

    def _each(self, piece: Piece, origins: Origins) -> torch.Tensor:
        """As Arithmetic._one_by_one, on the device."""
        work = piece.work
        shape = work.shape(*piece.rows)
        seen, gram = shape[::-1] if work.turned else shape, self.activations(work)

        def delta(i: int) -> torch.Tensor:
            made = self.reader.change(i, piece, origins).reshape(shape)
            return made.mT if work.turned else made

        deltas = Stack((len(work.taking), *seen), delta, torch.float32)
        grams = Stack((len(work.taking), seen[-1], seen[-1]), lambda i: gram(i).to(self.device), torch.float32)
        merged = self.formula(deltas, torch.from_numpy(work.weights).to(self.device), activations=grams)
        return (merged.mT if work.turned else merged).reshape(-1)

    def _merged(self, pieces: Sequence[Piece], deltas: torch.Tensor) -> torch.Tensor:
        """The method's result, float32 (elements,). What belongs to a tensor of one block is worked out here."""
        work, rows = pieces[0].work, pieces[0].rows
        shape = (len(deltas), *(work.shape(*rows) if len(pieces) == 1 else deltas.shape[1:]))
        inputs: dict[str, Any] = {}
        if "gram" in work.asked:
            if len(work.blocks) == 1:
                work.gram = _products(deltas)
            inputs["gram"] = torch.from_numpy(work.gram).to(self.device)
        if "keep" in work.asked:
            inputs["keep"] = self._keep(pieces, deltas).reshape(shape)
        if "noise" in work.asked:
            inputs["noise"] = noise(pieces, len(deltas), self.device).reshape(shape)
        for kind in STATISTICS & work.asked:
            found = self.statistics(work, kind, *rows)
            inputs[kind] = None if found is None else torch.from_numpy(found).to(self.device)
        shaped = deltas.reshape(shape)
        merged = self.formula(
            shaped.mT if work.turned else shaped, torch.from_numpy(work.weights).to(self.device), **inputs
        )
        merged = merged.mT if work.turned else merged
        return merged.to(torch.float32).reshape(-1)

    def _keep(self, pieces: Sequence[Piece], deltas: torch.Tensor) -> torch.Tensor:
        work = pieces[0].work
        if _is_small(work) and not self.over_model:
            return keep_by_rank(pieces, deltas, [self.formula.ranks(piece.size) for piece in pieces])
        if len(work.blocks) == 1 and not self.over_model:
            ranks = self.formula.ranks(work.size)
            work.cuts = [_find_cuts(lambda d=d: [d], ranks, work.size) for d in deltas]  # type: ignore[misc]
        return keep_by_cuts(pieces, deltas)

    # before the first block ------------------------------------------------------------------------------------------
    def inner_products(self, work: TensorWork, number: int) -> np.ndarray:
        """As Arithmetic.inner_products."""
        return self.reader.carry_out(lambda: _products(self.reader.changes([Piece(work, number)], {})))

    def blocks(self, work: TensorWork, i: int) -> Iterator[Any]:
        """The delta of one contribution, block by block, on the device; to be used within `thresholds`."""
        for number in range(len(work.blocks)):
            yield self.reader.change(i, Piece(work, number))

    def thresholds(self, blocks: Callable[[], Iterable[Any]], ranks: tuple[int, int], size: int) -> tuple[Cut, Cut]:
        """As Arithmetic.thresholds."""
        return self.reader.carry_out(partial(_find_cuts, blocks, ranks, size))


def _find_cuts(blocks: Callable[[], Iterable[Any]], ranks: tuple[int, int], size: int) -> tuple[Cut, Cut]:
    """As cuts.find_cuts, of blocks on a device."""
    if size <= HELD:
        held = list(blocks())
        lead, last = (find_cut(lambda: held, rank, size) for rank in ranks)
    else:
        lead, last = (find_cut(blocks, rank, size) for rank in ranks)
    return Cut(lead.bits, lead.index), Cut(last.bits, last.index)


def _products(deltas: torch.Tensor) -> np.ndarray:
    """Inner products of all pairs, float64."""
    wide = deltas.double()
    products: np.ndarray = (wide @ wide.T).cpu().numpy()
    return products


def _is_small(work: TensorWork) -> bool:
    """Whether a whole tensor's magnitudes are sorted."""
    return len(work.blocks) == 1 and work.size <= SORTED
