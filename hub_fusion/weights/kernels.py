"""Inner loops, compiled by numba: they run without the interpreter's lock, in order, and without fast-math.

What they compute is defined by the torch functions in merge/ and by IEEE 754; tests hold the two together bit by bit.
Arrays are flat, contiguous and owned by the caller.
"""

from __future__ import annotations

import numpy as np

from hub_fusion.weights.compiled import compiled

MAGNITUDE = np.int32(0x7FFFFFFF)
INFINITE = np.int32(0x7F800000)  # magnitudes from here on are infinity or NaN
TOO_LARGE = np.uint32(0x7F7F8000)  # from here on they are, or round to infinity in bfloat16


@compiled
def widen_bf16(raw, out):
    """BFloat16 (uint16) → float32."""
    for j in range(len(out)):
        out[j] = np.uint32(np.uint32(raw[j]) << np.uint32(16)).view(np.float32)


@compiled
def narrow_bf16(values, out):
    """Float32 → bfloat16 (uint16), to nearest, ties to even; NaN stays NaN."""
    for j in range(len(out)):
        bits = np.float32(values[j]).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16)
        nan = np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[j] = np.uint32(0x7FC0) if nan else rounded


@compiled
def subtract_bf16(raw, origin, scale, out):
    """out = (bfloat16 − float32)·scale; gives whether all of it is finite."""
    largest = np.int32(0)
    for j in range(len(out)):
        wide = np.uint32(np.uint32(raw[j]) << np.uint32(16)).view(np.float32)
        delta = np.float32(np.float32(wide - origin[j]) * scale)
        out[j] = delta
        largest = max(largest, np.int32(np.float32(delta).view(np.int32) & MAGNITUDE))
    return largest < INFINITE


@compiled
def subtract(wide, origin, scale, out):
    """out = (wide − origin)·scale for float32 or float64, rounded to float32; gives whether all of it is finite."""
    largest = np.int32(0)
    for j in range(len(out)):
        delta = np.float32(np.float32(wide[j] - origin[j]) * scale)
        out[j] = delta
        largest = max(largest, np.int32(np.float32(delta).view(np.int32) & MAGNITUDE))
    return largest < INFINITE


@compiled
def times(values, scale):
    """values ← values·scale in float32; gives whether all of it is finite."""
    largest = np.int32(0)
    for j in range(len(values)):
        value = np.float32(values[j] * scale)
        values[j] = value
        largest = max(largest, np.int32(np.float32(value).view(np.int32) & MAGNITUDE))
    return largest < INFINITE


@compiled
def add(base, merged, step, out):
    """out = base + step·merged; where nothing was merged the base stays as it is, zeros with their sign."""
    for j in range(len(out)):
        change = np.float32(merged[j] * step)
        if change == np.float32(0):
            change = np.float32(-0.0)  # x + (−0) is x for every x, but −0 + 0 is 0
        out[j] = base[j] + change


@compiled
def add_to_bf16(base, merged, step, out):
    """`add` of float32, then rounded to bfloat16 (uint16); gives whether all of it is finite."""
    largest = np.uint32(0)
    for j in range(len(out)):
        change = np.float32(merged[j] * step)
        if change == np.float32(0):
            change = np.float32(-0.0)
        bits = np.float32(base[j] + change).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16))
        out[j] = rounded
        largest = max(largest, np.uint32(bits & np.uint32(0x7FFFFFFF)))
    return largest < TOO_LARGE


@compiled
def count_upper(deltas, counts):
    """Add to `counts` (32,768) how many magnitudes have which upper 15 bits."""
    for j in range(len(deltas)):
        counts[np.int32(np.float32(deltas[j]).view(np.int32) & MAGNITUDE) >> 16] += 1


@compiled
def count_lower(deltas, upper, counts):
    """Of the magnitudes with these upper 15 bits, add to `counts` (65,536) how many have which lower 16."""
    for j in range(len(deltas)):
        bits = np.int32(np.float32(deltas[j]).view(np.int32) & MAGNITUDE)
        if bits >> 16 == upper:
            counts[bits & 0xFFFF] += 1


@compiled
def count_equal(deltas, bits):
    """How many magnitudes have exactly these bits."""
    count = 0
    for j in range(len(deltas)):
        count += np.int32(np.float32(deltas[j]).view(np.int32) & MAGNITUDE) == bits
    return count


@compiled
def trim(deltas, bits, index, inside):
    """Zero where a magnitude does not lie before the cut (`inside`), or where it does (not `inside`); see Cut.

    `index` is the cut's, counted from the first element of `deltas`.
    """
    for j in range(len(deltas)):
        magnitude = np.int32(np.float32(deltas[j]).view(np.int32) & MAGNITUDE)
        before = (magnitude > bits) | ((magnitude == bits) & (j < index))
        deltas[j] = deltas[j] if before == inside else np.float32(0)


