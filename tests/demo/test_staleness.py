"""What late contributions are worth to a base that has gone on: as their own changes, and as the weights they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hub_fusion.demo.digits import CONTRIBUTORS, EVALUATE, TASK_NAME, Contributor, write_root, write_task
from hub_fusion.demo.training import finetune
from hub_fusion.evaluate.suite import measure
from hub_fusion.recipe import Evaluate, Task
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse

REGULAR, LATE = CONTRIBUTORS[:3], CONTRIBUTORS[3:6]
GENERATIONS = 5
EPOCHS, LEARNING_RATE = (
    3,
    3e-4,
)  # a third of the demo's: the base still learns at gen-5, which the demo's no longer does


@dataclass
class Lab:
    """A base that grows in a folder."""

    folder: Path
    seed: int
    compute: Compute

    def generation(self, number: int) -> Path:
        return self.folder / f"gen-{number}"

    def grow(self) -> None:
        """Five generations of three contributors each; the other three wait."""
        write_root(self.generation(0))
        for number in range(1, GENERATIONS + 1):
            base = self.generation(number - 1)
            trained = [self.train(c, number - 1, f"regular-{number}-{c.name}") for c in REGULAR]
            self.fuse(base, [(folder, base) for folder in trained], self.generation(number))

    def train(self, contributor: Contributor, start: int, name: str) -> Path:
        out = self.folder / name
        finetune(self.generation(start), contributor, out, seed=self.seed, epochs=EPOCHS, lr=LEARNING_RATE)
        return out

    def fuse(self, base: Path, contributions: list[tuple[Path, Path]], out: Path) -> Path:
        """The mean of the changes of (finetune, origin) on top of a base."""
        sources = tuple(Source(folder.name, folder, origin, "finetune") for folder, origin in contributions)
        fuse(FusePlan(base, out, sources), self.compute)
        return out

    def score(self, folder: Path) -> float:
        """Few-shot accuracy on the report images of the held-out digits."""
        if not (task := self.folder / "task").is_dir():
            write_task(task)
        rules = Evaluate.model_validate(EVALUATE | {"probe": None, "tasks": [Task(name=TASK_NAME, path=task)]})
        return measure(folder, rules, weights_sha256="0" * 64, cache=None).scores.mean("report")


@pytest.mark.slow
def test_late_contributions_help_as_changes_of_their_own_generation(tmp_path: Path) -> None:
    """Three contributors trained from gen-1 and three from gen-2 come when the base is at gen-5. Their task vectors
    since their own generation are fused into it, or their weights as they are (which is their change against gen-5, and
    takes back what the base has learned since). Three seeds; figures in benchmarks/LOG.md.
    """
    found = []
    for seed in range(3):
        lab = Lab(tmp_path / str(seed), seed, Compute())
        lab.grow()
        newest = lab.generation(GENERATIONS)
        late = [(lab.train(c, start, f"late-{start}-{c.name}"), start) for start in (1, 2) for c in LATE]
        own = lab.fuse(newest, [(folder, lab.generation(start)) for folder, start in late], lab.folder / "own")
        raw = lab.fuse(newest, [(folder, newest) for folder, _ in late], lab.folder / "raw")
        found.append([lab.score(folder) for folder in (newest, own, raw)])
        print(f"seed {seed}: gen-5 {found[-1][0]:.3f}, own generation's {found[-1][1]:.3f}, raw {found[-1][2]:.3f}")
    before, own_mean, raw_mean = np.mean(found, axis=0)
    assert own_mean > raw_mean and own_mean > before
