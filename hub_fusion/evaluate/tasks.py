"""Held-out tasks on disk → arrays: what a checkpoint is judged on.

A task is a folder with the files ``train``, ``gate`` and ``report``, each ``.npz`` (images: ``pixel_values`` float32
(n, channels, height, width), already normalised as the base expects; ``label`` int64 (n,)) or ``.csv`` (columns
``text``, optionally ``text_pair``, and ``label``, a whole number). ``train`` and one of the other two are obligatory:
the gate decides by ``gate`` and never sees ``report``, which is what is told to people.
Not covered: regression, several labels per example, audio; and nobody checks that ``train`` and the test parts share
no example, nor that no contributor has trained on them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.recipe import Task
from hub_fusion.records import Role

Kind = Literal["image", "text"]
TEST_ROLES: tuple[Role, ...] = ("gate", "report")
CAP_SEED = 2212  # which test examples stay under max_test; fixed, so that all checkpoints meet the same ones


@dataclass(frozen=True, eq=False)
class Examples:
    """`inputs` (n, channels, height, width) float32, or (n, 1 or 2) str; `labels` (n,) int64."""

    inputs: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray[Any, Any]) -> Examples:
        """The examples at `rows`, in that order."""
        return Examples(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task in memory: `train` to learn from, `parts` to be tested on; `sha256` is over all examples, uncapped."""

    name: str
    kind: Kind
    num_labels: int
    train: Examples
    parts: dict[Role, Examples]
    sha256: str


def load_task(task: Task, *, max_test: int) -> TaskData:
    """Read and check a task folder; test parts longer than `max_test` keep a fixed random choice of it.

    Raises RecipeError that names the file, the law it breaks and the remedy.
    """
    if not task.folder.is_dir():
        raise RecipeError(f"task {task.name!r}: {task.folder} is not a folder; evaluate.tasks[].path must name one")
    files = {role: _find(task.folder, role) for role in ("train", *TEST_ROLES)}
    train_file = files["train"]
    if train_file is None or not any(files[role] for role in TEST_ROLES):
        need = "a task needs a train file and a gate or report file (.npz or .csv)"
        raise RecipeError(f"{task.folder}: {need}; add them")
    found = {role: _read(file) for role, file in files.items() if file is not None}
    train = found["train"]
    num_labels = int(train.labels.max()) + 1
    absent = sorted(set(range(min(num_labels, len(train) + 2))) - set(train.labels.tolist()))
    if num_labels < 2 or absent:
        raise RecipeError(
            f"{train_file}: labels must be 0 … k−1 with k ≥ 2 and each must occur; "
            f"k is {num_labels}, missing are {absent[:8]}; renumber the labels"
        )
    for role, part in found.items():
        if part.inputs.shape[1:] != train.inputs.shape[1:] or part.inputs.dtype != train.inputs.dtype:
            raise RecipeError(
                f"{files[role]}: every part has inputs of one shape and kind; here {part.inputs.shape[1:]} of "
                f"{part.inputs.dtype}, in train {train.inputs.shape[1:]} of {train.inputs.dtype}; convert it"
            )
        if int(part.labels.max()) >= num_labels:
            raise RecipeError(
                f"{files[role]}: label {int(part.labels.max())} does not occur in train; drop it or add it"
            )
    digest = hashlib.sha256()
    for role, part in sorted(found.items()):
        _feed(digest, role, part)
    kind: Kind = "text" if train.inputs.dtype == object else "image"
    parts = {cast(Role, r): _cap(found[r], max_test) for r in TEST_ROLES if r in found}
    return TaskData(task.name, kind, num_labels, train, parts, digest.hexdigest())


def _find(folder: Path, role: str) -> Path | None:
    files = [file for file in (folder / f"{role}.npz", folder / f"{role}.csv") if file.exists()]
    if len(files) > 1:
        raise RecipeError(f"{folder}: each part is one file, but {role}.npz and {role}.csv exist; remove one")
    return files[0] if files else None


def _read(file: Path) -> Examples:
    try:
        examples = _read_npz(file) if file.suffix == ".npz" else _read_csv(file)
    except (OSError, EOFError, zipfile.BadZipFile, csv.Error, ValueError, KeyError) as error:
        raise RecipeError(f"{file}: cannot be read as a task file: {error}; write it anew") from None
    if not len(examples):
        raise RecipeError(f"{file}: holds no example; a part of a task needs some, or remove the file")
    if int(examples.labels.min()) < 0:
        raise RecipeError(f"{file}: labels are 0, 1, 2 …, found {int(examples.labels.min())}; renumber them")
    return examples


def _read_npz(file: Path) -> Examples:
    with np.load(file, allow_pickle=False) as arrays:
        pixels, labels = arrays["pixel_values"], arrays["label"]
    if pixels.ndim != 4 or pixels.dtype != np.float32 or not np.isfinite(pixels).all():
        raise ValueError(
            f"pixel_values must be finite float32 (n, channels, height, width), not {pixels.dtype} {pixels.shape}"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"label must be whole numbers ({len(pixels)},), not {labels.dtype} {labels.shape}")
    return Examples(pixels, labels.astype(np.int64))


def _read_csv(file: Path) -> Examples:
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        columns = [c for c in ("text", "text_pair") if c in (reader.fieldnames or ())]
        if columns[:1] != ["text"] or "label" not in (reader.fieldnames or ()):
            raise ValueError(f"columns must be text, perhaps text_pair, and label; there are {reader.fieldnames}")
        rows = list(reader)
    torn = [number for number, row in enumerate(rows, 2) if None in row or None in row.values()]
    if torn:
        raise ValueError(f"row {torn[0]} does not have one value per column")
    texts = np.array([[row[c] for c in columns] for row in rows], dtype=object).reshape(len(rows), len(columns))
    return Examples(texts, np.array([int(row["label"]) for row in rows], dtype=np.int64))


def _feed(digest: Any, role: str, part: Examples) -> None:
    """Contents, not file bytes: the same examples have the same sum in any compression."""
    digest.update(json.dumps([role, part.inputs.shape, part.labels.tolist()]).encode())
    text = part.inputs.dtype == object
    digest.update(json.dumps(part.inputs.tolist()).encode() if text else part.inputs.astype("<f4").tobytes())


def _cap(part: Examples, max_test: int) -> Examples:
    if len(part) <= max_test:
        return part
    return part.take(np.sort(np.random.default_rng(CAP_SEED).permutation(len(part))[:max_test]))
