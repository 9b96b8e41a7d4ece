"""One pass over all task vectors of a round: are they finite, how long are they, how do they lie to each other?

The Gram matrix of the task vectors (contributions × contributions, float64) answers all of it: its diagonal holds the
squared norms, two equal rows are copies, and the cosine of each with any weighted mean follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.weights.checkpoint import FLOATS, Checkpoint
from hub_fusion.weights.deltas import Deltas, Source, row_blocks
from hub_fusion.weights.names import kind_of

if TYPE_CHECKING:
    import numpy as np

    from hub_fusion.weights.compute import Compute

BLOCK_ELEMENTS = 4_000_000  # over all contributions: 16 MB in float32, 32 MB in float64


@dataclass(frozen=True)
class Measures:
    """What the pass found, in the order of the sources."""

    gram: np.ndarray  # (contributions, contributions), float64
    not_finite: dict[int, str] = field(default_factory=dict)  # contribution → first tensor with NaN or infinity

    def norm(self, i: int) -> float:
        """Euclidean norm of one task vector."""
        return math.sqrt(max(float(self.gram[i, i]), 0.0))

    def distance(self, i: int, j: int) -> float:
        """Distance of two task vectors relative to the longer one: 0 for copies, √2 for orthogonal ones of one length."""
        longest = max(self.norm(i), self.norm(j))
        squared = self.gram[i, i] + self.gram[j, j] - 2 * self.gram[i, j]
        return math.sqrt(max(float(squared), 0.0)) / longest if longest else 0.0

    def cosine_with_mean(self, i: int, weights: Sequence[float]) -> float:
        """Cosine of one task vector with the weighted sum of those that have a weight; 0 where either is zero."""
        import numpy as np

        used = [j for j, weight in enumerate(weights) if weight]  # NaN times 0 would be NaN
        w, gram = np.asarray(weights)[used], self.gram[np.ix_(used, used)]
        length = math.sqrt(max(float(w @ gram @ w), 0.0)) * self.norm(i)
        return max(-1.0, min(1.0, float(self.gram[i, used] @ w) / length)) if length else 0.0


def measure(sources: Sequence[Source], base_folder: Path, compute: Compute) -> Measures:
    """Read every body tensor of every source once. Call it in all processes; each reads its share of the tensors."""
    import numpy as np
    import torch

    base = Checkpoint.open(base_folder)
    opened = [Deltas(source, base, base_folder) for source in sources]
    names = [n for n in base if kind_of(n) == "body" and base[n].dtype in FLOATS]
    n = len(sources)
    gram = torch.zeros(n, n, dtype=torch.float64)
    not_finite: dict[int, str] = {}
    for name in names[compute.rank :: compute.processes]:
        having = [i for i, deltas in enumerate(opened) if name in deltas.names]
        for start, stop in row_blocks(base[name].shape, BLOCK_ELEMENTS // max(len(having), 1)):
            rows = [opened[i].rows(name, start, stop, compute.device).reshape(-1) for i in having]
            if not rows:
                break
            block = torch.stack(rows).double()
            part = (block @ block.T).cpu()
            for row, i in enumerate(having):
                if not math.isfinite(part[row, row]):
                    not_finite.setdefault(i, name)
            gram[np.ix_(having, having)] += part
    shares = compute.gather((gram.numpy(), not_finite))
    firsts: dict[int, str] = {}
    for _, found in shares:
        for i, name in found.items():
            firsts[i] = min(name, firsts.get(i, name))
    return Measures(np.sum([share for share, _ in shares], axis=0), firsts)
