"""Whole blocks in one compiled call, for the common case: finetunes of one generation, all stored in one dtype.

The block is worked through in strips that stay in the fastest caches: widen, subtract, merge, add, round. It gives
the bytes of the general way through Arithmetic (a test holds the two together), several times as fast. Files of this
machine are read by the same call, some strips of all contributions at a time: what is read is used while the core still
has it at hand, and no call of the interpreter is spent on it. They are read and not mapped, since a mapped file that is
cut short kills the process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from hub_fusion.weights import kernels, pairs
from hub_fusion.weights.compiled import compiled

LINEAR, TIES, DARE, DARE_TIES = range(4)
STRIP = 2048  # elements: 8 KB of float32
SLAB_BYTES = 9 * 2**17  # of all contributions together that are read at a time: about one core's second cache
_pread: Any = types.ExternalFunction("pread", types.intp(types.intc, types.uintp, types.uintp, types.int64))  # POSIX


def slab_elements(contributions: int, item_bytes: int, size: int) -> int:
    """How many elements of each contribution `fuse_strips` reads at a time: whole strips, no more than it needs."""
    strips = SLAB_BYTES // ((contributions + 1) * item_bytes * STRIP)
    return min(max(strips, 1) * STRIP, size + size % 2)


def _widen(raw, out): ...


@overload(_widen, jit_options={"nogil": True})
def _widen_of(raw, out):
    if raw.dtype == types.uint16:
        return lambda raw, out: kernels.widen_bf16(raw, out)

    def copy(raw, out):
        out[:] = raw

    return copy


def _subtract(raw, origin, scale, out): ...


@overload(_subtract, jit_options={"nogil": True})
def _subtract_of(raw, origin, scale, out):
    if raw.dtype == types.uint16:
        return lambda raw, origin, scale, out: kernels.subtract_bf16(raw, origin, scale, out)
    return lambda raw, origin, scale, out: kernels.subtract(raw, origin, scale, out)


def _add(base, merged, step, out): ...


@overload(_add, jit_options={"nogil": True})
def _add_of(base, merged, step, out):
    if out.dtype == types.uint16:
        return lambda base, merged, step, out: kernels.add_to_bf16(base, merged, step, out)

    def add(base, merged, step, out):
        kernels.add(base, merged, step, out)
        largest = np.int32(0)
        for j in range(len(out)):
            largest = max(largest, np.int32(np.float32(out[j]).view(np.int32) & kernels.MAGNITUDE))
        return largest < kernels.INFINITE

    return add


def _sum(raw, origin, base, scales, weights, step, start, out): ...


@overload(_sum, jit_options={"nogil": True})
def _sum_of(raw, origin, base, scales, weights, step, start, out):
    """One strip of a sum, which needs no changes side by side: `raw` from `start` on, the others are the strip's."""
    if raw.dtype == types.uint16:
        return lambda raw, origin, base, scales, weights, step, start, out: pairs.fuse_sum(
            raw, origin, base, scales, weights, step, start, out
        )

    def sum_(raw, origin, base, scales, weights, step, start, out):
        finite, merged = True, np.full(len(out), np.float32(-0.0))  # to which x adds as x, whatever its sign
        for i in range(len(raw)):
            finite &= kernels.add_change(raw[i, start : start + len(out)], origin, scales[i], weights[i], merged)
        return finite & _add(base, merged, step, out)

    return sum_


@compiled
def _read_at(descriptor, out, offset):
    """Fill `out` from a file; False where it ends too early or cannot be read."""
    at, left = out.ctypes.data, out.nbytes
    while left > 0:
        count = _pread(descriptor, at, left, offset)
        if count <= 0:
            return False
        at, left, offset = at + count, left - count, offset + count
    return True


@compiled
def _read_slab(files, offsets, passed, raw, origin, base, size):
    """`size` elements of everything, from `passed` bytes after the offsets on; False if they are not all there."""
    n = len(raw)
    for i in range(n):
        if not _read_at(files[i], raw[i, :size], offsets[i] + passed):
            return False
    if not _read_at(files[n], origin[:size], offsets[n] + passed):
        return False
    return len(files) == n + 1 or _read_at(files[n + 1], base[:size], offsets[n + 1] + passed)


@compiled
def fuse_strips(files, offsets, raw, origin, base, scales, kind, weights, cuts, keys, first, density, scale, step,
                out):  # fmt: skip
    """out = base + step·merge(raw − origin); gives whether all deltas and the result are finite.

    Also False if a file does not hold the block: reading again says why. `files` are the descriptors of the
    contributions, of the origin and, unless that is the origin, of the base; `offsets` where the block begins in each.
    `raw`, `origin` and `base` are room to read into, whole strips of it; without files they hold the block.
    `raw` is (contributions, elements), bfloat16 as uint16 or float32, like `origin`, `base` and `out` (elements,); all
    but `out` may be longer, rows of uint16 have an even length, and `base` may be `origin`.
    `cuts` is int64 (contributions, 4): bits and index of the leading and of the last cut; `keys` uint32
    (contributions, 2); `first` is the index of the first element, whose lower 32 bits must not overflow in the block.
    """
    n, m = len(raw), len(out)
    deltas = np.empty((n if kind != LINEAR else 0, STRIP), np.float32)
    start_, there, merged_ = np.empty(STRIP, np.float32), np.empty(STRIP, np.float32), np.empty(STRIP, np.float32)
    finite = True
    most = raw.shape[1] if len(files) else m
    for begin in range(0, m, STRIP):
        size, start = min(STRIP, m - begin), begin % most
        stop, result = start + size, out[begin : begin + size]
        if len(files) and start == 0:
            left = min(most, m - begin)
            if not _read_slab(files, offsets, begin * raw.itemsize, raw, origin, base, left):
                return False
        if kind == LINEAR:
            finite &= _sum(raw, origin[start:stop], base[start:stop], scales, weights, step, start, result)
            continue
        _widen(origin[start:stop], start_[:size])
        merged = merged_[:size]
        for i in range(n):
            delta = deltas[i, :size]
            finite &= _subtract(raw[i, start:stop], start_[:size], scales[i], delta)
            if kind == TIES:
                for side in range(2):
                    index = min(max(cuts[i, 2 * side + 1] - first - begin, 0), size)
                    if side == 1 or cuts[i, 0] != kernels.MAGNITUDE:
                        kernels.trim(delta, np.int32(cuts[i, 2 * side]), index, side == 1)
            else:
                at = first + begin
                kernels.drop(delta, np.uint32(at & 0xFFFFFFFF), np.uint32(at >> 32), keys[i, 0], keys[i, 1], density)
        block = deltas if size == STRIP else deltas[:, :size].copy()  # contiguous, or nothing is vectorised
        if kind == DARE:
            kernels.weighted_sum(block, weights, merged)
            for j in range(size):
                merged[j] = np.float32(merged[j] * scale)
        else:
            kernels.mean_of_agreeing(block, weights, scale, merged)
        _widen(base[start:stop], there[:size])
        finite &= _add(there[:size], merged, step, result)
    return finite
