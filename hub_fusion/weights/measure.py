"""One pass over all task vectors of a round: are they finite, how long are they, how do they lie to each other?

The Gram matrix of the task vectors' body (contributions × contributions, float64) answers most of it: its diagonal
holds the squared lengths, two equal rows are copies, and the cosine of each with any weighted mean follows from it.
Shared heads, which only some contributions have, add to their norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.weights.checkpoint import FLOATS, Checkpoint, TensorSpec
from hub_fusion.weights.deltas import Deltas, Source, row_blocks, sharing_opener
from hub_fusion.weights.directions import layer_of
from hub_fusion.weights.names import is_buffer, kind_of
from hub_fusion.weights.noise import APART

if TYPE_CHECKING:
    import numpy as np

    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.reading import Reader

BLOCK_ELEMENTS = 4_000_000  # over all contributions: 16 MB in float32, 32 MB in float64
F16_LARGEST = 65504.0


@dataclass(frozen=True)
class Measures:
    """What the pass found, in the order of the sources."""

    gram: np.ndarray  # (contributions, contributions), float64; rows of those not finite leave those tensors out
    not_finite: dict[int, str] = field(default_factory=dict)  # contribution → first tensor with NaN or too large
    heads: Sequence[float] = ()  # squared lengths of what is changed in shared heads
    opposed: np.ndarray | None = None  # (contributions, contributions): share of sampled elements changed oppositely
    kinship: Sequence[float] = ()  # cosine of each one's matrices with the base's: near 1 after training
    layers: Mapping[str, Sequence[float]] = field(default_factory=dict)  # layer → squared lengths of the body's changes
    order: Mapping[int, float | None] = field(default_factory=dict)  # how far from noise, where noise.py was asked

    def only(self, rows: Sequence[int]) -> Measures:
        """The same of these contributions, in this order."""
        import numpy as np

        found = {place: self.not_finite[row] for place, row in enumerate(rows) if row in self.not_finite}
        opposed = None if self.opposed is None else self.opposed[np.ix_(rows, rows)]
        heads = [self.heads[row] for row in rows] if len(self.heads) else ()
        kinship = [self.kinship[row] for row in rows] if len(self.kinship) else ()
        layers = {layer: [squared[row] for row in rows] for layer, squared in self.layers.items()}
        order = {place: self.order[row] for place, row in enumerate(rows) if row in self.order}
        return Measures(self.gram[np.ix_(rows, rows)], found, heads, opposed, kinship, layers, order)

    def noise(self, i: int) -> bool:
        """Whether nothing tells its change from random numbers."""
        apart = self.order.get(i)
        return apart is not None and apart < APART

    def norm(self, i: int) -> float:
        """Euclidean norm of all of one task vector that is fused."""
        return math.sqrt(self._length(i) ** 2 + (self.heads[i] if len(self.heads) else 0.0))

    def _length(self, i: int) -> float:
        """Euclidean norm of the body."""
        return math.sqrt(max(float(self.gram[i, i]), 0.0))

    def distance(self, i: int, j: int) -> float:
        """Distance of two bodies' changes relative to the longer: 0 for copies, √2 for orthogonal ones of a length."""
        longest = max(self._length(i), self._length(j))
        squared = self.gram[i, i] + self.gram[j, j] - 2 * self.gram[i, j]
        return math.sqrt(max(float(squared), 0.0)) / longest if longest else 0.0

    def cosine(self, i: int, j: int) -> float:
        """Of two bodies' changes; 0 where either is zero."""
        lengths = self._length(i) * self._length(j)
        return max(-1.0, min(1.0, float(self.gram[i, j]) / lengths)) if lengths else 0.0

    def cosine_with_mean(self, i: int, weights: Sequence[float]) -> float:
        """Cosine of one body's change with the weighted sum of those that have a weight; 0 where either is zero."""
        import numpy as np

        used = [j for j, weight in enumerate(weights) if weight]  # NaN times 0 would be NaN
        w, gram = np.asarray(weights)[used], self.gram[np.ix_(used, used)]
        length = math.sqrt(max(float(w @ gram @ w), 0.0)) * self._length(i)
        return max(-1.0, min(1.0, float(self.gram[i, used] @ w) / length)) if length else 0.0


