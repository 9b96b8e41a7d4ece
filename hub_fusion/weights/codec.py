"""Stored numbers ↔ float32: bfloat16 and the 8-bit floats, which numpy does not know, and those that it does.

Every float16, bfloat16 and 8-bit float is a float32 exactly; float64 stays float64. Back, values are rounded to
nearest, ties to even, as IEEE 754 has it; beyond the largest they become infinite.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from hub_fusion.weights import kernels

STORED = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "I16": np.int16,
    "U16": np.uint16, "F16": np.float16, "BF16": np.uint16, "I32": np.int32, "U32": np.uint32, "F32": np.float32,
    "F64": np.float64, "I64": np.int64, "U64": np.uint64, "C64": np.complex64,
}  # fmt: skip  # safetensors' name → how numpy holds it
EXPONENT = {"BF16": np.uint16(0x7F80), "F16": np.uint16(0x7C00)}  # all of these bits are set in NaN and infinity


def widen(raw: np.ndarray, dtype: str, out: np.ndarray | None = None) -> np.ndarray:
    """Stored floats (flat) as float32, or float64 where they are; into `out` (float32) where that is given and fits."""
    if dtype == "F64":
        return raw
    if out is None:
        out = np.empty(len(raw), np.float32)
    if dtype == "BF16":
        kernels.widen_bf16(raw, out)
    elif dtype.startswith("F8"):
        np.take(_table(dtype), raw, out=out)
    else:
        np.copyto(out, raw)
    return out


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 or float64 values, rounded to a dtype as it is stored."""
    if dtype == "BF16":
        out = np.empty(len(values), np.uint16)
        kernels.narrow_bf16(values.astype(np.float32, copy=False), out)
        return out
    with np.errstate(over="ignore"):  # the caller looks for what is no longer finite
        return values.astype(STORED[dtype])


def is_finite(stored: np.ndarray, dtype: str) -> bool:
    """Whether stored floats hold neither NaN nor infinity."""
    if dtype in EXPONENT:  # numpy is slow with halves
        bits = EXPONENT[dtype]
        return not bool(((stored.view(np.uint16) & bits) == bits).any())
    return bool(np.isfinite(stored).all())


@cache
def _table(dtype: str) -> np.ndarray:
    """All 256 values of an 8-bit float (OCP 8-bit floating point specification, section 5.2) as float32."""
    exponent_bits, mantissa_bits = (4, 3) if dtype == "F8_E4M3" else (5, 2)
    bias = 2 ** (exponent_bits - 1) - 1
    values = np.empty(256, np.float32)
    for code in range(256):
        exponent = (code >> mantissa_bits) & (2**exponent_bits - 1)
        mantissa = (code & (2**mantissa_bits - 1)) / 2**mantissa_bits
        size = 2.0 ** (exponent - bias) * (1 + mantissa) if exponent else 2.0 ** (1 - bias) * mantissa
        if dtype == "F8_E4M3" and code & 0x7F == 0x7F:
            size = np.nan
        if dtype == "F8_E5M2" and exponent == 31:
            size = np.nan if mantissa else np.inf
        values[code] = -size if code & 0x80 else size
    return values
