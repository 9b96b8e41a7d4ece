"""Does each method keep its own paper's promise, once, on a small real model?

    python examples/digits/promises.py --work digits --out examples/digits/promises.json    # about two minutes

The base is what six generations of the digits loop made (examples/digits/run.py has the world). Heads are logistic
regressions on the base's features, fitted once and *not* again after an edit, unless a line says refitted. What is
chosen (a scale, a step) is chosen on validation parts and told on others.

negation    Ilharco et al. 2022, arXiv 2212.04089: minus a task's vector forgets that task and keeps the others.
PAINT       Ilharco et al. 2022, arXiv 2208.05592: part of the way to a finetune patches without forgetting.
greedy soup Wortsman et al. 2022, arXiv 2203.05482: adding only what helps beats adding everything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from run import SETTINGS, write_world

from hub_fusion import fuse_models
from hub_fusion.demo.digits import CONTRIBUTORS
from hub_fusion.demo.training import finetune, one_thread
from hub_fusion.evaluate.features import extract_features
from hub_fusion.evaluate.fewshot import finetune as finetune_on
from hub_fusion.evaluate.models import load_body, load_classifier, load_encode
from hub_fusion.evaluate.probe import fit_probe
from hub_fusion.evaluate.soup import greedy_soup
from hub_fusion.evaluate.tasks import Examples, TaskData, load_task
from hub_fusion.recipe import FewShot, Task
from hub_fusion.simulate.loop import save_model
from hub_fusion.simulate.run import run_simulation
from hub_fusion.simulate.settings import Simulation
from hub_fusion.weights.compute import Compute

Predict = Callable[[np.ndarray], np.ndarray]


def features(folder: Path, task: TaskData, part: Examples) -> np.ndarray:
    """(n, hidden)."""
    return extract_features(load_body(folder), load_encode(folder, task, max_length=16), part.inputs)


def fit_head(folder: Path, task: TaskData) -> Predict:
    """A head on the features of this checkpoint, for this and edited ones."""
    return fit_probe(features(folder, task, task.train), task.train.labels)


def accuracy(folder: Path, task: TaskData, head: Predict | None = None, role: str = "gate") -> float:
    """Of a fixed head, or of one that is fitted to this checkpoint."""
    part = task.parts[role]  # type: ignore[index]
    return float(((head or fit_head(folder, task))(features(folder, task, part)) == part.labels).mean())


def seen_tasks(work: Path) -> dict[str, TaskData]:
    """What contributors had; the gate part is the tenth that was set aside, and here halved into gate and report."""
    found = {}
    for c in CONTRIBUTORS:
        task = load_task(Task(name=c.name, path=work / "tasks" / c.name, role="gate"), max_test=1000)
        rows = np.arange(len(task.parts["gate"]))
        parts = {role: task.parts["gate"].take(rows[n::2]) for n, role in enumerate(("gate", "report"))}
        found[c.name] = replace(task, parts=parts)
    return found


def negation(base: Path, work: Path, tasks: dict[str, TaskData]) -> dict[str, Any]:
    """Forget ada's digits 0, 1, 2: the largest scale that leaves 95 % of the accuracy on tasks without them."""
    ada, others = tasks["ada"], {n: tasks[n] for n in ("ben", "chloe")}
    heads = {name: fit_head(base, task) for name, task in {"ada": ada, **others}.items()}
    finetune(base, CONTRIBUTORS[0], work / "ada", seed=0)

    def kept(folder: Path, role: str) -> float:
        return float(np.mean([accuracy(folder, task, heads[name], role) for name, task in others.items()]))

    chosen, before = base, kept(base, "gate")
    scale = 0.0
    for candidate in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0):
        out = work / f"negated-{candidate}"
        fuse_models(base, [work / "ada"], out, method="task_arithmetic", options={"scale": -candidate})
        if kept(out, "gate") >= 0.95 * before:
            chosen, scale = out, candidate
    return {
        "scale": scale, "target_before": accuracy(base, ada, heads["ada"], "report"),
        "target_after": accuracy(chosen, ada, heads["ada"], "report"), "others_before": kept(base, "report"),
        "others_after": kept(chosen, "report"),
    }  # fmt: skip


