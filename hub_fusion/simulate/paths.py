"""Straight lines through a simulation, and whether what lies on them goes with how good its ends are.

Measured by probes that are fitted anew at every point, on the gate tasks. Vlaar and Frankle (2022, arXiv 2106.16004)
found on images that the barrier on the way from initialisation to a trained network says little about its accuracy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
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
    """All ``paths``, and ``barriers``: does the barrier on a generation's path go with how good the generation is?

    For each kind of path over all generations that have one, beside the generation's accuracy on the gate tasks, by
    which the path was walked, and on the report tasks (probe), which share no noise with it; see `correlation`. The
    generations of one loop are no independent draws: what rises or falls with time goes together.
    """
    keys = ("model", "generation", "accuracies", "barrier")
    paths = [{key: line[key] for key in keys} for line in ledger.lines if line["step"] == "path"]
    accuracies: dict[str, dict[int, float]] = {role: {} for role in ("gate", "report")}
    for role, known in accuracies.items():
        for generation in sorted({path["generation"] for path in paths}):
            if answers := ledger.answers(f"gen-{generation}", role, "probe"):
                known[generation] = float(np.mean([matrix.mean() for matrix in answers.values()]))
    barriers = [
        {"path": kind, "role": role, **correlation([(path["barrier"], known[path["generation"]]) for path in paths
                                                    if path["model"] == kind and path["generation"] in known])}
        for kind in dict.fromkeys(path["model"] for path in paths) for role, known in accuracies.items()
    ]  # fmt: skip
    return {"paths": paths, "barriers": barriers}


def correlation(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Spearman's ρ and its 95 % interval, ``{"n", "rho", "low", "high"}``.

    By Bonett and Wright (Psychometrika 65, 2000) artanh ρ has the error √((1 + ρ²/2)/(n − 3)). None stands for ρ with
    fewer than three pairs or where one of the two does not vary, and for an interval with fewer than four. A perfect
    order of few is not certain either: its interval is that of the order next to it. Ten pairs with ρ = 0 leave
    everything from −0.63 to 0.63 open.
    """
    n, nothing = len(pairs), {"rho": None, "low": None, "high": None}
    if n < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return {"n": n, **nothing}
    from scipy.stats import spearmanr

    rho = float(spearmanr(np.array(pairs)).statistic)
    if n < 4:
        return {"n": n, **nothing, "rho": round(rho, 4)}
    most = 1 - 6 * 2 / (n * (n * n - 1))  # ρ after two neighbours have changed places
    at = max(-most, min(most, rho))
    half = NormalDist().inv_cdf(0.975) * math.sqrt((1 + at * at / 2) / (n - 3))
    low, high = (math.tanh(math.atanh(at) + side * half) for side in (-1, 1))
    return {"n": n, "rho": round(rho, 4), "low": round(min(low, rho), 4), "high": round(max(high, rho), 4)}
