"""For attacks.py: an attacker whose statistics, not weights, ask for the whole of a fuse."""

from __future__ import annotations

import shutil
from pathlib import Path

from attack_kinds import Attack
from attack_world import Data
from safetensors import safe_open
from safetensors.torch import save_file

from hub_fusion.contribute.statistics import collect_statistics
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.statistics import BESIDE

FACTOR, EXAMPLES = 1e6, 64
METHODS = (  # name, method, its options without what protects from this
    ("scaled Gram", "regmean", {"normalise": "none"}),
    ("scaled Fisher", "fisher", {"cap": 0.0}),
)


def scaled_statistics(a: Attack, victim: Data, poisoned: Path, work: Path) -> list[Source]:
    """The honest with their statistics, and the whole backdoor with its own times a million."""
    models = {**a.world.honest, "mallory0": poisoned}
    places = {name: Path(shutil.copytree(folder, work / f"{name}-model")) for name, folder in models.items()}
    for name, place in places.items():
        a.world.people.get(name, victim).write(work / name)
        collect_statistics(models[name], work / name, kind="both", examples=EXAMPLES, out=work / f"{name}-out")
        with safe_open(work / f"{name}-out" / BESIDE, "pt") as opened:
            about = opened.metadata()
            brought = {n: opened.get_tensor(n) for n in opened.keys()}  # noqa: SIM118
        times = FACTOR if name == "mallory0" else 1.0
        (place / BESIDE).parent.mkdir()
        save_file({n: (t.float() * times).contiguous() for n, t in brought.items()}, place / BESIDE, about)
    return [Source(name, folder, a.world.base, weight=1 / len(places)) for name, folder in places.items()]
