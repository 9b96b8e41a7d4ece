"""Run every protocol on every task for one checkpoint: folder → `Measurement`.

`suite_id` names what was asked; scores compare only within one suite. Answers are cached by (weights, suite), so that
a generation that is a parent twice is measured once. What the identity does not hold: versions of torch and
transformers, the device and the number of threads, which may move an accuracy by an example or two.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.fewshot import run_fewshot
from hub_fusion.evaluate.probe import run_probe
from hub_fusion.evaluate.scores import Key, Measurement, summarise
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.recipe import Evaluate
from hub_fusion.records import Role

PROTOCOL_VERSION = 1  # to be raised when a protocol changes what it computes


def suite_id(evaluate: Evaluate) -> str:
    """sha256 over the tasks' contents, protocols, seeds and sizes. Raises RecipeError for a malformed task."""
    return _identify(evaluate, _load_tasks(evaluate))


def measure(
    folder: Path, evaluate: Evaluate, *, weights_sha256: str, cache: Path | None = None,
    device: str = "cpu", progress: Callable[[str], None] | None = None,
) -> Measurement:  # fmt: skip
    """Scores and answers of the checkpoint in `folder`, whose weights have the sum `weights_sha256`.

    With `cache`, a folder, a measurement of the same weights by the same suite is read instead of made; a cache file
    that cannot be read is made anew. `progress` gets a sentence before every piece of work. Without tasks, the
    scores are empty. Raises RecipeError for tasks, WeightsError for checkpoints that cannot be used.
    """
    begin = time.monotonic()
    tasks = _load_tasks(evaluate)
    suite = _identify(evaluate, tasks)
    file = cache / f"{weights_sha256[:32]}-{suite[:32]}.npz" if cache else None
    header = {"suite": suite, "weights_sha256": weights_sha256}
    if file and (measurement := _read_cache(file, header)):
        return measurement
    correct: dict[Key, np.ndarray[Any, Any]] = {}
    for task in tasks:
        common = (range(evaluate.seeds), evaluate.max_length)
        if evaluate.probe:
            matrices = run_probe(folder, task, evaluate.probe, *common, device=device, progress=progress)
            correct |= {(task.name, role, "probe"): matrix for role, matrix in matrices.items()}
        if evaluate.fewshot:
            matrices = run_fewshot(folder, task, evaluate.fewshot, *common, device=device, progress=progress)
            correct |= {(task.name, role, "fewshot"): matrix for role, matrix in matrices.items()}
    seconds = round(time.monotonic() - begin, 3)
    if file:
        _write_cache(file, header | {"seconds": seconds}, correct)
    return Measurement(summarise(correct, suite=suite, weights_sha256=weights_sha256, seconds=seconds), correct)


def _load_tasks(evaluate: Evaluate) -> list[TaskData]:
    names = [task.name for task in evaluate.tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"evaluate.tasks: every task has its own name, given twice: {', '.join(twice)}; rename one")
    return [
        load_task(task, max_test=evaluate.max_test_examples) for task in sorted(evaluate.tasks, key=lambda t: t.name)
    ]


def _identify(evaluate: Evaluate, tasks: list[TaskData]) -> str:
    settings = evaluate.model_dump(mode="json", exclude={"tasks"})
    asked = {
        "version": PROTOCOL_VERSION,
        "settings": settings,
        "tasks": sorted([task.name, task.kind, *sorted(task.parts), task.sha256] for task in tasks),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _read_cache(file: Path, header: dict[str, str]) -> Measurement | None:
    """The measurement in `file`, or None if there is none, it is damaged, or it is of something else."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if {name: about[name] for name in header} != header:
                return None
            correct = {
                cast(tuple[str, Role, str], tuple(key)): arrays[f"correct-{n}"] for n, key in enumerate(about["keys"])
            }
        if any(matrix.ndim != 2 or matrix.dtype != np.uint8 or matrix.max() > 1 for matrix in correct.values()):
            return None
        return Measurement(summarise(correct, **header, seconds=float(about["seconds"])), correct)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        return None


def _write_cache(file: Path, about: dict[str, Any], correct: dict[Key, np.ndarray[Any, Any]]) -> None:
    """Written beside and renamed, so that nobody reads half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about | {"keys": [list(key) for key in correct]}).encode()
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        try:
            matrices = {f"correct-{n}": matrix for n, matrix in enumerate(correct.values())}
            np.savez_compressed(part, about=np.frombuffer(text, dtype=np.uint8), **matrices)  # type: ignore[arg-type]
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(file)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
