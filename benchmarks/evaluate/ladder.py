"""How far can cheap scores be trusted? Models of known order, measured by LogME, probe, few-shot and full finetuning.

    python benchmarks/evaluate/ladder.py
    python benchmarks/evaluate/ladder.py --size small     # short ladders of a hardly trained model, few seeds

The world is that of the demo: scikit-learn's digits, a small vision transformer, the task of the digits that nobody
trains on (here 400 test images, gate and report part together). A good candidate is grown in a few generations of the
loop, by the mean of seven contributors. Two ladders lead away from it: *noise* of rising length in one random
direction, as a share of the length of the weights, and *towards the root* on a straight line. Every rung is expected
to be a worse base than the one before.

For every cheap score, on every ladder: rank correlations (Spearman's rho, Kendall's tau-b, ties in both counted as
ties) with full finetuning and with the known order, and the first rung at which it notices the loss: the paired 95 %
interval of the difference to the candidate lies below 0. The intervals of LogME are over choices of examples alone.
The last line is a JSON object of all that. Two and a half minutes of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from scipy.stats import kendalltau, spearmanr

from hub_fusion.demo.digits import CONTRIBUTORS, EVALUATE, write_root, write_task
from hub_fusion.demo.training import finetune, one_thread
from hub_fusion.evaluate.interpolation import interpolate
from hub_fusion.evaluate.scores import LIKELIHOODS, Answers, Measurement, difference
from hub_fusion.evaluate.suite import measure
from hub_fusion.recipe import Evaluate
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, folder_sha256, fuse
from hub_fusion.weights.random_steps import random_walk

CHEAP, DEAR = ("logme", "probe", "fewshot"), "finetune"
SIZES: dict[str, dict[str, Any]] = {
    "full": {"generations": 4, "epochs": 6, "seeds": 5, "noise": (0.1, 0.2, 0.4, 0.6, 0.8, 1.2),
             "back": (0.1, 0.25, 0.5, 0.75, 1.0)},
    "small": {"generations": 1, "epochs": 1, "seeds": 2, "noise": (0.5, 2.0), "back": (0.5, 1.0)},
}  # fmt: skip


def grow(work: Path, generations: int, epochs: int, compute: Compute) -> tuple[Path, Path]:
    """The root and the newest generation of a loop in which all contributors finetune, and are fused by their mean."""
    write_root(work / "gen-0")
    for generation in range(1, generations + 1):
        parent, sources = work / f"gen-{generation - 1}", []
        for contributor in CONTRIBUTORS:
            out = work / f"finetunes-{generation}" / contributor.name
            finetune(parent, contributor, out, seed=generation, epochs=epochs)
            sources.append(Source(contributor.name, out, parent))
        compute.together(fuse, FusePlan(parent, work / f"gen-{generation}", tuple(sources)))
    return work / "gen-0", work / f"gen-{generations}"


def write_held_out(folder: Path) -> Path:
    """The demo's task with all 400 test images in one part."""
    write_task(folder)
    parts = [dict(np.load(folder / f"{part}.npz")) for part in ("gate", "report")]
    np.savez(folder / "gate.npz", **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    (folder / "report.npz").unlink()
    return folder


def build(
    root: Path, good: Path, work: Path, size: dict[str, Any], compute: Compute
) -> dict[str, list[tuple[float, Path]]]:
    """Ladder → (how far down, folder) of its rungs, the candidate itself, at 0, first."""
    length = float(
        np.sqrt(sum(np.square(t.astype(np.float64)).sum() for t in load_file(good / "model.safetensors").values()))
    )
    ladders: dict[str, list[tuple[float, Path]]] = {"noise": [(0.0, good)], "towards the root": [(0.0, good)]}
    for share in size["noise"]:
        out = work / f"noise-{share:g}"
        random_walk(good, out, norms=[share * length], seed=0)
        ladders["noise"].append((share, out))
    for share in size["back"]:
        ladders["towards the root"].append((share, interpolate(good, root, share, work / f"back-{share:g}", compute)))
    return ladders


def answers(measurement: Measurement, protocol: str) -> Answers:
    """What a checkpoint answered by one protocol, or its log-likelihoods."""
    found = measurement.likelihoods if protocol in LIKELIHOODS else measurement.correct
    return {key: matrix for key, matrix in found.items() if key[2] == protocol}


def mean(measurement: Measurement, protocol: str) -> float:
    """The score by one protocol."""
    return float(np.mean([matrix.mean() for matrix in answers(measurement, protocol).values()]))


def agreement(one: Sequence[float], other: Sequence[float]) -> dict[str, float | None]:
    """Rank correlations of two lists of scores; None where one of them is constant, which orders nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input
        found = {"spearman": spearmanr(one, other).statistic, "kendall": kendalltau(one, other).statistic}
    return {name: round(float(value), 3) if np.isfinite(value) else None for name, value in found.items()}


def first_noticed(rungs: Sequence[Measurement], protocol: str) -> int | None:
    """The first rung whose paired interval against the first of all lies below 0."""
    for place, rung in enumerate(rungs[1:], start=1):
        if difference(answers(rung, protocol), answers(rungs[0], protocol))["high"] < 0:
            return place
    return None


def judge(name: str, depths: Sequence[float], rungs: Sequence[Measurement]) -> dict[str, Any]:
    """What a ladder says of every score."""
    values = {p: [mean(m, p) for m in rungs] for p in (*CHEAP, DEAR)}
    known = [-depth for depth in depths]
    found: dict[str, Any] = {"ladder": name, "depths": list(depths), "scores": {}, "judged": {}}
    for protocol, scores in values.items():
        place = first_noticed(rungs, protocol)
        found["scores"][protocol] = [round(score, 4) for score in scores]
        found["judged"][protocol] = {
            "with_finetune": agreement(scores, values[DEAR]) if protocol != DEAR else None,
            "with_order": agreement(scores, known),
            "noticed_at": None if place is None else depths[place],
            "costs_there": None if place is None else round(values[DEAR][0] - values[DEAR][place], 4),
        }
    return found


def show(found: dict[str, Any]) -> None:
    """One ladder as two tables."""
    print(f"\n{found['ladder']}\n{'depth':>10}" + "".join(f"{protocol:>10}" for protocol in found["scores"]))
    for row, depth in enumerate(found["depths"]):
        print(f"{depth:>10g}" + "".join(f"{scores[row]:>10.4f}" for scores in found["scores"].values()))
    print(f"{'':>10}{'rho, finetune':>16}{'tau, finetune':>16}{'rho, order':>12}{'tau, order':>12}{'noticed at':>12}"
          f"{'points lost':>13}")  # fmt: skip
    for protocol, judged in found["judged"].items():
        with_dear, order = judged["with_finetune"] or {}, judged["with_order"]
        cells = [(with_dear.get("spearman"), 16), (with_dear.get("kendall"), 16), (order["spearman"], 12),
                 (order["kendall"], 12), (judged["noticed_at"], 12)]  # fmt: skip
        lost = judged["costs_there"]
        cells.append((None if lost is None else round(100 * lost, 1), 13))
        print(f"{protocol:>10}" + "".join(f"{'–' if cell is None else cell:>{width}}" for cell, width in cells))


def main() -> None:
    """Grow, climb down, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", choices=tuple(SIZES), default="full")
    asked = options.parse_args()
    size, load, compute = SIZES[asked.size], os.getloadavg()[0], Compute()
    began, worked = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as name, one_thread():
        work = Path(name)
        root, good = grow(work, size["generations"], size["epochs"], compute)
        grown = time.process_time() - worked
        task = {"name": "digits", "path": str(write_held_out(work / "task")), "role": "gate"}
        # all 133 there are, to the end: early stopping would look at 13 of them, and ends anywhere
        full = EVALUATE["fewshot"] | {"examples": 10_000, "stop": None}
        evaluate = Evaluate.model_validate(
            EVALUATE
            | {"tasks": [task], "logme": {}, "finetune": full, "seeds": size["seeds"], "max_test_examples": 400}
        )
        known: dict[Path, Measurement] = {}
        ladders = build(root, good, work, size, compute)
        for folder in [folder for rungs in ladders.values() for _, folder in rungs]:
            if folder not in known:
                known[folder] = measure(folder, evaluate, weights_sha256=folder_sha256(folder))
                print(f"{time.monotonic() - began:7.1f} s  {folder.name}", file=sys.stderr)
    results = [judge(n, [depth for depth, _ in rungs], [known[f] for _, f in rungs]) for n, rungs in ladders.items()]
    for found in results:
        show(found)
    spent = time.process_time() - worked
    print(f"\n{time.monotonic() - began:.0f} s, of processor time {spent:.0f} s ({grown:.0f} s to grow the candidate); "
          f"{os.cpu_count()} CPUs, load before: {load:.1f}")  # fmt: skip
    print(json.dumps({"size": asked.size, "processor_seconds": round(spent, 1), "ladders": results}))


if __name__ == "__main__":
    main()
