"""The same effort spent otherwise: is it the loop, or would something simpler do?

*random*: steps as long as the loop's, in random directions. *one-round*: every seen task's contributor finetunes gen-0
once, one fuse. *multitask*: one training run on the pooled data of all seen tasks, with a head for each.
*long-finetune*: one contributor alone, shown as many examples as one contributor of every generation together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hub_fusion.evaluate.batches import shuffled
from hub_fusion.evaluate.fewshot import loss_of, training
from hub_fusion.evaluate.models import load_classifier, load_encode
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.simulate.ledger import Ledger
from hub_fusion.simulate.loop import (
    VALIDATION,
    Say,
    contribute,
    finetune_folder,
    fuse_finetunes,
    save_model,
    train,
)
from hub_fusion.simulate.settings import Simulation
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.random_steps import random_walk


def make_controls(simulation: Simulation, out: Path, ledger: Ledger, compute: Compute, say: Say) -> None:
    """Make the controls that the file names, each into a folder of its name; what is there already is kept."""
    makers = {"random": _random, "one-round": _one_round, "multitask": _multitask, "long-finetune": _long_finetune}
    for name in simulation.controls:
        if ledger.done(step="control", model=name):
            continue
        began = time.monotonic()
        about = makers[name](simulation, out, ledger, compute, say)
        if about is not None:
            ledger.write(step="control", model=name, **about, seconds=round(time.monotonic() - began, 2))
            say(f"control {name} is made")


def _random(simulation: Simulation, out: Path, ledger: Ledger, compute: Compute, say: Say) -> dict[str, object] | None:
    ledger.refresh()
    norms = {line["generation"]: line["norm"] for line in ledger.lines if line["step"] == "fuse"}
    if len(norms) < simulation.generations:
        return None  # the loop is not there yet
    steps = [norms[generation] for generation in sorted(norms)]
    random_walk(out / "gen-0", out / "random", norms=steps, seed=simulation.seed)
    return {"norms": steps}


def _one_round(simulation: Simulation, out: Path, ledger: Ledger, compute: Compute, say: Say) -> dict[str, object]:
    """Those who are in gen-1 already are taken from there."""
    folders = []
    for task in sorted(simulation.seen):
        folder = finetune_folder(out, 1, task)
        contribute(simulation, ledger, out / "gen-0", folder, 1, task, compute, say)
        folders.append(folder)
    norm = fuse_finetunes(simulation, out / "gen-0", folders, out / "one-round", compute)
    return {"contributors": len(folders), "norm": norm}


def _long_finetune(simulation: Simulation, out: Path, ledger: Ledger, compute: Compute, say: Say) -> dict[str, object]:
    name = simulation.long_finetune_on or simulation.seen[0]
    task = load_task(simulation.task(name, "gate"), max_test=VALIDATION)
    wanted = simulation.training.examples * simulation.generations
    accuracy, examples = train(
        simulation, out / "gen-0", out / "long-finetune", task, simulation.seed, compute, examples=wanted
    )
    return {"trained_on": name, "examples": examples, "validation": accuracy}


def _multitask(simulation: Simulation, out: Path, ledger: Ledger, compute: Compute, say: Say) -> dict[str, object]:
    """Batches of one task each; a task is drawn as often as it has examples."""
    import torch

    settings, parent = simulation.training, out / "gen-0"
    tasks = [load_task(simulation.task(name, "gate"), max_test=VALIDATION) for name in sorted(simulation.seen)]
    models = [load_classifier(parent, task, seed=simulation.seed, device=compute.device) for task in tasks]
    for model in models[1:]:  # one body, and a head for each task
        setattr(model, str(model.base_model_prefix), models[0].base_model)
    encodes = [load_encode(parent, task, max_length=settings.max_length) for task in tasks]
    everybody = settings.examples * settings.epochs * simulation.contributors * simulation.generations
    steps = -(-(simulation.multitask_examples or everybody) // settings.batch_size)
    random = np.random.default_rng([simulation.seed, len(tasks)])
    sizes = np.array([len(task.train) for task in tasks])
    queues: list[Iterator[np.ndarray]] = [iter(()) for _ in tasks]
    with training(torch.nn.ModuleList(models), settings, steps, seed=simulation.seed, device=compute.device) as step:
        for chosen in random.choice(len(tasks), steps, p=sizes / sizes.sum()):
            task = tasks[chosen]
            rows = next(queues[chosen], None)
            if rows is None:
                queues[chosen] = shuffled(task.train.inputs, settings.batch_size, random)
                rows = next(queues[chosen])
            step(loss_of(models[chosen], encodes[chosen], task.train.take(rows), compute.device))
    save_model(models[0], parent, out / "multitask")
    return {"tasks": len(tasks), "examples": steps * settings.batch_size}