@compiled
def drop(deltas, low, high, key0, key1, density):
    """Keep each element with probability `density`, divided by it; the same numbers as merge.inputs.noise_like.

    `low` and `high` are the lower and upper 32 bits of the first element's index; the lower must not overflow.
    """
    over = np.uint32(np.uint32(np.uint32(high) * np.uint32(0x9E3779B1)) + np.uint32(key1))
    for j in range(len(deltas)):
        x = np.uint32(np.uint32(np.uint32(low) + np.uint32(j)) ^ np.uint32(key0))
        for again in range(2):
            if again:
                x = np.uint32(x + over)
            x = np.uint32(x ^ np.uint32(x >> np.uint32(16)))
            x = np.uint32(x * np.uint32(0x7FEB352D))
            x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
            x = np.uint32(x * np.uint32(0x846CA68B))
            x = np.uint32(x ^ np.uint32(x >> np.uint32(16)))
        uniform = np.float32(np.float32(np.uint32(x >> np.uint32(8))) * np.float32(2.0**-24))
        deltas[j] = np.float32(deltas[j] / density) if uniform < density else np.float32(0)


@compiled
def weighted_sum(deltas, coefficients, out):
    """out = Σ cᵢ·δᵢ in order, each product and each sum rounded to float32."""
    for j in range(deltas.shape[1]):
        out[j] = np.float32(deltas[0, j] * coefficients[0])
    for i in range(1, deltas.shape[0]):
        for j in range(deltas.shape[1]):
            out[j] = np.float32(out[j] + np.float32(deltas[i, j] * coefficients[i]))


@compiled
def add_change_bf16(raw, origin, scale, coefficient, out):
    """out += (bfloat16 − float32)·scale·coefficient as subtract_bf16 and weighted_sum do; whether all is finite."""
    largest = np.int32(0)
    for j in range(len(out)):
        wide = np.uint32(np.uint32(raw[j]) << np.uint32(16)).view(np.float32)
        delta = np.float32(np.float32(wide - origin[j]) * scale)
        out[j] = np.float32(out[j] + np.float32(delta * coefficient))
        largest = max(largest, np.int32(np.float32(delta).view(np.int32) & MAGNITUDE))
    return largest < INFINITE


@compiled
def add_change(wide, origin, scale, coefficient, out):
    """`add_change_bf16` of float32."""
    largest = np.int32(0)
    for j in range(len(out)):
        delta = np.float32(np.float32(wide[j] - origin[j]) * scale)
        out[j] = np.float32(out[j] + np.float32(delta * coefficient))
        largest = max(largest, np.int32(np.float32(delta).view(np.int32) & MAGNITUDE))
    return largest < INFINITE


@compiled
def mean_of_agreeing(deltas, weights, scale, out):
    """The weighted mean of those that are not 0 and have the sign of Σ wᵢ·δᵢ (in float64, + where 0), times `scale`."""
    strip = 1024  # fits the fastest cache
    totals, signs, shares = np.empty(strip, np.float64), np.empty(strip, np.float32), np.empty(strip, np.float32)
    for start in range(0, deltas.shape[1], strip):
        stop = min(start + strip, deltas.shape[1])
        size = stop - start
        total, sign, share, mean = totals[:size], signs[:size], shares[:size], out[start:stop]
        total[:] = 0.0
        share[:] = np.float32(0)
        mean[:] = np.float32(0)
        for i in range(deltas.shape[0]):
            _add_weighted(deltas[i, start:stop], np.float64(weights[i]), total)
        for j in range(size):
            sign[j] = np.float32(1) if total[j] >= 0 else np.float32(-1)
        for i in range(deltas.shape[0]):
            _add_agreeing(deltas[i, start:stop], weights[i], sign, mean, share)
        _divide(mean, share, scale)


# short loops over one-dimensional arrays are what the compiler turns into vector instructions


@compiled
def _add_weighted(delta, weight, total):
    for j in range(len(total)):
        total[j] += np.float64(delta[j]) * weight


@compiled
def _add_agreeing(delta, weight, sign, total, share):
    for j in range(len(total)):
        agrees = np.float32(delta[j] * sign[j]) > np.float32(0)
        total[j] = np.float32(total[j] + (np.float32(delta[j] * weight) if agrees else np.float32(0)))
        share[j] = np.float32(share[j] + (weight if agrees else np.float32(0)))


@compiled
def _divide(total, share, scale):
    smallest = np.float32(1.1754943508222875e-38)
    for j in range(len(total)):
        divisor = share[j] if share[j] > smallest else smallest
        mean = np.float32(total[j] / divisor)
        total[j] = np.float32((mean if share[j] > np.float32(0) else np.float32(0)) * scale)
