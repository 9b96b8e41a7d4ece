"""Fusing low-rank changes without ever making them dense: formulas on the factors of one module, in numpy.

ΔW = Σ cᵢ·sᵢ·Bᵢ·Aᵢ over adapters i with coefficient cᵢ and LoRA's scaling sᵢ. Laid side by side the factors are one
product `left` (rows × Σr) · `right` (Σr × columns), of which `cat` keeps everything and `svd` the best part of a given
rank. Arithmetic is float64, results are float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np

    from hub_fusion.weights.checkpoint import Checkpoint

    Array = np.ndarray[Any, Any]

NUMPY = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class Pair:
    """One adapter's factors of one module, as matrices."""

    a: Array  # (rank, columns)
    b: Array  # (rows, rank)
    scaling: float
    coefficient: float


@dataclass(frozen=True)
class Fused:
    """The factors of the result, what B·A is multiplied with, and what was lost against the exact sum."""

    a: Array
    b: Array
    scaling: float
    lost: float  # squared Frobenius norm of result − exact sum
    whole: float  # of the exact sum


def cat(pairs: Sequence[Pair]) -> Fused:
    """The exact sum: rank Σr, nothing lost."""
    left, right = side_by_side(pairs)
    return Fused(right, left, 1.0, 0.0, max(squared_norm(left, right), 0.0))


def average(pairs: Sequence[Pair]) -> Fused:
    """(Σ cᵢ·Bᵢ)·(Σ cᵢ·Aᵢ): Poly-μ (Caccia et al. 2023, arXiv 2211.03831, section 3.3). Rank as it was.

    Its cross terms cᵢ·cⱼ·Bᵢ·Aⱼ are no adapter's change; `lost` says how far they carry the result away. It is close to
    the sum only where all began from the same factors. Ranks and scalings must agree.
    """
    import numpy as np

    a = np.asarray(np.sum([pair.coefficient * pair.a for pair in pairs], axis=0, dtype=np.float64))
    b = np.asarray(np.sum([pair.coefficient * pair.b for pair in pairs], axis=0, dtype=np.float64))
    scaling = pairs[0].scaling
    left, right = side_by_side(pairs)
    lost = squared_norm(np.hstack([left, -scaling * b]), np.vstack([right, a]))
    return Fused(a, b, scaling, max(lost, 0.0), squared_norm(left, right))


def svd(pairs: Sequence[Pair], rank: int) -> Fused:
    """The best approximation of the sum with this rank (Eckart–Young), from QR of both sides and a small SVD.

    Both factors get the square root of the singular values. Signs are fixed, so that one machine gives the same bytes
    every time; other linear algebra libraries give the same up to rounding.
    """
    import numpy as np

    left, right = side_by_side(pairs)
    rows, upper = np.linalg.qr(left)
    columns, lower = np.linalg.qr(right.T)
    u, sizes, v = np.linalg.svd(upper @ lower.T, full_matrices=False)
    b, a = rows @ u[:, :rank], v[:rank] @ columns.T
    biggest = b[np.abs(b).argmax(axis=0), range(b.shape[1])]
    signs = np.where(biggest < 0, -1.0, 1.0)
    roots = np.sqrt(sizes[:rank])
    squares = sizes**2
    return Fused(a * (signs * roots)[:, None], b * (signs * roots), 1.0, float(squares[rank:].sum()),
                 float(squares.sum()))  # fmt: skip


def side_by_side(pairs: Sequence[Pair]) -> tuple[Array, Array]:
    """(rows, Σr) and (Σr, columns) in float64, whose product is the exact sum. Raises WeightsError if it overflows."""
    import numpy as np

    with np.errstate(over="ignore"):
        left = np.hstack([pair.b.astype(np.float64) * (pair.coefficient * pair.scaling) for pair in pairs])
    if not np.isfinite(left).all():
        raise WeightsError("the fused factors are not finite: an adapter's lora_alpha is too large")
    return left, np.vstack([pair.a.astype(np.float64) for pair in pairs])


def squared_norm(left: Array, right: Array) -> float:
    """‖left·right‖² from the two small Gram matrices."""
    return float(((left.T @ left) * (right @ right.T)).sum())


def relative(lost: float, whole: float) -> float:
    """√(lost/whole); 0 where nothing was to lose."""
    return math.sqrt(lost / whole) if whole > 0 else 0.0


def read_array(checkpoint: Checkpoint, name: str) -> Array:
    """A stored tensor of floats in float32, bfloat16 included. Raises WeightsError if it holds NaN or infinity."""
    import numpy as np

    spec = checkpoint[name]
    with (checkpoint.folder / spec.file).open("rb") as file:
        file.seek(spec.start)
        raw = file.read(spec.size_bytes)
    stored = np.frombuffer(raw, dtype=NUMPY[spec.dtype])
    if spec.dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        array: Array = stored.astype(np.float32, copy=False).reshape(spec.shape)
    if not np.isfinite(array).all():
        raise WeightsError(f"{checkpoint.folder}: tensor {name[:200]!r} holds NaN or infinity: leave that adapter out")
    return array
