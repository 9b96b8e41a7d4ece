"""Measure generations and controls, task by task and seed by seed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hub_fusion.evaluate.fewshot import run_fewshot, run_finetune
from hub_fusion.evaluate.probe import run_probe
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import FewShot, Finetune, Probe
from hub_fusion.records import Role
from hub_fusion.simulate.loop import Run
from hub_fusion.simulate.settings import Simulation
from hub_fusion.weights.compute import Compute


class Job(NamedTuple):
    """One protocol on one task with one seed for one model."""

    model: str
    protocol: str
    settings: Probe | FewShot | Finetune
    task: str
    role: Role
    seed: int


def plan_jobs(simulation: Simulation) -> Iterator[Job]:
    """Everything to be measured, in the order of its worth: first seeds of all models before second ones."""
    measure = simulation.measure
    every = tuple(range(simulation.generations + 1))
    probe_at = every if measure.probe_at is None else measure.probe_at
    fewshot_at = every if measure.fewshot_at is None else measure.fewshot_at
    finetune_at = every if measure.finetune_at is None else measure.finetune_at
    controls = list(simulation.controls)
    for seed in range(measure.seeds):
        if measure.fewshot:
            for model in [*(f"gen-{g}" for g in fewshot_at), *controls]:
                yield from (Job(model, "fewshot", measure.fewshot, t, r, seed) for t, r in simulation.unseen())
        if measure.finetune and seed < (measure.finetune.seeds or measure.seeds):
            for model in [*(f"gen-{g}" for g in finetune_at), *measure.finetune_also]:
                yield from (Job(model, "finetune", measure.finetune, t, r, seed) for t, r in simulation.unseen())
        if measure.probe and not seed:  # a probe has no luck but its choice of examples
            probes = {"probe": measure.probe}
            if measure.also_cls:
                probes["probe-cls"] = measure.probe.model_copy(update={"pooling": "cls"})
            for protocol, settings in probes.items():
                for generation in probe_at:
                    seen: list[tuple[str, Role]] = [(t, "seen") for t in simulation.seen]
                    tasks = simulation.unseen() + (seen if generation in measure.seen_at else [])
                    yield from (Job(f"gen-{generation}", protocol, settings, t, r, 0) for t, r in tasks)
                for model in controls:
                    yield from (Job(model, protocol, settings, t, r, 0) for t, r in simulation.unseen())


def measure_all(run: Run) -> int:
    """Carry out every job whose model exists and that has not been done; gives how many had no model yet."""
    absent = 0
    for job in plan_jobs(run.simulation):
        key = {"step": "measure", **{n: getattr(job, n) for n in ("model", "task", "role", "protocol", "seed")}}
        run.ledger.refresh()
        if run.ledger.done(**key):
            continue
        if not (run.out / job.model).is_dir():
            absent += 1
            continue
        began = time.monotonic()
        correct = carry_out(run.simulation, run.out / job.model, job, run.compute)
        run.ledger.keep(job.model, job.task, job.role, job.protocol, job.seed, correct)
        run.ledger.write(**key, accuracy=round(float(correct.mean()), 4), examples=len(correct),
                         seconds=round(time.monotonic() - began, 2))  # fmt: skip
        run.say(f"{job.model}: {job.protocol} on {job.task} is {correct.mean():.3f}")
    return absent


def carry_out(simulation: Simulation, folder: Path, job: Job, compute: Compute) -> np.ndarray:
    """Which test examples the job's model answers rightly, (examples,) uint8."""
    measure = simulation.measure
    task = load_task(simulation.task(job.task, job.role), max_test=measure.max_test_examples)
    common = ([job.seed], measure.max_length)
    if isinstance(job.settings, FewShot):
        return run_fewshot(folder, task, job.settings, *common, device=compute.device)[job.role][0]
    if isinstance(job.settings, Finetune):
        return run_finetune(folder, task, job.settings, *common, device=compute.device)[job.role][0]
    return run_probe(folder, task, job.settings, *common, device=compute.device)[job.role][0]
