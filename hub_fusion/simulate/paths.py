"""Straight lines through a simulation, and whether what lies on them goes with how good its ends are.

Measured by probes that are fitted anew at every point, on the gate tasks. Vlaar and Frankle (2022, arXiv 2106.16004)
found on images that the barrier on the way from initialisation to a trained network says little about its accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hub_fusion.evaluate.interpolation import accuracies_along, barrier
from hub_fusion.evaluate.probe import run_probe
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import Probe
from hub_fusion.simulate.ledger import Ledger
from hub_fusion.simulate.loop import Run, contributors_of


def plan_paths(run: Run) -> Iterator[tuple[str, int, Path, Path]]:
    """(kind, generation, from, to): parent to generation, root to generation, and two of its contributions."""
    for generation in range(1, run.simulation.generations + 1):
        here, finetunes = run.out / f"gen-{generation}", sorted(contributors_of(run.simulation, generation))
        yield "parent", generation, run.out / f"gen-{generation - 1}", here
        if generation > 1:
            yield "root", generation, run.out / "gen-0", here
        if len(finetunes) > 1:
            first, second = (run.finetune(generation, task) for task in finetunes[:2])
            yield "contributions", generation, first, second


def measure_paths(run: Run) -> None:
    """Walk every path whose ends exist, once; nothing without ``measure.path_points``."""
    simulation, measure, compute = run.simulation, run.simulation.measure, run.compute
    if measure.path_points is None:
        return
    tasks = [load_task(simulation.task(t, "gate"), max_test=measure.max_test_examples) for t in simulation.gate]
    settings = measure.probe or Probe(examples=500)

    def accuracy(folder: Path) -> float:
        found = [run_probe(folder, task, settings, [0], measure.max_length, device=compute.device) for task in tasks]
        return float(np.mean([correct["gate"].mean() for correct in found]))

    for kind, generation, first, second in plan_paths(run):
        key = {"step": "path", "model": kind, "generation": generation}
        if run.ledger.done(**key) or not (first.is_dir() and second.is_dir()):
            continue
        began = time.monotonic()
        found = accuracies_along(first, second, run.out / "paths", compute, accuracy, measure.path_points)
        run.ledger.write(**key, accuracies=[round(a, 4) for a in found], barrier=round(barrier(found), 4),
                     seconds=round(time.monotonic() - began, 2))  # fmt: skip
        run.say(f"gen-{generation}: the barrier on the way from {kind} is {barrier(found):.3f}")


def tell_paths(ledger: Ledger) -> dict[str, Any]:
    """All paths, and over those from parents ``rank_correlation``: Spearman's ρ of barrier and accuracy at the end.

    None with fewer than three of them, or where one of the two does not vary.
    """
    keys = ("model", "generation", "accuracies", "barrier")
    paths = [{key: line[key] for key in keys} for line in ledger.lines if line["step"] == "path"]
    steps = [path for path in paths if path["model"] == "parent"]
    pairs = np.array([[path["barrier"], path["accuracies"][-1]] for path in steps]).reshape(-1, 2)
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in pairs.T.tolist()):
        return {"paths": paths, "rank_correlation": None}
    from scipy.stats import spearmanr

    return {"paths": paths, "rank_correlation": round(float(spearmanr(pairs).statistic), 4)}