def measure(sources: Sequence[Source], base_folder: Path, compute: Compute) -> Measures:
    """Read what is fused of every source once. Call it in all processes; each reads its share of the tensors."""
    import numpy as np

    from hub_fusion.weights.reading import Reader

    opener = sharing_opener()
    base = opener(base_folder)
    opened = [Deltas(source, base, base_folder, opener) for source in sources]
    names = [n for n in base if kind_of(n) != "task" and not is_buffer(n) and base[n].dtype in FLOATS]
    body, shared, opposed, changed = (np.zeros((len(sources), len(sources))) for _ in range(4))
    kin = np.zeros((3, len(sources)))  # over the body's matrices: change · base, change · change, base · base
    layers: dict[str, np.ndarray] = {}
    not_finite: dict[int, int] = {}  # contribution → number of the tensor
    mine = range(compute.rank, len(names), compute.processes)
    look = partial(_look, Reader(), base, opened, compute.device)
    with compute.one_thread_each(), ThreadPoolExecutor(compute.threads) as pool:
        for number, seen in zip(mine, pool.map(look, (names[i] for i in mine)), strict=True):
            having, gram, signs, bad, along = seen
            (body if kind_of(names[number]) == "body" else shared)[np.ix_(having, having)] += gram
            opposed[np.ix_(having, having)] += signs[0]
            changed[np.ix_(having, having)] += signs[1]
            if kind_of(names[number]) == "body":
                squared = layers.setdefault(layer_of(names[number]), np.zeros(len(sources)))
                squared[having] += gram.diagonal()
                if len(base[names[number]].shape) > 1:
                    kin[:, having] += np.stack([along[:-1], gram.diagonal(), np.full(len(having), along[-1])])
            for i in bad:
                not_finite.setdefault(i, number)
    shares = compute.gather((body, shared.diagonal(), not_finite, opposed, changed, kin, layers))
    firsts: dict[int, int] = {}
    for share in shares:
        for i, number in share[2].items():
            firsts[i] = min(number, firsts.get(i, number))
    total = np.sum([share[0] for share in shares], axis=0)
    heads = np.sum([share[1] for share in shares], axis=0)
    opposite, both = (np.sum([(share[3], share[4])[part] for share in shares], axis=0) for part in (0, 1))
    named = {i: names[number] for i, number in sorted(firsts.items())}
    far = np.sum([share[5] for share in shares], axis=0)
    by_layer = {
        layer: np.sum([share[6].get(layer, np.zeros(len(sources))) for share in shares], axis=0).tolist()
        for layer in dict.fromkeys(layer_of(name) for name in names if kind_of(name) == "body")
    }
    return Measures(total, named, heads.tolist(), opposite / np.maximum(both, 1.0), _cosines(*far), by_layer)


def _cosines(along: np.ndarray, squared: np.ndarray, base: np.ndarray) -> list[float]:
    """Of base + change with base, from their inner products; 1 where the base has no matrix, or only zeros."""
    import numpy as np

    there = np.sqrt(np.maximum(base * (base + 2 * along + squared), 0.0))
    found = np.where(there > 0, (base + along) / np.where(there > 0, there, 1), 1)
    return [float(cosine) for cosine in np.clip(found, -1, 1)]


def _look(
    reader: Reader, base: Checkpoint, opened: Sequence[Deltas], device: str, name: str
) -> tuple[list[int], np.ndarray, np.ndarray, set[int], np.ndarray]:
    """Who has a say on a tensor, the inner products of their changes, their signs, and who is not finite (counts as 0).

    Last, those of the changes with the base, and of the base with itself.

    Signs are those of the tensor's first block: how many elements two change in opposite directions, and how many both.
    """
    import numpy as np

    spec = base[name]
    having = [i for i, deltas in enumerate(opened) if name in deltas.names and deltas.takes_part(name)]
    gram, bad = np.zeros((len(having), len(having))), set[int]()
    signs, along = np.zeros((2, len(having), len(having))), np.zeros(len(having) + 1)
    rows, columns = (spec.shape[0], prod(spec.shape[1:])) if spec.shape else (1, 1)
    for start, stop in row_blocks(rows, columns, BLOCK_ELEMENTS // len(having)) if having else ():
        size = (stop - start) * columns
        origins: dict[int, np.ndarray] = {}
        block = reader.buffer("block", len(having) * size, np.float32).reshape(len(having), size)
        for row, i in enumerate(having):
            finite = reader.delta(opened[i], spec, start, stop, columns, block[row], origins)
            if not finite or (spec.dtype == "F16" and _too_large(reader, base, spec, start * columns, block[row])):
                bad.add(i)
                block[row] = 0
        gram += _inner_products(block, device)
        there = reader.wide(base, name, start * columns, stop * columns, "there").astype(np.float64)
        along += np.append(block.astype(np.float64) @ there, there @ there)
        if start == 0:
            signs = _signs(block)
    for i in having:
        opened[i].forget(name)
    stays = np.array([i not in bad for i in having], dtype=np.float64)
    return having, gram * np.outer(stays, stays), signs, bad, along


def _signs(block: np.ndarray) -> np.ndarray:
    """(2, n, n): elements that two rows change oppositely, and elements that both change. Counts, exact in float32."""
    import numpy as np

    up, down = ((sign(block, 0)).astype(np.float32) for sign in (np.greater, np.less))
    moved = up + down
    return np.stack([up @ down.T + down @ up.T, moved @ moved.T]).astype(np.float64)


def _inner_products(block: np.ndarray, device: str) -> np.ndarray:
    """Of all pairs of rows, in float64."""
    from hub_fusion.weights.reading import gram_of

    if device == "cpu":
        return gram_of(block)
    import torch

    on_device = torch.from_numpy(block).to(device).double()
    product: np.ndarray = (on_device @ on_device.T).cpu().numpy()
    return product


def _too_large(reader: Reader, base: Checkpoint, spec: TensorSpec, first: int, change: np.ndarray) -> bool:
    """Whether a change of an F16 tensor leads where F16 does not reach."""
    import numpy as np

    there = reader.wide(base, spec.name, first, first + len(change), "there")
    return bool(len(change)) and float(np.abs(there + change).max()) > F16_LARGEST
