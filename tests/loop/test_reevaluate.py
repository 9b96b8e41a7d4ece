"""A larger evaluation later on: what the gate could not see is seen, said, and withdrawn only when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub_fusion.errors import RecipeError, RecordError
from hub_fusion.publish.state import open_base
from hub_fusion.recipe import Recipe
from hub_fusion.reevaluate import Reevaluation, reevaluate

from .test_frozen import adapter
from .world import AUTHORS, BASE, World, harmful, honest, judged

FROZEN: dict[str, Any] = {"publish": {"kind": "adapter", "rank": 4}}


def write_blind(folder: Path) -> Path:
    """A task of noise, nearly all of one label: whatever a checkpoint unlearns, it loses nothing here."""
    random = np.random.default_rng(5)
    folder.mkdir(parents=True)
    for role in ("train", "gate", "report"):
        label = (np.arange(60) % 20 == 0).astype(np.int64)
        np.savez(folder / f"{role}.npz", pixel_values=random.normal(size=(60, 1, 8, 8)).astype("f4"), label=label)
    return folder


def again(world: World, recipe: Recipe, *generations: int, **options: Any) -> Reevaluation:
    """In this process, with the caches that the command uses."""
    places = {"work": world.work / "reevaluate", "cache": world.work / "scores"}
    return reevaluate(world.maintainer, BASE, recipe, world.compute, generations=generations, **places, **options)


def grow_blindly(world: World, *, harm_from: int, generations: int) -> Path:
    """Generations by a gate that is blind; gives the recipe's file."""
    blind = world.folder / "tasks" / "blind"
    file = world.write_recipe(**judged(blind if blind.exists() else write_blind(blind)), search={"control": "off"})
    for number in range(1, generations + 1):
        world.contribute_all(seed=10 * number, change=harmful if number >= harm_from else honest)
        outcome = world.run(Recipe.load(file))
        assert outcome.status == "published", outcome.reason
    return file


def test_what_the_gate_could_not_see_is_seen_later_and_withdrawn_when_asked(empty: World, task: Path) -> None:
    """Gen-2 forgot everything, which only the later suite's task can tell. Nothing is measured twice."""
    file = grow_blindly(empty, harm_from=2, generations=2)
    before = empty.maintainer.commits(BASE)
    more = ("reevaluate", BASE, "-r", file, "--tasks", task, "--work", empty.work)
    done = empty.command(*more)
    assert done.returncode == 3, done.stderr
    assert "gen-2: the later evaluation disagrees with the gate" in done.stderr
    assert "too much lost against gen-1" in done.stderr and "failed" in done.stdout
    assert "probe on blind" not in done.stderr, "the round had measured that"
    assert empty.maintainer.commits(BASE) == before, "nothing is withdrawn unless asked for"

    done = empty.command(*more, "--rollback", "--json")
    assert done.returncode == 3 and "probe on" not in done.stderr, "every measurement was kept"
    found = json.loads(done.stdout)
    (second,) = found["judged"]
    assert found["disagrees"] and second["larger"] and second["then"]["tasks"] == 1 and second["now"]["tasks"] == 2
    assert [m["generation"] for m in found["measured"]] == [0, 1, 2]
    rules = {(r["name"], r["task"]): r for r in second["now"]["verdict"]["rules"]}
    assert not rules["parent", None]["passed"] and rules["parent", None]["high"] < 0, "paired, and certain"
    assert not rules["task", task.name]["passed"] and rules["task", "blind"]["passed"]
    means = {m["generation"]: [s["mean"] for s in m["scores"]["tasks"] if s["role"] == "gate"]
             for m in found["measured"]}  # fmt: skip
    assert rules["parent", None]["change"] == pytest.approx(np.mean(means[2]) - np.mean(means[1]))
    assert second["rollback"]["withdrawn"] and second["rollback"]["generation"] == 1

    state = open_base(empty.maintainer, BASE)
    assert state.generation == 1 and state.next_generation == 3
    withdrawn = json.loads(empty.text("fusion/gen-2.json"))["withdrawn"]
    assert withdrawn["verdict"]["rules"] == second["now"]["verdict"]["rules"] and withdrawn["suite"] == found["suite"]
    assert withdrawn["reason"].startswith("a later evaluation disagrees with the gate (2 tasks, 120 test examples")
    assert "too much lost against gen-1" in empty.index().entries[-1].reason
    lenient = empty.command(*more, "--set", "gate.epsilon=0.2", "--set", "gate.delta=0.2")
    assert lenient.returncode == 0 and "gen-1: the later evaluation agrees with the gate" in lenient.stderr
    with pytest.raises(RecordError, match="no gen-2 that is in use; there are gen-1"):
        again(empty, Recipe.load(file), 2)