def finetune_unseen(base: Path, task: TaskData, out: Path, *, seed: int, epochs: int, lr: float) -> Path:
    """The base finetuned on the digits that nobody had."""
    model = load_classifier(base, task, seed=0)
    settings = FewShot(examples=len(task.train), epochs=epochs, batch_size=16, learning_rate=lr)
    finetune_on(model, load_encode(base, task, max_length=16), task.train, settings, seed=seed)
    save_model(model, base, out)
    return out


def paint(base: Path, work: Path, tasks: dict[str, TaskData], unseen: TaskData) -> dict[str, Any]:
    """Patch the base with 7, 8, 9 (head refitted); α by the mean of patch and supported tasks on validation parts."""
    heads = {name: fit_head(base, task) for name, task in tasks.items()}
    patch = finetune_unseen(base, unseen, work / "patch", seed=0, epochs=15, lr=1e-3)

    def look(folder: Path, role: str) -> tuple[float, float]:
        supported = float(np.mean([accuracy(folder, t, heads[n], role) for n, t in tasks.items()]))
        return accuracy(folder, unseen, role=role), supported

    found = {}
    for alpha in (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
        out = work / f"painted-{alpha}"
        fuse_models(base, [patch], out, method="paint", options={"alpha": alpha})
        found[alpha] = (sum(look(out, "gate")) / 2, *look(out, "report"))
    best = max(found, key=lambda alpha: (found[alpha][0], -alpha))
    row = {name: {"patch": found[a][1], "supported": found[a][2]}
           for name, a in (("base", 0.0), ("finetune", 1.0), ("painted", best))}  # fmt: skip
    return {"alpha": best, **row}


def soup(base: Path, work: Path, unseen: TaskData) -> dict[str, Any]:
    """Ten finetunes of one task, some with far too large a step size; heads refitted."""
    folders = {}
    for number, lr in enumerate((1e-4, 3e-4, 1e-3, 1e-3, 3e-3, 3e-3, 1e-2, 1e-2, 3e-2, 3e-2)):
        name = f"m{number}"
        folders[name] = finetune_unseen(base, unseen, work / name, seed=number, epochs=20, lr=lr)

    def mean_of(names: list[str]) -> Path:
        out = work / "soup"
        fuse_models(base, [folders[n] for n in names], out)
        return out

    scores = {name: accuracy(folder, unseen) for name, folder in folders.items()}
    chosen, _ = greedy_soup(scores, lambda names: accuracy(mean_of(list(names)), unseen))
    best = max(scores, key=lambda name: (scores[name], name))
    return {
        "chosen": len(chosen), "of": len(folders), "greedy": accuracy(mean_of(chosen), unseen, role="report"),
        "uniform": accuracy(mean_of(sorted(folders)), unseen, role="report"),
        "best_single": accuracy(folders[best], unseen, role="report"),
    }  # fmt: skip


def run(work: Path) -> dict[str, Any]:
    write_world(work)
    settings = SETTINGS | {"controls": [], "measure": SETTINGS["measure"] | {"fewshot": None, "probe": None}}
    (work / "base.yaml").write_text(yaml.safe_dump(settings))
    run_simulation(Simulation.load(work / "base.yaml"), work / "runs" / "base", Compute())
    base, tasks = work / "runs" / "base" / f"gen-{SETTINGS['generations']}", seen_tasks(work)
    parts = [load_task(Task(name="u", path=work / "tasks" / f"unseen-{r}", role=r), max_test=1000)
             for r in ("gate", "report")]  # fmt: skip
    unseen = replace(parts[0], parts={**parts[0].parts, **parts[1].parts})
    place = work / "promises"
    found = {"negation": negation(base, place, tasks), "paint": paint(base, place, tasks, unseen),
             "soup": soup(base, place, unseen)}  # fmt: skip
    return json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 4))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("digits"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "promises.json")
    options = parser.parse_args()
    with one_thread():
        options.out.write_text(json.dumps(run(options.work), indent=1) + "\n")
    print(options.out.read_text())
