"""One tensor of all contributions, block of rows by block of rows, with what the merge method asks for.

Thresholds and Gram matrices belong to the whole tensor: they are worked out in passes of their own, so that memory
holds one block whatever the size of the tensor. Only methods that declare `whole` get all rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from hub_fusion.merge import BoundMethod
from hub_fusion.merge.inputs import Cut, find_cut, noise_like
from hub_fusion.weights.checkpoint import TensorSpec
from hub_fusion.weights.deltas import Deltas, row_blocks

if TYPE_CHECKING:
    import torch

    from hub_fusion.weights.fuse import FusePlan

BLOCK_ELEMENTS = 4_000_000  # of one tensor: 16 MB a contribution in float32


class Slices:
    """The contributions that have a say on one tensor. `blocks` are its rows [start, stop), in order."""

    def __init__(
        self, plan: FusePlan, spec: TensorSpec, taking: list[Deltas], formula: BoundMethod, device: str
    ) -> None:
        import torch

        self.plan, self.spec, self.taking, self.formula, self.device = plan, spec, taking, formula, device
        one_block = formula.method.whole or (formula.method.by_rows and len(spec.shape) == 1)
        self.blocks = row_blocks(spec.shape, prod(spec.shape) if one_block else BLOCK_ELEMENTS)
        self.row_elements = prod(spec.shape[1:])
        shares = torch.tensor([d.source.weight for d in taking], dtype=torch.float64)
        self.weights = (shares / shares.sum()).to(device=device, dtype=torch.float32) if taking else shares
        asked = formula.method.inputs if taking and self.blocks else frozenset()
        self.gram = self._gram() if "gram" in asked else None
        self.cuts = [self._cuts(d) for d in taking] if "keep" in asked else []

    def deltas(self, start: int, stop: int) -> torch.Tensor:
        """Rows of all contributions, capped: (contributions, rows, …) float32."""
        import torch

        stacked = torch.stack([self._rows(d, start, stop) for d in self.taking])
        return stacked if self.spec.shape else stacked.reshape(len(self.taking))

    def inputs(self, deltas: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
        """What the method asks for, for the rows from `start` on."""
        import torch

        first = start * self.row_elements
        made = {} if self.gram is None else {"gram": self.gram}
        if self.cuts:
            pairs = zip(deltas, self.cuts, strict=True)
            kept = [last.before(d, first) & ~lead.before(d, first) for d, (lead, last) in pairs]
            made["keep"] = torch.stack(kept)
        if "noise" in self.formula.method.inputs:
            draw = partial(noise_like, start=first, seed=self.plan.seed, tensor=self.spec.name)
            pairs_ = zip(deltas, self.taking, strict=True)
            made["noise"] = torch.stack([draw(d, contribution=taken.source.key) for d, taken in pairs_])
        return made

    def _rows(self, deltas: Deltas, start: int, stop: int) -> torch.Tensor:
        return deltas.rows(self.spec.name, start, stop, self.device).mul_(deltas.source.scale)

    def _gram(self) -> torch.Tensor:
        import torch

        n = len(self.taking)
        gram = torch.zeros(n, n, dtype=torch.float64, device=self.device)
        for start, stop in self.blocks:
            block = self.deltas(start, stop).reshape(n, -1).double()
            gram += block @ block.T
        return gram

    def _cuts(self, deltas: Deltas) -> tuple[Cut, Cut]:
        size = prod(self.spec.shape)

        def blocks() -> Iterator[torch.Tensor]:
            return (self._rows(deltas, start, stop) for start, stop in self.blocks)

        first, last = self.formula.ranks(size)
        return find_cut(blocks, first, size), find_cut(blocks, last, size)
