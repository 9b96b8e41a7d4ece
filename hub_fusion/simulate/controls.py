"""The same effort spent otherwise: is it the loop, or would something simpler do?

*random*: steps as long as the loop's, in random directions. *one-round*: every seen task's contributor finetunes gen-0
once, one fuse. *multitask*: one training run on the pooled data of all seen tasks, with a head for each.
*long-finetune*: one contributor alone, shown as many examples as one contributor of every generation together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from hub_fusion.evaluate.batches import shuffled
from hub_fusion.evaluate.fewshot import loss_of, training
from hub_fusion.evaluate.models import load_classifier, load_encode
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.simulate.loop import VALIDATION, Run, contribute, fuse_finetunes, save_model, train
from hub_fusion.weights.random_steps import random_walk


def make_controls(run: Run) -> None:
    """Make the controls that the file names, each into a folder of its name; what is there already is kept."""
    makers = {"random": _random, "one-round": _one_round, "multitask": _multitask, "long-finetune": _long_finetune}
    for name in run.simulation.controls:
        if run.ledger.done(step="control", model=name):
            continue
        began = time.monotonic()
        about = makers[name](run)
        if about is not None:
            run.ledger.write(step="control", model=name, **about, seconds=round(time.monotonic() - began, 2))
            run.say(f"control {name} is made")


def _random(run: Run) -> dict[str, object] | None:
    run.ledger.refresh()
    norms = {line["generation"]: line["norm"] for line in run.ledger.lines if line["step"] == "fuse"}
    if len(norms) < run.simulation.generations:
        return None  # the loop is not there yet
    steps = [norms[generation] for generation in sorted(norms)]
    random_walk(run.out / "gen-0", run.out / "random", norms=steps, seed=run.simulation.seed)
    return {"norms": steps}


def _one_round(run: Run) -> dict[str, object]:
    """Those who are in gen-1 already are taken from there."""
    root, tasks = run.out / "gen-0", sorted(run.simulation.seen)
    for task in tasks:
        contribute(run, root, 1, task)
    norm = fuse_finetunes(run, root, [run.finetune(1, task) for task in tasks], run.out / "one-round")
    return {"contributors": len(tasks), "norm": norm}


def _long_finetune(run: Run) -> dict[str, object]:
    simulation = run.simulation
    name = simulation.long_finetune_on or simulation.seen[0]
    task = load_task(simulation.task(name, "gate"), max_test=VALIDATION)
    wanted = simulation.training.examples * simulation.generations
    accuracy, examples = train(
        run, run.out / "gen-0", run.out / "long-finetune", task, simulation.seed, examples=wanted
    )  # fmt: skip
    return {"trained_on": name, "examples": examples, "validation": accuracy}


def _multitask(run: Run) -> dict[str, object]:
    """Batches of one task each; a task is drawn as often as it has examples."""
    import torch

    simulation, parent, device = run.simulation, run.out / "gen-0", run.compute.device
    settings = simulation.training
    tasks = [load_task(simulation.task(name, "gate"), max_test=VALIDATION) for name in sorted(simulation.seen)]
    models = [load_classifier(parent, task, seed=simulation.seed, device=device) for task in tasks]
    for model in models[1:]:  # one body, and a head for each task
        setattr(model, str(model.base_model_prefix), models[0].base_model)
    encodes = [load_encode(parent, task, max_length=settings.max_length) for task in tasks]
    everybody = settings.examples * settings.epochs * simulation.contributors * simulation.generations
    steps = -(-(simulation.multitask_examples or everybody) // settings.batch_size)
    random = np.random.default_rng([simulation.seed, len(tasks)])
    sizes = np.array([len(task.train) for task in tasks])
    queues: list[Iterator[np.ndarray]] = [iter(()) for _ in tasks]
    with training(torch.nn.ModuleList(models), settings, steps, seed=simulation.seed, device=device) as step:
        for chosen in random.choice(len(tasks), steps, p=sizes / sizes.sum()):
            task = tasks[chosen]
            rows = next(queues[chosen], None)
            if rows is None:
                queues[chosen] = shuffled(task.train.inputs, settings.batch_size, random)
                rows = next(queues[chosen])
            step(loss_of(models[chosen], encodes[chosen], task.train.take(rows), device))
    save_model(models[0], parent, run.out / "multitask")
    return {"tasks": len(tasks), "examples": steps * settings.batch_size}
