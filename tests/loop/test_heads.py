"""Heads are published with the generation they were fitted on, and used from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub_fusion import load_head
from hub_fusion.errors import RepoMissing, WeightsError
from hub_fusion.publish.rollback import roll_back
from hub_fusion.publish.state import open_base
from hub_fusion.recipe import Recipe

from .world import BASE, World, write_task

HEADS = {f"heads/{task}/{name}" for task in ("colour", "shape") for name in ("head.json", "head.safetensors")}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tasks that the base was grown from, and a held-out one."""
    folder = tmp_path_factory.mktemp("seen")
    for name in ("colour", "shape", "held-out"):
        write_task(folder / name)
    return folder


def recipe_of(world: World, seen: Path, kind: str, *names: str) -> Recipe:
    tasks = [{"name": name, "path": str(seen / name), "role": "seen"} for name in ("colour", "shape")]
    tasks.append({"name": "held-out", "path": str(seen / "held-out"), "role": "gate"})
    evaluate: dict[str, Any] = {"tasks": tasks, "probe": {"examples": 40}, "fewshot": None, "seeds": 1}
    return world.recipe(
        evaluate=evaluate,
        gate={"test": "means", "epsilon": 1.0},
        heads={"kind": kind, "tasks": list(names), "examples": 60},
    )


def heads_at(world: World, revision: str) -> set[str]:
    return {path for path in world.maintainer.files(BASE, revision) if path.startswith("heads/")}


def test_a_generation_is_used_on_the_tasks_it_was_grown_from(ready: World, seen: Path) -> None:
    """In one commit with the weights; what is loaded reaches the score that record and card tell."""
    assert ready.run(recipe_of(ready, seen, "refit")).generation == 1
    assert heads_at(ready, "gen-1") == HEADS
    record, card = ready.record(1), ready.text("README.md", "gen-1")
    assert {(h.task, h.protocol, h.role) for h in record.heads} == {(t, "head", "seen") for t in ("colour", "shape")}
    assert "## Heads" in card and 'load_head("acme/base", "colour", revision="gen-1")' in card
    model = load_head(BASE, "colour", revision="gen-1", hub=ready.maintainer)
    with np.load(seen / "colour" / "report.npz") as part:
        right = np.mean([int(a) == b for a, b in zip(model.predict(part["pixel_values"]), part["label"], strict=True)])
    assert right == pytest.approx(record.heads[0].mean)
    with pytest.raises(RepoMissing, match="it has colour, shape"):
        load_head(BASE, "other", hub=ready.maintainer)


def test_old_heads_go_or_stay_as_the_recipe_says(ready: World, seen: Path) -> None:
    """A head that stays belongs to the weights it was fitted on, and says which; folders of people's own stay."""
    ready.run(recipe_of(ready, seen, "refit"))
    ready.commit({"heads/README.md": "ours", "heads/mine/weights.txt": "ours"})
    ready.contribute_all(seed=30)
    assert ready.run(recipe_of(ready, seen, "keep", "colour")).generation == 2
    ours = {"heads/README.md", "heads/mine/weights.txt"}
    assert heads_at(ready, "gen-2") == HEADS | ours
    assert load_head(BASE, "colour", hub=ready.maintainer).about.generation == 2
    with pytest.raises(WeightsError, match="revision='gen-1'"):
        load_head(BASE, "shape", hub=ready.maintainer)
    assert load_head(BASE, "shape", revision="gen-1", hub=ready.maintainer).about.generation == 1

    ready.contribute_all(seed=60)
    assert ready.run(recipe_of(ready, seen, "refit", "shape")).generation == 3
    assert heads_at(ready, "gen-3") == {path for path in HEADS if "shape" in path} | ours
    ready.contribute_all(seed=90)
    assert ready.run(recipe_of(ready, seen, "none")).generation == 4
    assert heads_at(ready, "gen-4") == ours


def test_a_withdrawn_generation_takes_its_heads_along(ready: World, seen: Path) -> None:
    """Main has the weights of the parent again, so it has the parent's heads."""
    ready.run(recipe_of(ready, seen, "refit", "colour"))
    ready.contribute_all(seed=30)
    ready.run(recipe_of(ready, seen, "refit"))
    roll_back(ready.maintainer, open_base(ready.maintainer, BASE), 2, "a test")
    assert heads_at(ready, "main") == {path for path in HEADS if "colour" in path}
    assert load_head(BASE, "colour", hub=ready.maintainer).about.generation == 1
