"""Gate and report examples split off the training examples, where a task has no files of its own for them.

An example's side follows from the seed and its input alone: not from the order of the file, nor from what else is in
it, so that a task that grows or is shuffled keeps its sides, and an input that occurs twice is on one side. Texts that
differ in case and white space only count as the same. Sizes are as asked within chance: 0.2 of 1000 is 200 ± 13.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.task_files import Examples


def split_off(examples: Examples, shares: Mapping[str, float], seed: int, where: str) -> dict[str, Examples]:
    """part → its share of `examples`, and what is left as ``train``. RecipeError if a part has none."""
    places = np.array([_place(row, seed) for row in examples.inputs])
    found, start = {}, 0.0
    for part, share in shares.items():
        found[part] = examples.take(np.flatnonzero((places >= start) & (places < start + share)))
        start += share
    found["train"] = examples.take(np.flatnonzero(places >= start))
    if empty := [part for part, chosen in found.items() if not len(chosen)]:
        raise RecipeError(
            f"{where}: of {len(examples)} examples, split by {dict(shares)}, none is left for {' and '.join(empty)}; "
            "give other shares or another seed, or more examples"
        )
    return found


def _place(row: np.ndarray[Any, Any], seed: int) -> float:
    """Where an input lies between 0 and 1."""
    if row.dtype != object or isinstance(row[0], bytes):
        content = row.tobytes() if row.dtype != object else row[0]
    else:
        content = json.dumps([" ".join(text.split()).casefold() for text in row]).encode()
    digest = hashlib.blake2b(content, digest_size=8, salt=b"split", person=str(seed).encode()).digest()
    return int.from_bytes(digest) / 2**64