def test_what_was_built_upon_is_not_withdrawn_unjudged(empty: World, task: Path) -> None:
    """Gen-3 came after gen-2 was doubted; the newest goes first. And a small suite overrules nothing."""
    file = grow_blindly(empty, harm_from=2, generations=3)
    more = ("reevaluate", BASE, "-r", file, "--tasks", task, "--work", empty.work, "--rollback")
    few = empty.command(*more, "gen-3", "--seeds", "1", "--test-examples", "10")
    assert few.returncode == 3 and "20 test examples, 20 answers cannot overrule the gate's" in few.stderr
    second = empty.command(*more, "gen-2")
    assert second.returncode == 3 and "gen-2 is not withdrawn: gen-3 built on it" in second.stderr
    assert empty.index().generations[-1].status == "published"
    both = empty.command(*more, "gen-3", "gen-2", "--json")
    assert [j["rollback"]["withdrawn"] for j in json.loads(both.stdout)["judged"]] == [True, True], both.stderr
    assert [e.status for e in empty.index().generations] == ["root", "published", "yanked", "yanked"]
    assert open_base(empty.maintainer, BASE).generation == 1


def test_a_generation_that_is_an_adapter_is_measured_as_the_round_measured_it(empty: World, task: Path) -> None:
    for place, author in enumerate(AUTHORS):
        adapter(empty, author, place)
    recipe = empty.recipe(**FROZEN, **judged(task), gate={"test": "means", "epsilon": 1.0, "delta": None})
    assert empty.run(recipe).status == "published"
    record = empty.record(1)
    found = again(empty, recipe)
    assert record.candidate_scores and found.suite == record.candidate_scores.suite
    assert found.measured[1].scores.means == record.candidate_scores.means
    assert not found.disagrees and not found.judged[0].larger
    assert found.judged[0].over_parent == record.differences
    said: list[str] = []
    other = empty.recipe(**FROZEN, **judged(task, seeds=1), gate={"protocols": ["fewshot"]})
    with pytest.raises(RecordError, match="protocol 'fewshot'"):
        again(empty, other, say=said.append)
    assert [text for text in said if text.startswith("measuring")] == ["measuring gen-1"], "not after hours"
    assert not (empty.work / "reevaluate" / "whole").exists(), "a whole model of a large base is not left behind"


def test_what_cannot_be_judged_is_said_before_anything_is_measured(ready: World, task: Path) -> None:
    recipe = ready.recipe(**judged(task))
    open_base(ready.maintainer, BASE)
    with pytest.raises(RecordError, match="at gen-0, which no gate has judged"):
        again(ready, recipe)
    with pytest.raises(RecordError, match="no gen-4 that is in use; there are none"):
        again(ready, recipe, 4)
    report = {"tasks": [{"name": task.name, "path": str(task), "role": "report"}]}
    for evaluate in ({"tasks": []}, report):
        with pytest.raises(RecipeError, match="nothing to judge by"):
            again(ready, ready.recipe(evaluate=evaluate))
    assert ready.command("reevaluate", BASE, "2", "-r", ready.folder / "recipe.yaml").returncode == 2
    assert not (ready.work / "scores").exists()
