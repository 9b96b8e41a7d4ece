"""The arithmetic of a fuse on the CPU: bytes → deltas → merged change → bytes, one block at a time, in numpy.

Every thread works in buffers of its own. Methods with a compiled twin need no torch; others get the same arrays as
torch tensors. Linear algebra runs on one thread each, so that results do not depend on how many there are. On a GPU
cuda.py does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from hub_fusion.errors import WeightsError
from hub_fusion.merge import BoundMethod
from hub_fusion.merge.method import STATISTICS
from hub_fusion.weights import kernels
from hub_fusion.weights.checkpoint import WRITABLE, Checkpoint
from hub_fusion.weights.codec import STORED, is_finite, narrow, widen
from hub_fusion.weights.cuts import Cut, find_cuts
from hub_fusion.weights.deltas import Deltas
from hub_fusion.weights.descriptors import at_once
from hub_fusion.weights.names import is_buffer
from hub_fusion.weights.reading import Array, Origins, Reader, gram_of, index
from hub_fusion.weights.schedule import BUNDLE_ELEMENTS
from hub_fusion.weights.strips import fuse_strips, slab_elements
from hub_fusion.weights.tensors import TensorWork
from hub_fusion.weights.twins import Around, Strips, block_elements, find_strips, find_twin

Fused = tuple[TensorWork, int, Array]  # a tensor, the number of a block, and what is to be stored there
NO_FILES = np.empty(0, np.int32), np.empty(0, np.int64)  # for a block that has been read
PASS_ELEMENTS = 2**18  # of one contribution, where nothing is merged


def longer(blocks: list[tuple[int, int]], rows: int) -> Iterator[tuple[int, int]]:
    """The same rows in fewer blocks, of about `rows` rows."""
    start = 0
    for begin, stop in blocks:
        if begin > start and stop - start > rows:
            yield start, begin
            start = begin
    if blocks:
        yield start, blocks[-1][1]


class Arithmetic(Reader):
    """Works on blocks of `TensorWork`; safe to use from several threads."""

    def __init__(self, formula: BoundMethod, step: float, seed: int) -> None:
        super().__init__()
        self.formula, self.step, self.seed = formula, step, seed
        self.twin = find_twin(formula)
        self.strips = find_strips(formula)
        self.norms: dict[str, float] = {}  # of the contributions' Fisher information
        self.over_model = formula.settings.get("within") == "model"
        self.elements = block_elements(formula)
        self.bundle = BUNDLE_ELEMENTS

    def threads(self, available: int) -> int:
        """How many threads to work with, where so many are there for this process."""
        return available

    def fuse_all(self, base: Checkpoint, bundle: Sequence[tuple[TensorWork, int]]) -> Iterator[Fused]:
        """`fuse` of these blocks, in any order; the next one overwrites what came out."""
        for work, number in bundle:
            yield work, number, self.fuse(work, base, *work.blocks[number])

    def fuse(self, work: TensorWork, base: Checkpoint, start: int, stop: int) -> Array:
        """Rows [start, stop) of the output tensor as they are stored. Raises WeightsError if any is not finite."""
        first, last = work.range(start, stop)
        if not work.taking:
            return self.copied(work, base, first, last)
        if self.strips is not None and work.uniform(base) and (first & 0xFFFFFFFF) + last - first <= 2**32:
            stored = self._by_strips(self.strips, work, base, first, last)
            if stored is not None:
                return stored
        origins: Origins = {}
        merged = self.change(work, start, stop, origins)
        there = origins.get(id(base))
        if there is None:
            there = self.wide(base, work.name, first, last, "base")
        if work.out.dtype == "BF16" and there.dtype == np.float32:
            stored = self.buffer("stored", last - first, np.uint16)
            finite = kernels.add_to_bf16(there, merged, np.float32(self.step), stored)
        else:
            total = there if there.dtype == np.float64 else self.buffer("total", last - first, np.float32)
            kernels.add(there, merged, np.float32(self.step), total)
            stored = narrow(total, work.out.dtype)
            finite = is_finite(stored, work.out.dtype)
        if not finite:
            raise self.not_finite(work, base, first, last)
        return stored

    def _by_strips(self, how: Strips, work: TensorWork, base: Checkpoint, first: int, last: int) -> Array | None:
        """A block of a tensor that all contributions store in the base's dtype.

        None if anything is not finite or a file ends too early: the general way says what and where.
        """
        dtype, size, n = STORED[work.stored.dtype], last - first, len(work.taking)
        generation = work.taking[0].origin
        read = [(d.files, str(d.names[work.name])) for d in work.taking] + [(generation, work.name)]
        read += [] if generation is base else [(base, work.name)]
        if len(work.blocks) == 1 and "keep" in work.asked and not self.over_model:
            for i in range(n):
                self.find_cuts(work, i)
        cuts = np.array([[lead.bits, lead.index, end.bits, end.index] for lead, end in work.cuts], np.int64)
        scales = np.array([d.source.scale for d in work.taking], np.float32)
        out = self.buffer("stored", size, dtype)
        weights, keys = how.weights(work.weights), np.array(work.keys, np.uint32)
        rest = (scales, how.kind, weights, cuts, keys, first, np.float32(how.density), np.float32(how.scale),
                np.float32(self.step), out)  # fmt: skip
        local = all(c.is_local for c, _ in read) and len(read) <= at_once()
        room = slab_elements(n, out.itemsize, size) if local else size + size % 2
        raw, origin = self.buffer("raws", n * room, dtype).reshape(n, room), self.buffer("origin", room, dtype)
        there = origin if generation is base else self.buffer("there", room, dtype)
        if local:
            with ExitStack() as meanwhile:
                places = [c.opened(name, first, last, meanwhile) for c, name in read]
                files, offsets = np.array([f for f, _ in places], np.int32), np.array([at for _, at in places])
                return out if fuse_strips(files, offsets, raw, origin, there, *rest) else None
        for into, (checkpoint, name) in zip((*raw, origin, there), read, strict=False):
            checkpoint.raw(name, first, last, into[:size])
        return out if fuse_strips(*NO_FILES, raw, origin, there, *rest) else None

    def not_finite(self, work: TensorWork, base: Checkpoint, first: int, last: int) -> WeightsError:
        """The error for elements [first, last) of a result with NaN or infinity."""
        bad = np.flatnonzero(~np.isfinite(self.wide(base, work.name, first, last, "explain")))
        if len(bad):
            where = f"{base.folder / base[work.name].file}: tensor {work.name}"
            at = index(base[work.name], first + int(bad[0]))
            return WeightsError(f"{where} holds NaN or infinity at {at} (the base): take a base without")
        why = f"{self.formula.method.name} gives NaN or infinity there, or values too large for {work.out.dtype}"
        return WeightsError(
            f"the fused tensor {work.name} is not finite: {why} (bf16 and fp32 reach further than fp16)"
        )

    def copied(self, work: TensorWork, base: Checkpoint, first: int, last: int) -> Array:
        """Elements of the base as they are, in the output's dtype.

        Raises WeightsError for NaN and infinity, which only what the model makes by itself, masks say, may hold.
        """
        raw = base.raw(work.name, first, last)
        data = raw if work.out.dtype == work.stored.dtype else narrow(widen(raw, work.stored.dtype), work.out.dtype)
        if work.out.dtype in WRITABLE and not is_buffer(work.name) and not is_finite(data, work.out.dtype):
            raise self.not_finite(work, base, first, last)
        return data

    def deltas(self, work: TensorWork, start: int, stop: int, origins: Origins | None = None) -> Array:
        """The changes of all contributions, capped: float32 (contributions, elements).

        `origins` keeps the rows of the generations that they started from, by the checkpoint's id.
        """
        first, last = work.range(start, stop)
        out = self.buffer("deltas", len(work.taking) * (last - first), np.float32).reshape(len(work.taking), -1)
        origins = {} if origins is None else origins
        for i in range(len(work.taking)):
            self.read(work, i, start, stop, out[i], origins)
        return out

    def read(self, work: TensorWork, i: int, start: int, stop: int, out: Array, origins: Origins) -> None:
        """The change of one contribution into `out`. Raises WeightsError, naming file and tensor, if it is infinite."""
        source = work.taking[i]
        if not self.delta(source, work.stored, start, stop, work.columns, out, origins, source.source.scale):
            raise self.explain(source, work.stored, start * work.columns, out)

    def change(self, work: TensorWork, start: int, stop: int, origins: Origins) -> Array:
        """What the method makes of rows [start, stop) of all contributions, float32 (elements,)."""
        if work.one_by_one:
            return self._one_by_one(work, start, stop, origins)
        return self.merged(work, self.deltas(work, start, stop, origins), start, stop)

    def _one_by_one(self, work: TensorWork, start: int, stop: int, origins: Origins) -> Array:
        import torch

        from hub_fusion.merge.inputs import Stack

        first, last = work.range(start, stop)
        shape, out = work.shape(start, stop), self.buffer("deltas", last - first, np.float32)

        def delta(i: int) -> torch.Tensor:
            self.read(work, i, start, stop, out, origins)
            made = torch.from_numpy(out).reshape(shape)
            return made.mT if work.turned else made

        count, seen = len(work.taking), shape[::-1] if work.turned else shape
        grams = (count, seen[-1], seen[-1])
        merged = self.formula(Stack((count, *seen), delta, torch.float32), torch.from_numpy(work.weights),
                              activations=Stack(grams, self.activations(work), torch.float32))  # fmt: skip
        return (merged.mT if work.turned else merged).reshape(-1).contiguous().numpy()

    def activations(self, work: TensorWork) -> Callable[[int], Any]:
        """One contribution's Gram matrix after another, as torch tensors; the mean of the others' for who has none."""
        import torch

        names = [d.statistic("activations", work.name) for d in work.taking]
        pooled: Array | None = None

        def one(i: int) -> Array:
            return self._statistic(work.taking[i], work, "activations", str(names[i]), 0, work.rows)

        if None in names:
            there = [i for i, name in enumerate(names) if name is not None]
            pooled = one(there[0])
            for i in there[1:]:
                pooled += one(i)
            pooled /= np.float32(len(there))
        return lambda i: torch.from_numpy(one(i) if names[i] is not None else pooled)

    def merged(self, work: TensorWork, deltas: Array, start: int, stop: int) -> Array:
        """The method's result, float32 (elements,). What belongs to a tensor of one block is worked out here."""
        first, _ = work.range(start, stop)
        if len(work.blocks) == 1:
            if "keep" in work.asked and not self.over_model:
                ranks = self.formula.ranks(work.size)
                work.cuts = [find_cuts(lambda d=d: [d], ranks, work.size) for d in deltas]  # type: ignore[misc]
            if "gram" in work.asked:
                work.gram = gram_of(deltas)
        if self.twin is not None:
            out = self.buffer("merged", deltas.shape[1], np.float32)
            self.twin(deltas, work.weights, Around(first, work.cuts, work.keys), self.formula.settings, out)
            return out
        return self._by_torch(work, deltas, start, stop)

    def _by_torch(self, work: TensorWork, deltas: Array, start: int, stop: int) -> Array:
        import torch

        from hub_fusion.merge.inputs import noise_like

        first, _ = work.range(start, stop)
        shape = (len(deltas), *work.shape(start, stop))
        tensors = torch.from_numpy(deltas).reshape(shape)
        inputs: dict[str, Any] = {}
        if "gram" in work.asked:
            inputs["gram"] = torch.from_numpy(work.gram)
        if "keep" in work.asked:
            kept = [
                last.before(d, first) & ~lead.before(d, first)
                for d, (lead, last) in zip(deltas, work.cuts, strict=True)
            ]
            inputs["keep"] = torch.from_numpy(np.stack(kept)).reshape(shape)
        if "noise" in work.asked:
            draw = partial(noise_like, start=first, seed=self.seed, tensor=work.name)
            pairs = zip(tensors, work.taking, strict=True)
            inputs["noise"] = torch.stack([draw(d, contribution=taken.source.key) for d, taken in pairs])
        for kind in STATISTICS & work.asked:
            found = self.statistics(work, kind, start, stop)
            inputs[kind] = None if found is None else torch.from_numpy(found)
        merged = self.formula(tensors.mT if work.turned else tensors, torch.from_numpy(work.weights), **inputs)
        merged = merged.mT if work.turned else merged
        return merged.to(torch.float32).reshape(-1).contiguous().numpy()

    def statistics(self, work: TensorWork, kind: str, start: int, stop: int) -> Array | None:
        """What contributors computed beside their weights; None unless all of them did for this tensor.

        ``fisher``: float32 (contributions, rows, …), rows [start, stop) of the diagonal, divided by the whole model's
        norm; ``activations``: float32 (contributions, inputs, inputs), Gram matrices of the layer's inputs. Where the
        option `missing` is "pool", who has none gets the mean of those who have.
        """
        names = [d.statistic(kind, work.name) for d in work.taking]
        there = [i for i, name in enumerate(names) if name is not None]
        if not there or (len(there) < len(names) and self.formula.settings.get("missing") != "pool"):
            return None
        found: Array | None = None
        for i in there:  # each into its place: matrices may be larger than the layer
            values = self._statistic(work.taking[i], work, kind, str(names[i]), start, stop)
            found = np.empty((len(names), *values.shape), np.float32) if found is None else found
            found[i] = values
        assert found is not None
        if len(there) < len(names):
            found[[i for i, name in enumerate(names) if name is None]] = np.mean(found[there], axis=0, dtype=np.float32)
        return found

    def _statistic(self, d: Deltas, work: TensorWork, kind: str, name: str, start: int, stop: int) -> Array:
        assert d.statistics is not None, d.source.key
        if kind == "activations":
            return d.statistics.gram(name, self.whole, by_trace=self.formula.settings.get("normalise") == "trace")
        rows = self.wide(d.statistics.files, f"fisher/{name}", *work.range(start, stop), "fisher").astype(np.float32)
        scaled: Array = rows.reshape(work.shape(start, stop)) / np.float32(self.norms[d.source.key])
        return scaled

    # what must be known of a whole tensor before its first block --------------------------------------------------
    def preparations(self, work: TensorWork) -> list[Callable[[], None]]:
        """What has to be done before the first block of a tensor of several, in any order."""
        tasks: list[Callable[[], None]] = []
        if len(work.blocks) > 1 and "gram" in work.asked:
            tasks.append(partial(self.find_gram, work))
        if len(work.blocks) > 1 and "keep" in work.asked and not self.over_model:
            tasks += [partial(self.find_cuts, work, i) for i in range(len(work.taking))]
        return tasks

    def find_gram(self, work: TensorWork) -> None:
        """Inner products of the contributions' deltas over the whole tensor, float64."""
        total = np.zeros((len(work.taking), len(work.taking)))
        for number in range(len(work.blocks)):
            total += self.inner_products(work, number)
        work.gram = total

    def inner_products(self, work: TensorWork, number: int) -> Array:
        """Those of one block."""
        return gram_of(self.deltas(work, *work.blocks[number]))

    def find_cuts(self, work: TensorWork, i: int) -> None:
        """The thresholds of one contribution."""
        work.cuts[i] = self.thresholds(partial(self.blocks, work, i), self.formula.ranks(work.size), work.size)

    def thresholds(self, blocks: Callable[[], Iterable[Array]], ranks: tuple[int, int], size: int) -> tuple[Cut, Cut]:
        """`find_cuts` of blocks that `self.blocks` gives."""
        return find_cuts(blocks, ranks, size)

    def blocks(self, work: TensorWork, i: int) -> Iterator[Array]:
        """The delta of one contribution, block by block, in a buffer that is used again."""
        for start, stop in longer(work.blocks, PASS_ELEMENTS // work.columns):
            out = self.buffer("delta", (stop - start) * work.columns, np.float32)
            self.read(work, i, start, stop, out, {})
            yield out
