"""Whole blocks in one compiled call, for the common case: finetunes of one generation, all stored in one dtype.

The block is worked through in strips that stay in the fastest caches: widen, subtract, merge, add, round. It gives
the bytes of the general way through Arithmetic (a test holds the two together), several times as fast.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from hub_fusion.weights import kernels
from hub_fusion.weights.compiled import compiled

LINEAR, TIES, DARE, DARE_TIES = range(4)
STRIP = 2048  # elements: 8 KB of float32


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


def _add_change(raw, origin, scale, coefficient, out): ...


@overload(_add_change, jit_options={"nogil": True})
def _add_change_of(raw, origin, scale, coefficient, out):
    if raw.dtype == types.uint16:
        return lambda raw, origin, scale, coefficient, out: kernels.add_change_bf16(
            raw, origin, scale, coefficient, out
        )
    return lambda raw, origin, scale, coefficient, out: kernels.add_change(raw, origin, scale, coefficient, out)


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


@compiled
def fuse_strips(raw, origin, base, scales, kind, weights, cuts, keys, first, density, scale, step, out):
    """out = base + step·merge(raw − origin); gives whether all deltas and the result are finite.

    `raw` is (contributions, elements), bfloat16 as uint16 or float32, like `origin`, `base` and `out` (elements,).
    `cuts` is int64 (contributions, 4): bits and index of the leading and of the last cut; `keys` uint32
    (contributions, 2); `first` is the index of the first element, whose lower 32 bits must not overflow in the block.
    """
    n, m = raw.shape
    deltas, start_, there = np.empty((n, STRIP), np.float32), np.empty(STRIP, np.float32), np.empty(STRIP, np.float32)
    merged_ = np.empty(STRIP, np.float32)
    finite = True
    for start in range(0, m, STRIP):
        stop = min(start + STRIP, m)
        size = stop - start
        _widen(origin[start:stop], start_[:size])
        merged = merged_[:size]
        if kind == LINEAR:  # a sum needs no changes side by side
            merged[:] = np.float32(-0.0)  # to which x adds as x, whatever its sign
            for i in range(n):
                finite &= _add_change(raw[i, start:stop], start_[:size], scales[i], weights[i], merged)
        for i in range(n if kind != LINEAR else 0):
            delta = deltas[i, :size]
            finite &= _subtract(raw[i, start:stop], start_[:size], scales[i], delta)
            if kind == TIES:
                for side in range(2):
                    index = min(max(cuts[i, 2 * side + 1] - first - start, 0), size)
                    if side == 1 or cuts[i, 0] != kernels.MAGNITUDE:
                        kernels.trim(delta, np.int32(cuts[i, 2 * side]), index, side == 1)
            else:
                at = first + start
                kernels.drop(delta, np.uint32(at & 0xFFFFFFFF), np.uint32(at >> 32), keys[i, 0], keys[i, 1], density)
        block = deltas if size == STRIP else deltas[:, :size].copy()  # contiguous, or nothing is vectorised
        if kind == DARE:
            kernels.weighted_sum(block, weights, merged)
            for j in range(size):
                merged[j] = np.float32(merged[j] * scale)
        elif kind != LINEAR:
            kernels.mean_of_agreeing(block, weights, scale, merged)
        _widen(base[start:stop], there[:size])
        finite &= _add(there[:size], merged, step, out[start:stop])
    return finite
