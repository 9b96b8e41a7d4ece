"""Sums of changes in bfloat16, two neighbours at a time: the halves of a 32-bit word.

Each half becomes a float32 by a shift or a mask where it lies, so nothing moves between the lanes of a vector, and
four contributions share one pass over the sum. The bytes are those of kernels.py, element by element in the same
order. Arrays are flat and contiguous.
"""

from __future__ import annotations

import numpy as np

from hub_fusion.weights import kernels
from hub_fusion.weights.compiled import compiled

UPPER, HALF = np.uint32(0xFFFF0000), np.uint32(16)


@compiled
def _low(word):
    return np.uint32(np.uint32(word) << HALF).view(np.float32)


@compiled
def _high(word):
    return np.uint32(np.uint32(word) & UPPER).view(np.float32)


@compiled
def _term(wide, origin, scale, coefficient):
    return np.float32(np.float32(np.float32(wide - origin) * scale) * coefficient)


@compiled
def _add_change(raw, origin, s, c, low, high):
    """(low, high) += (raw − origin)·s·c, every product and every sum rounded to float32."""
    for j in range(len(low)):
        low[j] = np.float32(low[j] + _term(_low(raw[j]), _low(origin[j]), s, c))
        high[j] = np.float32(high[j] + _term(_high(raw[j]), _high(origin[j]), s, c))


@compiled
def _add_four(raw0, raw1, raw2, raw3, origin, s, c, low, high):
    """`_add_change` of four contributions, one after another; `s` and `c` have their scales and coefficients."""
    s0, s1, s2, s3, c0, c1, c2, c3 = s[0], s[1], s[2], s[3], c[0], c[1], c[2], c[3]
    for j in range(len(low)):
        from_low, from_high = _low(origin[j]), _high(origin[j])
        x = np.float32(low[j] + _term(_low(raw0[j]), from_low, s0, c0))
        y = np.float32(high[j] + _term(_high(raw0[j]), from_high, s0, c0))
        x = np.float32(x + _term(_low(raw1[j]), from_low, s1, c1))
        y = np.float32(y + _term(_high(raw1[j]), from_high, s1, c1))
        x = np.float32(x + _term(_low(raw2[j]), from_low, s2, c2))
        y = np.float32(y + _term(_high(raw2[j]), from_high, s2, c2))
        low[j] = np.float32(x + _term(_low(raw3[j]), from_low, s3, c3))
        high[j] = np.float32(y + _term(_high(raw3[j]), from_high, s3, c3))


@compiled
def _total(base, merged, step):
    """The bits of base + step·merged, as kernels.add has it."""
    change = np.float32(merged * step)
    if change == np.float32(0):
        change = np.float32(-0.0)
    return np.float32(base + change).view(np.uint32)


@compiled
def _rounded(bits):
    """Bits whose upper half is the number rounded to bfloat16, to nearest, ties to even."""
    odd = np.uint32(np.uint32(bits >> HALF) & np.uint32(1))
    return np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd)


@compiled
def _add(base, low, high, step, out):
    """out = base + step·(low, high), rounded to bfloat16; gives whether all of it is finite.

    That also says whether all changes were: infinity and NaN stay what they are through sums and products.
    """
    largest = np.uint32(0)
    for j in range(len(out)):
        x, y = _total(_low(base[j]), low[j], step), _total(_high(base[j]), high[j], step)
        out[j] = np.uint32(np.uint32(_rounded(x) >> HALF) | np.uint32(_rounded(y) & UPPER))
        largest = max(largest, np.uint32(x & np.uint32(0x7FFFFFFF)), np.uint32(y & np.uint32(0x7FFFFFFF)))
    return largest < kernels.TOO_LARGE


@compiled
def fuse_sum(raw, origin, base, scales, weights, step, start, out):
    """out = base + step·Σ (raw − origin)·scale·weight, all of them bfloat16 (uint16); whether all of it is finite.

    `raw` is (contributions, elements), taken from the even number `start` on, its rows of even length; the others are
    (elements,).
    """
    n, half = len(raw), len(out) // 2
    even, stop = 2 * half, start + 2 * half
    low, high = np.full(half, np.float32(-0.0)), np.full(half, np.float32(-0.0))
    from_ = origin[:even].view(np.uint32)
    for i in range(0, n - 3, 4):
        _add_four(raw[i, start:stop].view(np.uint32), raw[i + 1, start:stop].view(np.uint32),
                  raw[i + 2, start:stop].view(np.uint32), raw[i + 3, start:stop].view(np.uint32),
                  from_, scales[i : i + 4], weights[i : i + 4], low, high)  # fmt: skip
    for i in range(n - n % 4, n):
        _add_change(raw[i, start:stop].view(np.uint32), from_, scales[i], weights[i], low, high)
    finite = _add(base[:even].view(np.uint32), low, high, step, out[:even].view(np.uint32))
    if even < len(out):  # the last one has no neighbour
        wide, merged = np.empty(1, np.float32), np.full(1, np.float32(-0.0))
        kernels.widen_bf16(origin[even:], wide)
        for i in range(n):
            kernels.add_change_bf16(raw[i, stop : stop + 1], wide, scales[i], weights[i], merged)
        kernels.widen_bf16(base[even:], wide)
        finite &= kernels.add_to_bf16(wide, merged, step, out[even:])
    return finite
