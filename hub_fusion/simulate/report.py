"""What a simulation has shown so far: scores of every model on every task, and paired differences with intervals.

The best generation is chosen by the gate tasks and compared on the others, so that choosing it is no luck of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from hub_fusion.evaluate.scores import Answers, difference
from hub_fusion.simulate.ensemble import ENSEMBLES
from hub_fusion.simulate.ledger import Ledger
from hub_fusion.simulate.paths import tell_paths
from hub_fusion.simulate.settings import Simulation
from hub_fusion.weights.directions import spectrum

ROOT = "gen-0"
PROTOCOLS = ("fewshot", "finetune", "probe", "probe-cls")
ROLES = ("gate", "report", "seen")


def report(simulation: Simulation, ledger: Ledger) -> dict[str, Any]:
    """``{"settings", "steps", "scores", "best", "changes", "dimensions", "paths", …}``, values that JSON can hold.

    ``changes`` has every model against gen-0, where there is a best generation that against every other model, and
    ensembles against the fuse of the same finetunes:
    mean, low and high of the accuracies' difference over the tasks that both have in full, with the seeds that both
    have, the tasks' median and each task's change. ``best`` is by few-shot, else the probe, None until it is measured.
    """
    ensembles = list(ENSEMBLES) if simulation.measure.ensemble else []
    models = [f"gen-{g}" for g in range(simulation.generations + 1)] + list(simulation.controls) + ensembles
    found = {(m, r, p): ledger.answers(m, r, p) for p in PROTOCOLS for r in ROLES for m in models}
    best = best_generation(simulation, found)
    pairs = [(model, ROOT) for model in models if model != ROOT or best == ROOT]
    pairs += [(best, model) for model in models if best and model not in (best, ROOT)]
    pairs += [(model, "one-round") for model in ensembles]  # the same finetunes, fused
    changes = []
    for protocol in PROTOCOLS:
        for role in ROLES:
            for model, against in pairs:
                ours, theirs = found[model, role, protocol], found[against, role, protocol]
                if ours and set(ours) == set(theirs):
                    about = {"model": model, "against": against, "role": role, "protocol": protocol}
                    changes.append(about | compare(ours, theirs))
    scores = [
        {"model": m, "task": key[0], "role": r, "protocol": p, "examples": matrix.shape[1],
         "per_seed": [round(float(a), 4) for a in matrix.mean(1)]}
        for (m, r, p), answers in found.items() for key, matrix in answers.items()
    ]  # fmt: skip
    steps = [line for line in ledger.lines if line["step"] in ("finetune", "fuse", "control")]
    settings = simulation.model_dump(mode="json", exclude={"root", "tasks"})
    single = {key: answers for key, answers in found.items() if key[0] not in ensembles}
    found_dimensions = {p: one_dimension(single, p) for p in PROTOCOLS}
    return {"settings": settings, "steps": steps, "scores": scores, "best": best, "changes": changes,
            "dimensions": found_dimensions, **tell_paths(ledger)}  # fmt: skip


def one_dimension(found: Mapping[tuple[str, str, str], Answers], protocol: str) -> float | None:
    """How much of the scores' variance over models one dimension explains: 1 if all tasks rise and fall together.

    The first principal component's share of models × unseen tasks, each task centred; None for fewer than 3 × 2.
    """
    rows: list[dict[str, float]] = []
    for model in dict.fromkeys(model for model, _, _ in found):
        answers = {**found[model, "gate", protocol], **found[model, "report", protocol]}
        rows.append({key[0]: float(matrix.mean()) for key, matrix in answers.items()})
    tasks = sorted(set().union(*rows))
    table = np.array([[row[task] for task in tasks] for row in rows if len(row) == len(tasks)])
    if len(tasks) < 2 or len(table) < 3:
        return None
    centred = table - table.mean(0)
    return round(float(spectrum(centred @ centred.T)[0]), 4)


def best_generation(simulation: Simulation, found: Mapping[tuple[str, str, str], Answers]) -> str | None:
    """The generation with the highest mean over the gate tasks, the earliest of equals; measured on all of them."""
    for protocol in ("fewshot", "probe"):
        means = {}
        for generation in range(simulation.generations + 1):
            answers = found[f"gen-{generation}", "gate", protocol]
            if {key[0] for key in answers} == set(simulation.gate) and answers:
                means[f"gen-{generation}"] = float(np.mean([m.mean() for m in answers.values()]))
        if len(means) > 1:
            return max(means, key=means.__getitem__)
    return None


def compare(ours: Answers, theirs: Answers) -> dict[str, Any]:
    """Ours minus theirs on the same tasks, paired by seed and test example."""
    seeds = min(matrix.shape[0] for matrix in (*ours.values(), *theirs.values()))
    ours, theirs = ({key: m[:seeds] for key, m in answers.items()} for answers in (ours, theirs))
    by_task = {key[0]: round(float(ours[key].mean() - theirs[key].mean()), 4) for key in ours}
    return {
        "accuracy": round(float(np.mean([m.mean() for m in ours.values()])), 4), "seeds": seeds, "tasks": len(ours),
        **{name: round(value, 4) for name, value in difference(ours, theirs).items()},
        "median": round(median(by_task.values()), 4), "by_task": by_task,
    }  # fmt: skip
