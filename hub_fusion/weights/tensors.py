"""One tensor of the output: who has a say on it, in which blocks it is worked on, what must be known beforehand.

Blocks are ranges of rows of the tensor seen as a matrix (rows, columns), columns being its last dimension; they
depend on shape, method and number of contributions alone. Methods that declare `whole` get all rows at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from hub_fusion.merge import BoundMethod
from hub_fusion.merge.inputs import noise_keys
from hub_fusion.weights.checkpoint import FLOATS, ITEM_BYTES, Checkpoint, TensorSpec
from hub_fusion.weights.cuts import Cut
from hub_fusion.weights.deltas import Deltas, row_blocks
from hub_fusion.weights.names import is_buffer, kind_of
from hub_fusion.weights.vocabulary import longer, rows_in

if TYPE_CHECKING:
    from hub_fusion.weights.plan import FusePlan, OpenPlan

COMPILED_ELEMENTS = 2**21  # of all contributions together: 4 MB in 16 bits; smaller blocks cost more calls
TORCH_ELEMENTS = 2**22  # 16 MB: calls of torch cost more
SUM_ELEMENTS = 2**23  # of a sum, which reads a part of its block at a time and has room for the result alone
LEAST, MOST = 2**14, 2**18  # of one contribution; on a device with larger blocks a quarter of them


class TensorWork:
    """What is to be done for one tensor. `taking` is empty where the base's bytes are kept."""

    def __init__(
        self, number: int, out: TensorSpec, stored: TensorSpec, taking: list[Deltas], rows: int, columns: int, each: int
    ) -> None:  # fmt: skip
        self.number, self.out, self.stored, self.name = number, out, stored, out.name
        self.taking, self.rows, self.columns = taking, rows, columns
        self.size = rows * columns
        self.blocks = row_blocks(rows, columns, each)
        shares = np.array([d.source.weight for d in taking])
        self.weights = (shares / np.abs(shares).sum()).astype(np.float32) if taking else shares
        self.keys: list[tuple[int, int]] = []
        self.asked: frozenset[str] = frozenset()
        self.cuts: list[tuple[Cut, Cut]] = [(Cut.NONE, Cut.ALL)] * len(taking)
        self.gram: np.ndarray | None = None
        self.turned = False  # a linear layer's weight stored (in, out): methods that know its inputs see (out, in)
        self.one_by_one = False  # contributions are gone through one after another, see merge.inputs.Stack
        self.added = False  # rows of tokens that the base lacks, see added_rows.py
        self._uniform: bool | None = None
        self.ready = threading.Event()  # all preparations are done
        self.todo = list(range(len(self.blocks)))
        self._left, self._lock = len(self.blocks), threading.Lock()

    @classmethod
    def of(
        cls, plan: FusePlan, number: int, out: TensorSpec, base: Checkpoint, opened: list[Deltas],
        formula: BoundMethod, elements: int, first: int | None = None,
    ) -> TensorWork:  # fmt: skip
        """What a plan asks for; `elements` is how many of all contributions together a block has.

        `first`: the row of a vocabulary from which on others (see added_rows.py) do the work.
        """
        stored, name = base[out.name], out.name
        if first is not None:
            stored = longer(stored, min(first - rows_in(stored), 0))
        fused = stored.dtype in FLOATS and kind_of(name) != "task" and not is_buffer(name)
        voting = [d for d in opened if d.source.weight and d.takes_part(name)] if fused else []
        taking = voting if any(name in d.names for d in voting) else []
        shape, size, method = stored.shape, prod(stored.shape), formula.method
        rows, columns = (size, 1) if len(shape) < 2 else (prod(shape[:-1]), shape[-1])
        if len(shape) < 2 and method.by_rows:
            rows, columns = 1, size
        elif len(shape) > 2 and any((t := d.targets.get(name)) and t.a for d in taking):
            rows, columns = shape[0], prod(shape[1:])
        solved = "activations" in method.inputs and bool(taking) and _all_bring("activations", taking, name, formula)
        one = method.whole or solved  # by equations for the whole tensor
        most = MOST if elements <= TORCH_ELEMENTS else elements // 4
        each = min(max(elements // max(len(taking), 1), LEAST), most)
        work = cls(number, out, stored, taking, rows, columns, size if one and taking else each)
        work.keys = [noise_keys(plan.seed, name, d.source.key) for d in taking]
        work.asked = method.inputs if taking and work.blocks else frozenset()
        work.one_by_one = solved and method.one_by_one
        return work

    def uniform(self, base: Checkpoint) -> bool:
        """Whether all contributions are finetunes of one generation, stored in the base's dtype, as the output is."""
        if self._uniform is None:
            dtype, origin = self.stored.dtype, self.taking[0].origin
            self._uniform = (
                dtype in ("BF16", "F32") and self.out.dtype == dtype and origin[self.name].dtype == dtype
                and self.name not in origin.longer  # all bytes are in the file
                and all(d.source.relation == "finetune" and d.origin is origin and self.name in d.names
                        and d.files[str(d.names[self.name])].dtype == dtype for d in self.taking)
            )  # fmt: skip
        return self._uniform

    @property
    def item_bytes(self) -> int:
        """Bytes of one element of the output."""
        return ITEM_BYTES[self.out.dtype]

    def shape(self, start: int, stop: int) -> tuple[int, ...]:
        """The shape in which a method sees rows [start, stop) of one contribution; the last dimension stays whole."""
        shape = self.stored.shape
        if (start, stop) == (0, self.rows):
            return shape
        if len(shape) > 1 and self.columns != shape[-1]:
            return (stop - start, *shape[1:])
        return (stop - start, self.columns) if len(shape) > 1 else (stop - start,)

    def range(self, start: int, stop: int) -> tuple[int, int]:
        """The flat elements of rows [start, stop)."""
        return start * self.columns, stop * self.columns

    def reads(self, number: int) -> Iterator[tuple[Checkpoint, str, int, int]]:
        """What a block of rows that the base lacks is made from, of others nothing."""
        return iter(())

    def block_done(self) -> None:
        """A block has been written; after the last one what was kept for the tensor is given back."""
        with self._lock:
            self._left -= 1
            last = self._left == len(self.blocks) - len(self.todo)
        if last:
            self.gram, self.cuts = None, []
            for deltas in self.taking:
                deltas.forget(self.name)


def _all_bring(kind: str, taking: list[Deltas], name: str, formula: BoundMethod) -> bool:
    """Whether there are statistics of a tensor by which it is merged: everybody's, or somebody's if they are pooled."""
    there = [d.statistic(kind, name) is not None for d in taking]
    return all(there) or (any(there) and formula.settings.get("missing") == "pool")


def works_of(opened: OpenPlan, elements: int) -> list[TensorWork]:
    """What is to be done for every tensor of the output, in the order of the files."""
    from hub_fusion.weights.added_rows import AddedRows

    added = opened.added
    works = [TensorWork.of(opened.plan, number, spec, opened.base, opened.deltas, opened.formula, elements,
                           added.first if added and spec.name in added.more else None)
             for number, spec in enumerate(opened.specs)]  # fmt: skip
    for work in works:
        work.turned = work.name in opened.turned
    if added is None:
        return works
    grown = [spec for spec in opened.specs if spec.name in added.more]
    return works + [AddedRows(len(works) + number, spec, opened.base, opened.deltas, added)
                    for number, spec in enumerate(grown)]  # fmt: skip
