"""Is a change random numbers? What training leaves in a matrix has an order that random numbers of the same sizes lack.

The singular values of a change are compared with those of the same numbers with random signs, after rows and columns
were made equally long so that only the signs can tell the two apart. Where a coin decided the signs already, the
spectra are as far apart as those of two coins: by about 2/n of their length, n the smaller side (singular values of
random matrices repel each other and hardly move). After training they are apart by a third and more: gradients have few
strong directions, and orthogonal steps (Muon) leave many equal ones. Changes that scale rows or columns of the base, as
(IA)³ does, have their order in the base's signs, so they are multiplied with these and compared again. What points
along the base itself, as weight decay does, is taken out first. The figures are in benchmarks/LOG.md.

Not covered: random numbers of low rank (an adapter that was never trained), noise with anything orderly added to it,
models without matrices of 64 by 64, and changes that really are random: what zeroth-order training, much noise for
privacy, dropping 99 % of a change, or storing it in 4 bits leaves of a short training cannot be told from noise,
because it is mostly noise. Changes so small that rounding to the 16 bits they were saved in can explain them are not
judged.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.weights.checkpoint import FLOATS, Checkpoint, TensorSpec
from hub_fusion.weights.deltas import Deltas, Source, sharing_opener
from hub_fusion.weights.directions import layer_of
from hub_fusion.weights.names import is_buffer, kind_of

if TYPE_CHECKING:
    import numpy as np

    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.measure import Measures
    from hub_fusion.weights.reading import Reader

LEAST, MOST = 64, 512  # rows and columns: of fewer nothing is said, of more these are looked at
READ_ELEMENTS = 4_000_000  # of a matrix at most
JUDGED, READ = 32, 128  # matrices of one contribution at most
APART = 1.5  # distances' excess over chance times √matrices: of noise at most 1.1, of training 20 and more
ALONG = 0.1  # cosine with the base above which that part is taken out, and share of the change that must then be left
ROUNDING = 0.6  # of 2^-p·‖base‖: rounding to p binary digits alone makes a change of 0.43 of it
DIGITS = {"BF16": 8, "F16": 11}  # binary digits of a number; others have 24 or more
STILL = 0.01  # /n: below this signs do not matter (one number in each row and column); coins are 0.3/n and more apart
ROUNDS = 4  # of making rows and columns equally long

Distances = tuple[float, float, float]


def find_order(
    sources: Sequence[Source], base_folder: Path, measures: Measures, compute: Compute
) -> dict[int, float | None]:
    """Contribution → how far from random its change is, as `_excess` says; below APART it is noise.

    None where there is no matrix to judge; those that are not finite are left out. A contribution is judged by up to 32
    matrices, in an order that a hash of their names decides, and no further than until it is no noise. Call it in all
    processes; each judges its share of the contributions. Memory: a few blocks of 16 MB for each thread.
    """
    from hub_fusion.weights.reading import Reader

    opener = sharing_opener()
    base = opener(base_folder)
    matrices = [name for name in base if _is_matrix(base[name])]
    matrices.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    reader = Reader()

    def judge(i: int) -> float | None:
        """Of one contribution."""
        deltas = Deltas(sources[i], base, base_folder, opener)
        changed = [name for name in matrices if name in deltas.names and measures.layers[layer_of(name)][i]]
        return _judge(reader, base, deltas, changed)

    mine = [i for i in range(compute.rank, len(sources), compute.processes) if i not in measures.not_finite]
    with compute.one_thread_each(), ThreadPoolExecutor(compute.threads) as pool:
        found = dict(zip(mine, pool.map(judge, mine), strict=True))
    told = {i: apart for share in compute.gather(found) for i, apart in share.items()}
    return {i: told[i] for i in sorted(told)}


def _is_matrix(spec: TensorSpec) -> bool:
    """Whether it can be judged: a body's, and large enough each way; of more dimensions all but the first are one."""
    if spec.dtype not in FLOATS or len(spec.shape) < 2 or kind_of(spec.name) != "body" or is_buffer(spec.name):
        return False
    return spec.shape[0] >= LEAST and LEAST <= prod(spec.shape[1:]) <= READ_ELEMENTS // LEAST


