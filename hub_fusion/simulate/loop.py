"""Grow generations: contributors finetune the newest one, the mean (or another method) of them is the next.

Collaborative descent as arXiv 2212.01378, algorithm 1, has it: in every generation some tasks are drawn, each by one
contributor, who finetunes the whole model with a head of their own; heads are dropped, bodies fused. Everything is
drawn by (seed, generation, task) alone, so a simulation that was killed goes on to the same bytes on the same machine.
"""

from __future__ import annotations

import shutil
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hub_fusion.evaluate.fewshot import finetune, predict
from hub_fusion.evaluate.models import load_classifier, load_encode, quiet
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.events import Say
from hub_fusion.simulate.ledger import Ledger
from hub_fusion.simulate.settings import Simulation
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.distance import distance
from hub_fusion.weights.fuse import FusePlan, copy_side_files, fuse
from hub_fusion.weights.local import checkpoint_folder

VALIDATION = 256  # of a contributor's own validation examples, to choose training settings by


@dataclass(frozen=True)
class Run:
    """A simulation and where it takes place."""

    simulation: Simulation
    out: Path
    ledger: Ledger
    compute: Compute
    say: Say

    def finetune(self, generation: int, task: str) -> Path:
        """Where the finetune that goes into `generation` lies."""
        return self.out / "finetunes" / f"gen-{generation}" / task


def contributors_of(simulation: Simulation, generation: int) -> list[str]:
    """The seen tasks that are drawn for `generation`, without replacement."""
    random = np.random.default_rng([simulation.seed, generation])
    return sorted(random.choice(simulation.seen, simulation.contributors, replace=False).tolist())


def grow(run: Run) -> None:
    """Make ``out/gen-0`` … ``out/gen-N``; what is there already is kept."""
    if not (run.out / "gen-0").is_dir():
        copy_whole(checkpoint_folder(run.simulation.root_target), run.out / "gen-0")
    for generation in range(1, run.simulation.generations + 1):
        parent, target = run.out / f"gen-{generation - 1}", run.out / f"gen-{generation}"
        tasks = contributors_of(run.simulation, generation)
        if run.ledger.done(step="fuse", generation=generation):
            continue
        for task in tasks:
            contribute(run, parent, generation, task)
        began = time.monotonic()
        norm = fuse_finetunes(run, parent, [run.finetune(generation, task) for task in tasks], target)
        run.ledger.write(step="fuse", generation=generation, contributors=tasks, method=run.simulation.merge.method,
                         norm=norm, seconds=round(time.monotonic() - began, 2))  # fmt: skip
        run.say(f"gen-{generation} is fused from {len(tasks)} contributions, {norm:.3f} from gen-{generation - 1}")


def contribute(run: Run, parent: Path, generation: int, name: str) -> None:
    """Finetune `parent` on a random part of a task, for `generation`, once."""
    if run.ledger.done(step="finetune", generation=generation, task=name):
        return
    began = time.monotonic()
    task = load_task(run.simulation.task(name, "gate"), max_test=VALIDATION)
    seed = zlib.crc32(f"{run.simulation.seed}/{generation}/{name}".encode())
    accuracy, examples = train(run, parent, run.finetune(generation, name), task, seed)
    run.ledger.write(step="finetune", generation=generation, task=name, examples=examples,
                     validation=accuracy, seconds=round(time.monotonic() - began, 2))  # fmt: skip
    run.say(f"gen-{generation}: {name} is finetuned, {accuracy:.3f} on its validation part")


def train(
    run: Run, parent: Path, out: Path, task: TaskData, seed: int, *, examples: int = 0
) -> tuple[float, int]:  # fmt: skip
    """Finetune on `examples` of the task (as the settings say unless given, in repeated passes if the task has fewer).

    Gives the accuracy on the validation part, and how many examples were shown.
    """
    settings, device = run.simulation.training, run.compute.device
    wanted = examples or min(settings.examples, len(task.train))
    random = np.random.default_rng(seed)
    rows = np.concatenate([random.permutation(len(task.train)) for _ in range(-(-wanted // len(task.train)))])[:wanted]
    encode = load_encode(parent, task, max_length=settings.max_length)
    model = load_classifier(parent, task, seed=seed, device=device)
    finetune(model, encode, task.train.take(rows), settings, seed=seed, device=device)
    part = task.parts["gate"]
    accuracy = float((predict(model, encode, part.inputs, device=device) == part.labels).mean())
    save_model(model, parent, out)
    return round(accuracy, 4), wanted * settings.epochs


def save_model(model: object, parent: Path, out: Path) -> None:
    """Write a model with the side files of the checkpoint that it came from; `out` is whole or is not there."""
    part = out.with_name(out.name + ".part")
    _begin(part, parent)
    with quiet():
        model.save_pretrained(part)  # type: ignore[attr-defined]
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)


def copy_whole(folder: Path, out: Path) -> None:
    """The checkpoint in `folder` under another name; `out` is whole or is not there."""
    part = out.with_name(out.name + ".part")
    _begin(part, folder)
    for file in folder.glob("*.safetensors*"):
        shutil.copy(file, part)
    part.replace(out)


def _begin(part: Path, parent: Path) -> None:
    """A new folder with the parent's side files, whatever a killed run left there."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    copy_side_files(parent, part)


def fuse_finetunes(run: Run, base: Path, folders: list[Path], out: Path) -> float:
    """Fuse by the simulation's formula; gives the Euclidean distance from `base`."""
    formula = run.simulation.merge
    sources = tuple(Source(folder.name, folder, base, "finetune") for folder in folders)
    shutil.rmtree(out, ignore_errors=True)
    plan = FusePlan(base, out, sources, formula.method, dict(formula.options), formula.step, seed=formula.seed)
    run.compute.together(fuse, plan)
    return round(distance(base, out, base).apart, 4)
