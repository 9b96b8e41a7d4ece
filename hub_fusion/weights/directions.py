"""What the inner products of task vectors say: how they lie to each other, and how many directions they span.

Directions in weights are nearly orthogonal for different tasks, close for the same data (Gueta et al. 2023, arXiv
2302.04863); copies have cosine 1. None of this says whether fusing helps: it is for people who look at a generation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LAYER = re.compile(r"^(.*?\.\d+)\.")


def layer_of(name: str) -> str:
    """The layer a tensor belongs to: everything up to the first number, or what comes before the first dot.

    ``encoder.layer.3.output.dense.weight`` is of ``encoder.layer.3``, ``embeddings.word.weight`` of ``embeddings``.
    """
    found = LAYER.match(name)
    return found[1] if found else name.partition(".")[0]


def cosines(gram: np.ndarray) -> np.ndarray:
    """(n, n) from inner products (n, n); 0 where a vector is zero, else 1 on the diagonal."""
    import numpy as np

    lengths = np.sqrt(np.clip(np.diagonal(gram), 0, None))
    known = lengths > 0
    scale = np.where(known, lengths, 1.0)
    found = np.clip(gram / np.outer(scale, scale), -1, 1) * np.outer(known, known)
    np.fill_diagonal(found, known.astype(np.float64))
    return found


def spectrum(gram: np.ndarray) -> np.ndarray:
    """Shares (n,) of the squared length that the principal directions of n vectors hold, the largest first.

    They add up to 1 (all are 0 if the vectors are). Not centred: a direction that all share is the first.
    """
    import numpy as np

    values = np.clip(np.linalg.eigvalsh((gram + gram.T) / 2)[::-1], 0, None) if len(gram) else np.zeros(0)
    return values / values.sum() if values.sum() > 0 else values


def effective_directions(gram: np.ndarray) -> float:
    """The participation ratio (Σλ)²/Σλ² of the spectrum: n for orthogonal vectors of one length, 1 for copies.

    Vectors count by their length: one long and many short ones are little more than one direction. 0 for zeros.
    """
    shares = spectrum(gram)
    return float(1 / (shares**2).sum()) if shares.any() else 0.0