def _judge(reader: Reader, base: Checkpoint, deltas: Deltas, names: Sequence[str]) -> float | None:
    judged: list[Distances] = []
    for name in names[:READ]:
        change, origin = _read(reader, base, deltas, name)
        saved = deltas.names[name]  # None: an adapter's product
        digits = DIGITS.get(deltas.files[saved].dtype, 24) if saved else math.inf
        found = _distances(change, origin, name, ROUNDING * 2**-digits)
        if found:
            judged.append(found)
            if _excess(judged) >= APART or len(judged) == JUDGED:
                break
    return _excess(judged) if judged else None


def _excess(judged: Sequence[Distances]) -> float:
    """(distance / distance by chance − 1)·√matrices, of sums over the matrices; the larger of the two ways to look.

    Example: 32 matrices that are on average 1.05 times as far from random signs as other random signs are have 0.28.
    """
    plain, signed, chance = (sum(distances) for distances in zip(*judged, strict=True))
    return (max(plain, signed) / chance - 1) * math.sqrt(len(judged))


def _read(reader: Reader, base: Checkpoint, deltas: Deltas, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The first rows and columns of a change, and of what was changed; float64, at most (512, 512)."""
    import numpy as np

    spec, columns = base[name], prod(base[name].shape[1:])
    rows = min(spec.shape[0], MOST, READ_ELEMENTS // columns)
    out, origins = np.empty(rows * columns, np.float32), dict[int, np.ndarray]()
    reader.delta(deltas, spec, 0, rows, columns, out, origins)
    origin = reader.origin(deltas, name, 0, rows * columns, origins)
    deltas.forget(name)
    change, origin = (a.reshape(rows, columns)[:, :MOST].astype(np.float64) for a in (out, origin))
    return change, origin


def _distances(change: np.ndarray, origin: np.ndarray, name: str, rounding: float = 0.0) -> Distances | None:
    """How far a change is from the same numbers with random signs: as it is, by the base's signs, and by other coins.

    Distances of spectra, relative to their length. Of the rows and columns that changed at all; None where these are
    too few, only the base's length changed, signs do not matter, or the change is no longer than `rounding` times what
    was changed.
    """
    import numpy as np

    columns = (change != 0).any(axis=0)
    rows = (change != 0).any(axis=1)
    change, origin = change[rows][:, columns], origin[rows][:, columns]
    if min(change.shape) < LEAST:
        return None
    length, other = (float(np.linalg.norm(part)) for part in (change, origin))
    cosine = float((change * origin).sum()) / (length * other) if other else 0.0
    if abs(cosine) > ALONG:
        change = change - cosine * length / other * origin
    left = float(np.linalg.norm(change))
    if left < ALONG * length or left <= rounding * other:
        return None
    for axis in (1, 0) * ROUNDS:
        norms = np.linalg.norm(change, axis=axis, keepdims=True)
        change = change / np.where(norms > 0, norms, 1)
    coins, size = _signs((2, *change.shape), name), float(np.linalg.norm(change))
    against = _spectrum(change * coins[0])
    plain, signed, chance = (
        float(np.linalg.norm(_spectrum(change * signs) - against)) / size
        for signs in (1.0, np.where(origin < 0, -1.0, 1.0), coins[1])
    )
    return None if chance < STILL / min(change.shape) else (plain, signed, chance)


def _spectrum(matrix: np.ndarray) -> np.ndarray:
    """Its singular values, the smallest first."""
    import numpy as np

    smaller = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values: np.ndarray = np.sqrt(np.clip(np.linalg.eigvalsh(smaller @ smaller.T), 0, None))
    return values


def _signs(shape: tuple[int, ...], name: str) -> np.ndarray:
    """±1 by a coin; the same ones on every machine."""
    import numpy as np

    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    words = np.random.Philox(key=key).random_raw(-(-prod(shape) // 64)).astype("<u8")
    coins: np.ndarray = np.unpackbits(words.view(np.uint8))[: prod(shape)].reshape(shape)
    return coins * 2.0 - 1.0
