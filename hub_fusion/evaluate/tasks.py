"""Held-out tasks on disk → arrays: what a checkpoint is judged on.

A task is a folder with the files ``train``, ``gate`` (or ``validation``) and ``report`` (or ``test``), in the formats
of `task_files`. ``train`` and one of the other two are obligatory: the gate decides by ``gate`` and never sees
``report``, which is what is told to people. A task of the recipe may have a role of its own: *gate* and *report* tasks
have one test part only, and *seen* ones, on which contributors have trained, are told apart from both.
Plain text, by whose perplexity language models are judged, needs no ``train``.
Not covered: regression, several labels per example, audio; and nobody checks that ``train`` and the test parts share
no example, nor that no contributor has trained on them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.task_files import SUFFIXES, Examples, read_examples
from hub_fusion.recipe import Task
from hub_fusion.records import Role

Kind = Literal["image", "text", "plain"]
FILES: dict[str, tuple[str, ...]] = {"train": ("train",), "gate": ("gate", "validation"), "report": ("report", "test")}
WANTED = {
    None: ("gate", "report"),
    "gate": ("gate", "report"),
    "report": ("report", "gate"),
    "seen": ("report", "gate"),
}
CAP_SEED = 2212  # which test examples stay under max_test; fixed, so that all checkpoints meet the same ones


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task in memory: `train` to learn from, `parts` to be tested on; `sha256` is over all examples, uncapped.

    Plain text has no labels, and nothing is learned from it: its `train` is one of the parts.
    """

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
    files = {role: _find(task.folder, names) for role, names in FILES.items()}
    present = [role for role in WANTED[task.role] if files[role]]
    train_file = files["train"]
    if present and _is_plain(cast(Path, files[present[0]]), train_file):
        return _load_plain(task, {role: cast(Path, files[role]) for role in present})
    if train_file is None or not present:
        need = f"a task needs a train file and a gate or report file ({', '.join(SUFFIXES)})"
        raise RecipeError(f"{task.folder}: {need}; add them")
    tests: dict[Role, str] = {task.role: present[0]} if task.role else {cast(Role, role): role for role in present}
    found = {part: read_examples(cast(Path, files[part])) for part in ("train", *tests.values())}
    train = found["train"]
    if plain := [str(files[part]) for part, examples in found.items() if not examples.labelled]:
        raise RecipeError(f"{', '.join(plain)}: plain text beside examples with labels; a task is either; split it")
    num_labels = int(train.labels.max()) + 1
    absent = sorted(set(range(min(num_labels, len(train) + 2))) - set(train.labels.tolist()))
    if num_labels < 2 or absent:
        raise RecipeError(
            f"{train_file}: labels must be 0 … k−1 with k ≥ 2 and each must occur; "
            f"k is {num_labels}, missing are {absent[:8]}; renumber the labels"
        )
    for role, part in found.items():
        if part.names and train.names and part.names != train.names:
            raise RecipeError(
                f"{files[role]}: the same number means another label than in train ({part.names[:4]}… here, "
                f"{train.names[:4]}… there); write both with one list of label names"
            )
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
    parts: dict[Role, Examples] = {role: _cap(found[part], max_test) for role, part in tests.items()}
    return TaskData(task.name, kind, num_labels, train, parts, digest.hexdigest())


def _is_plain(test: Path, train: Path | None) -> bool:
    """Whether a task is plain text; labelled examples always have a train part."""
    if test.suffix == ".txt":
        return train is None or train.suffix == ".txt"
    return train is None and test.suffix == ".parquet" and not read_examples(test).labelled


def _load_plain(task: Task, files: dict[str, Path]) -> TaskData:
    """A task of plain text; its examples are whole texts, which are not capped."""
    roles: dict[Role, str] = {task.role: next(iter(files))} if task.role else {cast(Role, role): role for role in files}
    parts: dict[Role, Examples] = {role: read_examples(files[part]) for role, part in roles.items()}
    if labelled := [str(files[roles[role]]) for role, part in parts.items() if part.labelled]:
        raise RecipeError(f"{', '.join(labelled)}: labels beside plain text; a task is either; split it")
    digest = hashlib.sha256()
    for role, part in sorted(parts.items()):
        _feed(digest, roles[role], part)
    return TaskData(task.name, "plain", 0, next(iter(parts.values())), parts, digest.hexdigest())


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    files = [file for name in names for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").exists()]
    if len(files) > 1:
        both = " and ".join(file.name for file in files)
        raise RecipeError(f"{folder}: each part is one file, but {both} exist; remove one")
    return files[0] if files else None


def _feed(digest: Any, role: str, part: Examples) -> None:
    """Contents, not file bytes: the same examples have the same sum in any compression."""
    digest.update(json.dumps([role, part.inputs.shape, part.labels.tolist()]).encode())
    text = part.inputs.dtype == object
    digest.update(json.dumps(part.inputs.tolist()).encode() if text else part.inputs.astype("<f4").tobytes())


def _cap(part: Examples, max_test: int) -> Examples:
    if len(part) <= max_test:
        return part
    return part.take(np.sort(np.random.default_rng(CAP_SEED).permutation(len(part))[:max_test]))
