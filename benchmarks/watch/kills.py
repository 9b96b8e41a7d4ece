"""Kill a watcher a hundred times at a Hub that fails, and look whether its lineage is whole.

    python benchmarks/watch/kills.py --kills 100

A local Hub and the real client: three contributors train scikit-learn's digits (a small vision transformer) anew from
every generation, and `hub-fusion watch` runs in a process of its own. It gets SIGKILL, is started again and killed
again, while the Hub answers 500, 503, 429 and 412, drops connections and goes silent. More than half of the kills are
aimed: the watcher logs what it begins (`--log-format json`) and is killed a random while later, or between the commit
of a generation and its tag. The others come at random moments. Where a kill hit is read from the last line that the
process wrote and from what the Hub then holds: "tag" is a generation's commit without its tag.

In the end every generation must be there once, from the contributions that were made for it, on the one before; each
is fused again from its record and compared byte by byte. The last line of stdout is a JSON object. No time is a result.
The seed decides aims, moments and faults, but not how processes are scheduled: no two runs are the same.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from kills_world import FAULTS, STAGES, Scene, Watcher, audit

from hub_fusion.local_hub import serve
from hub_fusion.weights.compute import Compute

AIMED = ("screen", "fuse", "evaluate", "commit", "tag")
GENERATIONS = {"full": 10, "small": 1}
KILLS = {"full": 100, "small": 5}
LONGEST_S = {"screen": 0.3, "fuse": 0.1, "evaluate": 0.5, "commit": 0.1, "tag": 0.0}  # of the while after a stage began


def main() -> int:
    """Run and print; 1 if the lineage is not whole."""
    options = arguments()
    kills, generations = options.kills or KILLS[options.size], GENERATIONS[options.size]
    folder = options.work or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store").mkdir()
    with serve(folder / "store") as hub:
        scene = Scene(folder, hub, folder / "store")
        stages = torment(scene, kills, generations, random.Random(options.seed))  # noqa: S311 (to be repeatable)
        faults = Counter(hit.kind for hit in hub.faults.log)
        found = audit(scene, generations, Compute())
    shutil.rmtree(folder, ignore_errors=True)
    print(f"kills by stage: {dict(stages)}; faults by kind: {dict(faults)}")
    figures = {"kills": stages.total(), "kills_by_stage": dict(stages), "faults": faults.total()} | found
    print(json.dumps(figures), flush=True)
    whole = (found["generations"], found["duplicates"], found["gaps"], found["reproduced"])
    return int(whole != (generations, 0, 0, generations))


def torment(scene: Scene, kills: int, generations: int, chance: random.Random) -> Counter[str]:
    """Grow the base to its last generation under faults and `kills` kills; gives the kills by stage."""
    stages: Counter[str] = Counter()
    for generation in range(1, generations + 1):
        scene.hub.faults.set(None)
        scene.contribute(generation)
        quota = -(-(kills - stages.total()) // (generations - generation + 1))
        due, last = stages.total() + quota, generation == generations
        while stages.total() < due and (last or not scene.has_record(generation)):
            break_faults(scene, chance)
            watcher = scene.watch()
            wanted = None if scene.has_record(generation) else aim(stages, due - stages.total(), chance)
            stages[strike(scene, watcher, generation, wanted, chance)] += 1
            print(f"gen-{generation}: kill {stages.total()} {dict(stages)}", file=sys.stderr, flush=True)
        break_faults(scene, chance)
        watcher = scene.watch()
        watcher.wait_for(partial(arrived, generation))
        watcher.kill()  # between the generations: it is not counted
    scene.hub.faults.set(None)
    return stages


def arrived(generation: int, event: dict[str, Any]) -> bool:
    """Whether an event tells that a generation is there, tag and all."""
    return event["event"] in ("look", "published", "waiting") and event.get("generation", 0) >= generation


def break_faults(scene: Scene, chance: random.Random) -> None:
    """Faults for the next process, others than for the last."""
    scene.hub.faults.set({"seed": chance.randrange(10**6), "rules": list(FAULTS)})


def aim(stages: Counter[str], left: int, chance: random.Random) -> str | None:
    """The stage to wait for, the one that was hit least; None for a random moment.

    Commit and tag end a generation, so they are aimed at when it has had its other kills.
    """
    if left <= 2:
        return "commit" if left == 2 else "tag"
    return None if chance.random() < 0.4 else min(AIMED[:3], key=lambda stage: stages[stage])


def strike(scene: Scene, watcher: Watcher, generation: int, stage: str | None, chance: random.Random) -> str:
    """Kill at a random moment of a stage, or of everything; gives the stage that was hit."""
    if stage is None:
        if chance.random() < 0.8:  # else it may be while Python starts
            watcher.wait_for(lambda event: event["event"] == "look")
        time.sleep(chance.uniform(0, 2.0))
    else:
        watcher.wait_for(lambda event: event["event"] in (stage, "waiting", "known"))
        time.sleep(chance.uniform(0, LONGEST_S[stage]))
    said = watcher.kill()
    scene.hub.faults.set(None)
    untagged = scene.has_record(generation) and f"gen-{generation}" not in scene.maintainer.tags("acme/digits")
    if untagged:
        return "tag"
    return said if said in STAGES and said != "tag" else "start" if said == "start" else "idle"


def arguments() -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", choices=["small", "full"], default="full")
    made.add_argument("--kills", type=int, help="default: 100, with --size small 5")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--work", type=Path, help="an empty folder; default: a temporary one")
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main())
