"""The gate on real models: noise is rejected from where it does certain harm, and a repair is let in."""

from __future__ import annotations

from pathlib import Path

from hub_fusion.evaluate.gate import judge
from hub_fusion.evaluate.scores import Measurement
from hub_fusion.evaluate.suite import measure
from hub_fusion.recipe import Gate
from hub_fusion.weights.fuse import folder_sha256
from hub_fusion.weights.random_steps import random_walk

from .conftest import settings, write_images

LENGTHS = (0.0, 0.5, 2.0, 8.0, 32.0)


def test_noise_is_rejected_from_where_it_does_certain_harm(vit: Path, tmp_path: Path) -> None:
    """And what is better by as much passes: the gate is no wall against change."""
    task = write_images(tmp_path / "task", sizes=(60, 200, 20))
    asked = settings(task, fewshot=None, probe={"examples": 60}, seeds=2)

    def measured(folder: Path) -> Measurement:
        return measure(folder, asked, weights_sha256=folder_sha256(folder))

    models = []
    for length in LENGTHS:
        random_walk(vit, tmp_path / str(length), norms=[length], seed=3)
        models.append(measured(tmp_path / str(length)))
    verdicts = [judge(model, models[0], Gate(), 1.0) for model in models]
    harm = [rule.high is not None and rule.high < 0 for rule in (verdict.rules[0] for verdict in verdicts)]
    assert verdicts[0].accepted and harm[-1], "no noise does no harm, much noise does"
    first = harm.index(True)
    assert not any(verdict.accepted for verdict in verdicts[first:]), "every rung from the first certain loss on"
    assert judge(models[0], models[-1], Gate(), 1.0).accepted, "the better one passes"
