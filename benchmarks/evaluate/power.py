"""From which loss does the gate notice that a candidate is worse? Noise of rising length on a real model.

    python benchmarks/evaluate/power.py [--size small]

The parent is the demo's vision transformer, trained by one contributor; candidates are the parent plus random steps
whose length is a rising part of the way that it was trained, judged by the demo's suite (few-shot and probe on the
digits 7, 8, 9) with the default gate. The table tells the paired change with its 95 % interval and the verdict.

The last line is one JSON object. `noticed` is the true loss that would be rejected in four of five cases, from the
width of the interval of the smallest step that changed anything.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hub_fusion.demo.digits import CONTRIBUTORS, EVALUATE, write_root, write_task
from hub_fusion.demo.training import finetune, one_thread
from hub_fusion.evaluate.gate import judge
from hub_fusion.evaluate.paired import smallest_noticed_drop
from hub_fusion.evaluate.suite import measure
from hub_fusion.recipe import Evaluate, Gate
from hub_fusion.records import Estimate
from hub_fusion.weights.distance import distance
from hub_fusion.weights.fuse import folder_sha256
from hub_fusion.weights.random_steps import random_walk

RUNGS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


def run(work: Path, *, small: bool) -> dict[str, object]:
    """Measure the rungs in `work`."""
    write_root(work / "root")
    write_task(work / "task")
    finetune(work / "root", CONTRIBUTORS[3], work / "trained", seed=0, epochs=1 if small else 20)
    random_walk(work / "trained", work / "parent", norms=[], seed=0)
    length = distance(work / "parent", work / "parent", work / "root").first
    changes = {"seeds": 2, "fewshot": None} if small else {}
    suite = Evaluate.model_validate(EVALUATE | {"tasks": [{"name": "digits-789", "path": work / "task"}]} | changes)
    parent = measure(work / "parent", suite, weights_sha256=folder_sha256(work / "parent"))
    rows: list[dict[str, object]] = []
    noticed = None
    for part in RUNGS[:: 3 if small else 1]:
        random_walk(work / "parent", work / "candidate", norms=[part * length], seed=1)
        candidate = measure(work / "candidate", suite, weights_sha256=folder_sha256(work / "candidate"))
        verdict = judge(candidate, parent, Gate(), 1.0)
        rule = verdict.rules[0]
        assert rule.low is not None and rule.high is not None, "answers are at hand, so the rule is paired"
        change = Estimate(mean=round(rule.change, 4), low=round(rule.low, 4), high=round(rule.high, 4))
        rows.append({"part": part, "accepted": verdict.accepted, **change.model_dump()})
        if noticed is None and change.low != change.high:
            noticed = round(smallest_noticed_drop(change, Gate().epsilon), 4)
        told = f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
        print(f"noise {part:4.2f} of the way: {told} {'accepted' if verdict.accepted else 'rejected'}", flush=True)
    return {"parent": round(parent.scores.mean("gate"), 4), "rungs": rows, "noticed": noticed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "full"], default="full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, one_thread():
        print(json.dumps(run(Path(folder), small=options.size == "small")))
