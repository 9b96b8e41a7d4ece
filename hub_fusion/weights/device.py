"""Reading what contributions changed onto a device: stored bytes go there as they are and are subtracted there.

The twin of reading.py, for blocks of one tensor or of several side by side (see pieces.py). Imported only where torch
is in use.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from hub_fusion.weights.adapter import Change
from hub_fusion.weights.checkpoint import WRITABLE, Checkpoint
from hub_fusion.weights.deltas import Deltas
from hub_fusion.weights.lanes import Lane, Room
from hub_fusion.weights.pieces import Piece
from hub_fusion.weights.reading import Reader

T = TypeVar("T")
Origins = dict[int, torch.Tensor]  # as in reading.py


class DeviceReader(Reader):
    """Reads blocks onto a device; every thread has a lane of its own, and works inside of `carry_out`."""

    def __init__(self, device: torch.device, most_threads: int) -> None:
        super().__init__()
        self.device, self.room = device, Room(most_threads)
        self.lanes, self.loading = threading.local(), threading.Lock()

    @property
    def lane(self) -> Lane:
        """This thread's."""
        if not hasattr(self.lanes, "own"):
            self.lanes.own = Lane(self.device)
        lane: Lane = self.lanes.own
        return lane

    def carry_out(self, task: Callable[[], T]) -> T:
        """``task()`` on this thread's stream, as soon as there is room. Raises WeightsError if there is too little."""

        def on_stream() -> T:
            with self.lane.on():
                return task()

        return self.room.carry_out(on_stream)

    def changes(self, pieces: Sequence[Piece], origins: Origins) -> torch.Tensor:
        """The changes of all contributions, capped: float32 (contributions, elements).

        More than one piece only where nobody brings factors. Raises WeightsError, naming file and tensor, where one is
        not finite.
        """
        taking = pieces[0].work.taking
        out = torch.empty((len(taking), sum(piece.size for piece in pieces)), device=self.device)
        for i in range(len(taking)):
            self._change_into(out[i], i, pieces, origins)
        self._check(out, range(len(taking)), pieces)
        return out

    def change(self, i: int, piece: Piece, origins: Origins | None = None) -> torch.Tensor:
        """The change of one contribution, as in `changes`: float32 (elements,)."""
        out = torch.empty((1, piece.size), device=self.device)
        self._change_into(out[0], i, [piece], {} if origins is None else origins)
        self._check(out, [i], [piece])
        return out[0]

    def there(self, checkpoint: Checkpoint, pieces: Sequence[Piece]) -> torch.Tensor:
        """A generation's elements in float32, or in float64 where they are stored so."""
        values = self._stored(checkpoint, pieces, [piece.work.name for piece in pieces])
        return values if values.dtype == torch.float64 else values.to(torch.float32)

    def _change_into(self, out: torch.Tensor, i: int, pieces: Sequence[Piece], origins: Origins) -> None:
        work, source = pieces[0].work, pieces[0].work.taking[i]
        if work.name not in source.names:
            out.zero_()
            return
        change, saved = self._factors(source, work.name), source.names[work.name]
        key = id(source.origin)
        if key not in origins and (saved or (change and change.needs_origin)):
            origins[key] = self.there(source.origin, pieces)
        if saved:
            names = [source.names[piece.work.name] for piece in pieces]
            torch.sub(self._stored(source.files, pieces, names), origins[key], out=out)
        if change is not None:
            shape = work.stored.shape
            shaped = origins[key].reshape(-1, *shape[1:]) if key in origins else None
            product = change.rows(*(pieces[0].rows if len(shape) > 1 else pieces[0].range), shaped)
            product = product.reshape(-1).to(torch.float32)
            out.copy_(out + product if saved else product)
        out.mul_(source.source.scale)

    def _factors(self, source: Deltas, name: str) -> Change | None:
        """As Deltas.change, with the factors on the device; whoever loads them waits until they are there."""
        loaded = False

        def read(factor: str) -> torch.Tensor:
            nonlocal loaded
            loaded = True
            return torch.from_numpy(self.whole(source.files, factor)).to(self.device)

        with self.loading:
            change = source.change(name, read)
            if loaded:
                self.lane.wait()
        return change

    def _stored(self, checkpoint: Checkpoint, pieces: Sequence[Piece], names: Sequence[str | None]) -> torch.Tensor:
        """Stored elements in a dtype with which torch computes."""
        parts = [(name, *piece.range) for name, piece in zip(names, pieces, strict=True) if name]
        dtype = checkpoint[parts[0][0]].dtype
        values = self.lane.load(checkpoint, parts, dtype)
        return values if dtype in WRITABLE else values.to(torch.float32)

    def _check(self, out: torch.Tensor, contributions: Sequence[int], pieces: Sequence[Piece]) -> None:
        """Raise the error for the first change that is not finite, found without an array of its size."""
        ends = torch.stack(out.aminmax(dim=1)).cpu().T.tolist()
        for i, row, both in zip(contributions, out, ends, strict=True):
            if all(map(math.isfinite, both)):
                continue
            for piece, values in zip(pieces, row.cpu().split([piece.size for piece in pieces]), strict=True):
                if not values.isfinite().all():
                    work = piece.work
                    raise self.explain(work.taking[i], work.stored, piece.range[0], values.numpy())
