"""All finetunes of the first round side by side, not fused: what averaging their weights gives up, at K times the cost.

The K finetunes are those that the control *one-round* fuses, one for every seen task, from gen-0. Their own heads are
not used, since each knows one task's labels only. Every task, unseen or seen, is measured by the linear probe that
generations are measured by: `measure.probe`, the same training examples, seed 0.

* *ensemble-logits*: a probe on each finetune's features; the label with the largest mean of their log-probabilities
  (the mean of logits has the same order: the two differ by a number for each example and finetune);
* *ensemble-mean*: the K feature vectors of a text averaged, one probe;
* *ensemble-stacked*: the K feature vectors in a row, one probe on K times as many numbers.

Not covered: finetuning K models few-shot, which is what somebody who starts from such an ensemble would have to do.
"""

from __future__ import annotations

import time

import numpy as np

from hub_fusion.evaluate.features import Array, task_features
from hub_fusion.evaluate.probe import choose_subset, fit_log_probabilities, fit_probe
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.recipe import Probe
from hub_fusion.records import Role
from hub_fusion.simulate.loop import Run

ENSEMBLES = ("ensemble-logits", "ensemble-mean", "ensemble-stacked")


def measure_ensembles(run: Run) -> int:
    """Measure them on every task, if the file asks for it; gives how many measurements wait for finetunes."""
    simulation, measure = run.simulation, run.simulation.measure
    if not measure.ensemble or measure.probe is None:
        return 0
    seen: list[tuple[str, Role]] = [(task, "seen") for task in simulation.seen if measure.seen_at]
    absent = 0
    for name, role in simulation.unseen() + seen:
        about = {"task": name, "role": role, "protocol": "probe", "seed": 0}
        run.ledger.refresh()
        left = [m for m in ENSEMBLES if not run.ledger.done(step="measure", model=m, **about)]
        if left and not all(run.ledger.done(step="finetune", generation=1, task=task) for task in simulation.seen):
            absent += len(left)
        elif left:
            began = time.monotonic()
            found = _answers(run, load_task(simulation.task(name, role), max_test=measure.max_test_examples), role,
                             measure.probe)  # fmt: skip
            for model in left:
                run.ledger.keep(model, name, role, "probe", 0, found[model])
                run.ledger.write(step="measure", model=model, **about, accuracy=round(float(found[model].mean()), 4),
                                 examples=len(found[model]), seconds=round(time.monotonic() - began, 2))  # fmt: skip
                run.say(f"{model}: probe on {name} is {found[model].mean():.3f}")
    return absent


def _answers(run: Run, task: TaskData, role: Role, settings: Probe) -> dict[str, Array]:
    """Which test examples each ensemble answers rightly, (examples,) uint8."""
    rows = choose_subset(task.train.labels, settings.examples, 0)
    inputs = {"train": task.train.inputs[rows], "test": task.parts[role].inputs}
    labels, right = task.train.labels[rows], task.parts[role].labels
    vectors = [
        task_features(run.finetune(1, name), task, inputs, settings.pooling, run.simulation.measure.max_length,
                      device=run.compute.device)
        for name in sorted(run.simulation.seen)
    ]  # fmt: skip
    if not all(np.isfinite(values).all() for found in vectors for values in found.values()):
        return {model: np.zeros(len(right), dtype=np.uint8) for model in ENSEMBLES}
    mean, stacked = (
        {part: combine([found[part] for found in vectors]) for part in inputs}
        for combine in (lambda parts: np.mean(parts, axis=0), lambda parts: np.concatenate(parts, axis=1))
    )
    answers = {
        "ensemble-logits": mean_of_logits([(found["train"], found["test"]) for found in vectors], labels),
        "ensemble-mean": fit_probe(mean["train"], labels)(mean["test"]),
        "ensemble-stacked": fit_probe(stacked["train"], labels)(stacked["test"]),
    }
    return {model: (found == right).astype(np.uint8) for model, found in answers.items()}


def mean_of_logits(features: list[tuple[Array, Array]], labels: Array) -> Array:
    """The label per test example, (n,), by the mean log-probability of one probe for each (train, test) of features."""
    fitted = [(fit_log_probabilities(train, labels), test) for train, test in features]
    total: Array = np.mean([probe(test) for probe, test in fitted], axis=0)
    return np.asarray(np.unique(labels)[total.argmax(1)])
