"""One pass over all task vectors of a round: are they finite, how long are they, how do they lie to each other?

The Gram matrix of the task vectors' body (contributions × contributions, float64) answers most of it: its diagonal
holds the squared lengths, two equal rows are copies, and the cosine of each with any weighted mean follows from it.
Shared heads, which only some contributions have, add to their norms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.weights.checkpoint import FLOATS, Checkpoint
from hub_fusion.weights.deltas import Deltas, Source, row_blocks, rows_of
from hub_fusion.weights.names import kind_of

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hub_fusion.weights.compute import Compute

BLOCK_ELEMENTS = 4_000_000  # over all contributions: 16 MB in float32, 32 MB in float64
F16_LARGEST = 65504.0


@dataclass(frozen=True)
class Measures:
    """What the pass found, in the order of the sources."""

    gram: np.ndarray  # (contributions, contributions), float64; rows of those not finite leave those tensors out
    not_finite: dict[int, str] = field(default_factory=dict)  # contribution → first tensor with NaN or too large
    heads: Sequence[float] = ()  # squared lengths of what is changed in shared heads

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
    import torch

    base = Checkpoint.open(base_folder)
    opened = [Deltas(source, base, base_folder) for source in sources]
    names = [n for n in base if kind_of(n) != "task" and base[n].dtype in FLOATS]
    body, shared = (torch.zeros(len(sources), len(sources), dtype=torch.float64) for _ in range(2))
    not_finite: dict[int, int] = {}  # contribution → number of the tensor
    for number in range(compute.rank, len(names), compute.processes):
        name = names[number]
        gram = body if kind_of(name) == "body" else shared
        having = [i for i, deltas in enumerate(opened) if name in deltas.names and deltas.takes_part(name)]
        for start, stop in row_blocks(base[name].shape, BLOCK_ELEMENTS // max(len(having), 1)):
            rows = [opened[i].rows(name, start, stop, compute.device).reshape(-1) for i in having]
            if not rows:
                break
            block = torch.stack(rows).double()
            part = (block @ block.T).cpu()
            bad = _too_large(base, name, start, stop, rows) if base[name].dtype == "F16" else set()
            for row, i in enumerate(having):
                if row in bad or not math.isfinite(part[row, row]):
                    not_finite.setdefault(i, number)
                    part[row, :] = part[:, row] = 0.0
            gram[np.ix_(having, having)] += part
    shares = compute.gather((body.numpy(), shared.diagonal().numpy(), not_finite))
    firsts: dict[int, int] = {}
    for _, _, found in shares:
        for i, number in found.items():
            firsts[i] = min(number, firsts.get(i, number))
    total = np.sum([gram for gram, _, _ in shares], axis=0)
    heads = np.sum([lengths for _, lengths, _ in shares], axis=0)
    named = {i: names[number] for i, number in sorted(firsts.items())}
    return Measures(total, named, heads.tolist())


def _too_large(base: Checkpoint, name: str, start: int, stop: int, rows: Sequence[torch.Tensor]) -> set[int]:
    """Which of these changes of an F16 tensor lead where F16 does not reach."""
    here = rows_of(base, name, start, stop, str(rows[0].device)).reshape(-1)
    return {i for i, row in enumerate(rows) if row.numel() and float((here + row).abs().max()) > F16_LARGEST}
