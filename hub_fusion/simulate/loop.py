"""Grow generations: contributors finetune the newest one, the mean (or another method) of them is the next.

Collaborative descent as arXiv 2212.01378, algorithm 1, has it: in every generation some tasks are drawn, each by one
contributor, who finetunes the whole model with a head of their own; heads are dropped, bodies fused. Everything is
drawn by (seed, generation, task) alone, so a simulation that was killed goes on to the same bytes on the same machine.
"""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hub_fusion.evaluate.fewshot import finetune, predict
from hub_fusion.evaluate.models import load_classifier, load_encode, quiet
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.simulate.ledger import Ledger
from hub_fusion.simulate.settings import Simulation
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.distance import distance
from hub_fusion.weights.fuse import FusePlan, fuse
from hub_fusion.weights.local import checkpoint_folder

VALIDATION = 256  # of a contributor's own validation examples, to choose training settings by
Say = Callable[[str], None]


def contributors_of(simulation: Simulation, generation: int) -> list[str]:
    """The seen tasks that are drawn for `generation`, without replacement."""
    random = np.random.default_rng([simulation.seed, generation])
    return sorted(random.choice(simulation.seen, simulation.contributors, replace=False).tolist())


def grow(simulation: Simulation, out: Path, ledger: Ledger, compute: Compute, say: Say) -> None:
    """Make ``out/gen-0`` … ``out/gen-N``; what is there already is kept."""
    if not (out / "gen-0").is_dir():
        copy_whole(checkpoint_folder(simulation.root_target), out / "gen-0")
    for generation in range(1, simulation.generations + 1):
        parent, target = out / f"gen-{generation - 1}", out / f"gen-{generation}"
        tasks = contributors_of(simulation, generation)
        if ledger.done(step="fuse", generation=generation):
            continue
        for task in tasks:
            folder = finetune_folder(out, generation, task)
            contribute(simulation, ledger, parent, folder, generation, task, compute, say)
        began = time.monotonic()
        folders = [finetune_folder(out, generation, task) for task in tasks]
        norm = fuse_finetunes(simulation, parent, folders, target, compute)
        ledger.write(step="fuse", generation=generation, contributors=tasks, method=simulation.merge.method,
                     norm=norm, seconds=round(time.monotonic() - began, 2))  # fmt: skip
        say(f"gen-{generation} is fused from {len(tasks)} contributions, {norm:.3f} from gen-{generation - 1}")


def finetune_folder(out: Path, generation: int, task: str) -> Path:
    """Where the finetune that goes into `generation` lies."""
    return out / "finetunes" / f"gen-{generation}" / task


def contribute(
    simulation: Simulation,
    ledger: Ledger,
    parent: Path,
    out: Path,
    generation: int,
    name: str,
    compute: Compute,
    say: Say,
) -> None:
    """Finetune `parent` on a random part of a task into `out`, once."""
    if ledger.done(step="finetune", generation=generation, task=name):
        return
    began = time.monotonic()
    task = load_task(simulation.task(name, "gate"), max_test=VALIDATION)
    seed = zlib.crc32(f"{simulation.seed}/{generation}/{name}".encode())
    accuracy, examples = train(simulation, parent, out, task, seed, compute)
    ledger.write(step="finetune", generation=generation, task=name, examples=examples,
                 validation=accuracy, seconds=round(time.monotonic() - began, 2))  # fmt: skip
    say(f"gen-{generation}: {name} is finetuned, {accuracy:.3f} on its validation part")


def train(
    simulation: Simulation, parent: Path, out: Path, task: TaskData, seed: int, compute: Compute, *, examples: int = 0
) -> tuple[float, int]:
    """Finetune on `examples` of the task (as the settings say unless given, in repeated passes if the task has fewer).

    Gives the accuracy on the validation part, and how many examples were shown.
    """
    settings = simulation.training
    wanted = examples or min(settings.examples, len(task.train))
    random = np.random.default_rng(seed)
    rows = np.concatenate([random.permutation(len(task.train)) for _ in range(-(-wanted // len(task.train)))])[:wanted]
    encode = load_encode(parent, task, max_length=settings.max_length)
    model = load_classifier(parent, task, seed=seed, device=compute.device)
    finetune(model, encode, task.train.take(rows), settings, seed=seed, device=compute.device)
    part = task.parts["gate"]
    accuracy = float((predict(model, encode, part.inputs, device=compute.device) == part.labels).mean())
    save_model(model, parent, out)
    return round(accuracy, 4), wanted * settings.epochs


def save_model(model: object, parent: Path, out: Path) -> None:
    """Write a model with the side files of the checkpoint that it came from; `out` is whole or is not there."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    copy_side_files(parent, part)
    with quiet():
        model.save_pretrained(part)  # type: ignore[attr-defined]
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)


def copy_side_files(parent: Path, out: Path) -> None:
    """Tokenizer and other small files; weights and subfolders stay behind."""
    out.mkdir(parents=True)
    for file in parent.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt", ".model") and "index" not in file.name:
            shutil.copy(file, out)


def copy_whole(folder: Path, out: Path) -> None:
    """The checkpoint in `folder` under another name; `out` is whole or is not there."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    copy_side_files(folder, part)
    for file in folder.glob("*.safetensors*"):
        shutil.copy(file, part)
    part.replace(out)


def fuse_finetunes(simulation: Simulation, base: Path, folders: list[Path], out: Path, compute: Compute) -> float:
    """Fuse by the simulation's formula; gives the Euclidean distance from `base`."""
    formula = simulation.merge
    sources = tuple(Source(folder.name, folder, base, "finetune") for folder in folders)
    shutil.rmtree(out, ignore_errors=True)
    plan = FusePlan(base, out, sources, formula.method, dict(formula.options), formula.step, seed=formula.seed)
    compute.together(fuse, plan)
    return round(distance(base, out, base).apart, 4)
