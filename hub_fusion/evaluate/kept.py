"""A whole measurement on disk: what every protocol answered for one checkpoint by one suite, and what it cost."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np

from hub_fusion.evaluate.scores import LIKELIHOODS, Cost, Key
from hub_fusion.records import Role

Kept = tuple[dict[Key, np.ndarray[Any, Any]], dict[tuple[str, str], Cost], float]
DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)


def read_cache(file: Path, header: dict[str, str]) -> Kept | None:
    """Answers, costs and seconds in `file`, or None if there is none, it is damaged, or it is of something else."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if {name: about[name] for name in header} != header:
                return None
            answers = {
                cast(tuple[str, Role, str], tuple(key)): arrays[f"answers-{n}"] for n, key in enumerate(about["keys"])
            }
        if not all(_sane(key[2], matrix) for key, matrix in answers.items()):
            return None
        costs = {
            (task, protocol): Cost(float(seconds), int(shown)) for task, protocol, seconds, shown in about["costs"]
        }
        return answers, costs, float(about["seconds"])
    except DAMAGED:
        return None


def write_cache(
    file: Path, header: dict[str, str], answers: dict[Key, np.ndarray[Any, Any]],
    costs: dict[tuple[str, str], Cost], seconds: float,
) -> None:  # fmt: skip
    """Keep a measurement for `read_cache`."""
    about: dict[str, Any] = {"seconds": seconds, "keys": [list(key) for key in answers]}
    about["costs"] = [[*key, cost.seconds, cost.shown] for key, cost in costs.items()]
    text = json.dumps(header | about).encode()
    arrays = {f"answers-{n}": matrix for n, matrix in enumerate(answers.values())}
    save_arrays(file, {"about": np.frombuffer(text, dtype=np.uint8), **arrays}, compressed=True)


def save_arrays(file: Path, arrays: dict[str, np.ndarray[Any, Any]], *, compressed: bool = False) -> None:
    """An ``.npz``, written beside and renamed, so that nobody reads half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        try:
            (np.savez_compressed if compressed else np.savez)(part, **arrays)  # type: ignore[arg-type]
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(file)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _sane(protocol: str, matrix: np.ndarray[Any, Any]) -> bool:
    if matrix.ndim != 2 or not matrix.size:
        return False
    if protocol in LIKELIHOODS:
        return matrix.dtype == np.float64 and bool(np.isfinite(matrix).all())
    return matrix.dtype == np.uint8 and int(matrix.max()) <= 1
