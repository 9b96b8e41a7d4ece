"""Reading what contributions changed, block by block, into float32 arrays of the calling thread."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np

from hub_fusion.errors import WeightsError
from hub_fusion.weights import kernels
from hub_fusion.weights.checkpoint import Checkpoint, TensorSpec
from hub_fusion.weights.codec import STORED, widen
from hub_fusion.weights.deltas import Deltas

PAGE = 4096  # bytes
Array = np.ndarray
Origins = dict[int, Array]  # id of a checkpoint → its rows of the block at hand, read once for all who started from it


class Reader:
    """Reads blocks of checkpoints and changes; every thread has buffers of its own, which the next block overwrites."""

    def __init__(self) -> None:
        self.scratch = threading.local()

    def delta(
        self, source: Deltas, spec: TensorSpec, start: int, stop: int, columns: int, out: Array, origins: Origins,
        scale: float = 1.0,
    ) -> bool:  # fmt: skip
        """What a contribution changed in rows [start, stop) of the base's tensor, times `scale`, into `out`.

        `out` is float32, flat; a row has `columns` elements. Gives whether all of it is finite.
        """
        name, first, last = spec.name, start * columns, stop * columns
        if name not in source.names:
            out[:] = 0
            return True
        change = source.change(name, partial(self.whole, source.files))
        saved, times = source.names[name], np.float32(scale)
        origin = self.origin(source, name, first, last, origins) if saved or (change and change.needs_origin) else None
        product = None
        if change is not None:
            shaped = None if origin is None else origin.reshape(-1, *spec.shape[1:])
            rows = (start, stop) if len(spec.shape) > 1 else (first, last)  # of a vector the elements
            product = np.asarray(change.rows(*rows, shaped), np.float32).reshape(-1)
        if not saved or origin is None:
            assert product is not None
            np.copyto(out, product)
            return bool(kernels.times(out, times))
        dtype = source.files[saved].dtype
        raw = source.files.raw(saved, first, last, self.buffer("raw", last - first, STORED[dtype]))
        factor = times if product is None else np.float32(1)
        if dtype == "BF16" and origin.dtype == np.float32:
            finite = kernels.subtract_bf16(raw, origin, factor, out)
        else:
            finite = kernels.subtract(widen(raw, dtype, self.buffer("wide", len(raw), np.float32)), origin, factor, out)
        if product is not None:
            np.add(out, product, out=out)
            finite = kernels.times(out, times) and finite
        return bool(finite)

    def origin(self, source: Deltas, name: str, first: int, last: int, origins: Origins) -> Array:
        """Elements of the generation that a contribution started from."""
        key = id(source.origin)
        if key not in origins:
            origins[key] = self.wide(source.origin, name, first, last, f"origin{len(origins)}")
        return origins[key]

    def wide(self, checkpoint: Checkpoint, name: str, first: int, last: int, key: str) -> Array:
        """Elements [first, last) of a stored tensor in float32 (float64 if stored so), in the buffer `key`."""
        dtype = checkpoint[name].dtype
        raw = checkpoint.raw(name, first, last, self.buffer(f"raw-{key}", last - first, STORED[dtype]))
        return widen(raw, dtype, self.buffer(key, last - first, np.float32))

    def whole(self, checkpoint: Checkpoint, name: str) -> Array:
        """A whole tensor in float32, in its shape, in memory of its own."""
        spec = checkpoint[name]
        raw = checkpoint.raw(name, 0, int(np.prod(spec.shape)))
        return widen(raw, spec.dtype).astype(np.float32, copy=False).reshape(spec.shape)

    def buffer(self, key: str, size: int, dtype: Any) -> Array:
        """An array of this thread's, whose contents are lost when the same key is asked for again."""
        buffers: dict[str, Array] = self.scratch.__dict__
        need = size * np.dtype(dtype).itemsize
        if key not in buffers or buffers[key].nbytes < need:
            room = np.empty(need + PAGE, np.uint8)  # the system copies faster to where a page begins
            buffers[key] = room[-room.ctypes.data % PAGE :][:need]
        return buffers[key][:need].view(dtype)

    def explain(self, source: Deltas, spec: TensorSpec, first: int, out: Array) -> WeightsError:
        """The error for a change of elements of `spec` from `first` on that is not finite: where that comes from."""
        at = first + int(np.flatnonzero(~np.isfinite(out))[0])
        target, saved = source.targets.get(spec.name), source.names[spec.name]
        for checkpoint, name in ((source.files, saved), (source.origin, spec.name)):
            if name and not np.isfinite(self.wide(checkpoint, name, at, at + 1, "explain")).all():
                file = checkpoint.folder / checkpoint[name].file
                return WeightsError(f"{file}: tensor {name} holds NaN or infinity at {index(spec, at)} "
                                    f"({source.source.key}): train again in a wider dtype")  # fmt: skip
        bad = [n for n in (target.reads if target else ()) if not np.isfinite(self.whole(source.files, n)).all()]
        what = f"tensor {bad[0]} holds NaN or infinity" if bad else "the change is larger than float32 can hold"
        return WeightsError(f"{source.files.folder}: {what} ({spec.name}{index(spec, at)}, {source.source.key})")


def index(spec: TensorSpec, at: int) -> str:
    """Where the element `at` of a flat tensor is in its shape, as ``[2, 3]``."""
    return "[" + ", ".join(str(int(i)) for i in np.unravel_index(at, spec.shape)) + "]"


def gram_of(deltas: Array) -> Array:
    """Inner products of all pairs of rows, float64."""
    wide = deltas.astype(np.float64)
    products: Array = wide @ wide.T
    return products
