"""Held-out tasks → arrays: what a checkpoint is judged on.

A task is a folder with the files ``train``, ``gate`` (or ``validation``) and ``report`` (or ``test``), in the formats
of `task_files`, or a dataset on the Hub with such splits (`task_hub`). ``train`` and one of the other two are
obligatory: the gate decides by ``gate`` and never sees ``report``, which is what is told to people. A task of the
recipe may have a role of its own: *gate* and *report* tasks have one test part only, and *seen* ones, on which
contributors have trained, are told apart from both.
Plain text, by whose perplexity language models are judged, needs no ``train``.
Not covered: regression, several labels per example, audio; and nobody checks that ``train`` and the test parts share
no example, unless a `split` made them. Whether contributors have trained on them is known from their cards alone
(recipe/contamination.py).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.task_files import PARTS, SUFFIXES, Examples, Source, is_plain, read_examples, reading
from hub_fusion.evaluate.task_hub import on_hub
from hub_fusion.evaluate.task_images import read_folder
from hub_fusion.evaluate.task_labels import number_labels
from hub_fusion.evaluate.task_split import split_off
from hub_fusion.recipe import Task
from hub_fusion.records import Role

Kind = Literal["image", "text", "plain"]
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
    """Read and check a task; test parts longer than `max_test` keep a fixed random choice of it.

    Raises RecipeError that names the file, the law it breaks and the remedy.
    """
    sources = _with_split(task, on_hub(task) if task.hub else _in_folder(task))
    present = [role for role in WANTED[task.role] if role in sources]
    if not present or ("train" not in sources and not sources[present[0]].is_plain()):
        need = f"a task needs a train file and a gate or report file ({', '.join(SUFFIXES)})"
        need = "a task needs a split to train on and one for gate or report; name them in splits" if task.hub else need
        raise RecipeError(f"{task.hub or task.folder}: {need}; add them, or split train with the task's split")
    tests: dict[Role, str] = {task.role: present[0]} if task.role else {cast(Role, role): role for role in present}
    labelled = [part for part in ("train", *present) if part in sources and not sources[part].is_plain()]
    found = {part: sources[part].read() for part in (*(["train"] if labelled else []), *tests.values())}
    if plain := [sources[part].where for part, examples in found.items() if not examples.labelled and labelled]:
        raise RecipeError(f"{', '.join(plain)}: plain text beside examples with labels; a task is either; split it")
    if labelled:
        found = number_labels(found, {part: sources[part].where for part in found}, task.labels)
    train = found.get("train", next(iter(found.values())))
    for part, examples in found.items():
        if examples.inputs.shape[1:] != train.inputs.shape[1:] or examples.form != train.form:
            raise RecipeError(
                f"{sources[part].where}: every part has inputs of one shape and kind; here {examples.inputs.shape[1:]} "
                f"of {examples.form}, in train {train.inputs.shape[1:]} of {train.form}; convert it"
            )
    digest = hashlib.sha256()
    for part, examples in sorted(found.items()):
        _feed(digest, part, examples)
    kind: Kind = "plain" if not labelled else "text" if train.form == "text" else "image"
    parts: dict[Role, Examples] = {role: _cap(found[part], max_test) if labelled else found[part]
                                   for role, part in tests.items()}  # fmt: skip
    num_labels = int(train.labels.max()) + 1 if labelled else 0
    return TaskData(task.name, kind, num_labels, train, parts, digest.hexdigest())


def _in_folder(task: Task) -> dict[str, Source]:
    """The parts that a task's folder has."""
    if not task.folder.is_dir():
        raise RecipeError(f"task {task.name!r}: {task.folder} is not a folder; evaluate.tasks[].path must name one")
    files = {part: file for part, names in PARTS.items() if (file := _find(task.folder, names))}
    return {
        part: Source(str(file), lambda: False, partial(reading, str(file), partial(read_folder, file)))
        if file.is_dir()
        else Source(str(file), partial(is_plain, file, task.columns), partial(read_examples, file, task.columns))
        for part, file in files.items()
    }


def _with_split(task: Task, sources: dict[str, Source]) -> dict[str, Source]:
    """The parts, with those that the task's split makes of its training examples."""
    if task.split is None:
        return sources
    shares, seed, train = task.split.shares, task.split.seed, sources.get("train")
    if there := [sources[part].where for part in shares if part in sources]:
        raise RecipeError(f"task {task.name!r}: split makes what {' and '.join(there)} holds; leave out one of the two")
    if train is None:
        raise RecipeError(f"task {task.name!r}: split divides training examples, and there are none; add a train file")
    parts = cache(lambda: split_off(train.read(), shares, seed, train.where))

    def made(part: str, where: str) -> Source:
        return Source(where, train.is_plain, lambda: parts()[part])

    ours = {part: made(part, f"{train.where} ({part})") for part in shares}
    return sources | ours | {"train": made("train", train.where)}


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    files = [file for name in names for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").exists()]
    files += [images for name in names if (images := folder / name).is_dir()]
    if len(files) > 1:
        both = " and ".join(file.name for file in files)
        raise RecipeError(f"{folder}: each part is one file, or one folder of images, but {both} exist; remove one")
    return files[0] if files else None


def _feed(digest: Any, role: str, part: Examples) -> None:
    """Contents, not file bytes: the same examples have the same sum in any compression."""
    digest.update(json.dumps([role, part.inputs.shape, part.labels.tolist()]).encode())
    if part.form == "image":
        digest.update(json.dumps([hashlib.sha256(image).hexdigest() for image in part.inputs[:, 0]]).encode())
        return
    text = part.form == "text"
    digest.update(json.dumps(part.inputs.tolist()).encode() if text else part.inputs.astype("<f4").tobytes())


def _cap(part: Examples, max_test: int) -> Examples:
    if len(part) <= max_test:
        return part
    return part.take(np.sort(np.random.default_rng(CAP_SEED).permutation(len(part))[:max_test]))
