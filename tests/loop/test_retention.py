"""What a generation forgot of the tasks it was grown from, and the line to it, are in its record; neither decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hub_fusion.evaluate.interpolation import barrier
from hub_fusion.evaluate.suite import measure, suite_id

from .world import World, harmful, write_task

TASKS = {"colour": "seen", "shape": "seen", "held-out": "gate"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks that contributors trained on, and one that none did."""
    folder = tmp_path_factory.mktemp("retention")
    for name in TASKS:
        write_task(folder / name)
    return folder


def test_forgetting_is_told_against_the_parent_and_gen_0(ready: World, tasks: Path) -> None:
    """Gen-2 forgot, and a gate that lets everything pass publishes it: record and card tell nevertheless."""
    named = [{"name": name, "path": str(tasks / name), "role": role} for name, role in TASKS.items()]
    evaluate = {"tasks": named, "probe": {"examples": 40}, "seeds": 2, "fewshot": None, "interpolation": {"points": 3}}
    recipe = ready.recipe(evaluate=evaluate, gate={"test": "means", "epsilon": 1.0, "epsilon_root": 1.0, "delta": None},
                          search={"control": "off"}, merge={"steps": [1.0]})  # fmt: skip
    assert suite_id(recipe.evaluate) == suite_id(recipe.evaluate.model_copy(update={"interpolation": None}))
    assert ready.run(recipe).status == "published"
    ready.contribute_all(seed=20, change=harmful)
    assert ready.run(recipe).status == "published"
    models = []
    for tag in ("gen-0", "gen-1", "gen-2"):
        folder = ready.maintainer.snapshot("acme/base", ready.tags()[tag], ("*.json", "*.safetensors"))
        models.append(measure(folder, recipe.evaluate, weights_sha256=tag * 10).correct)
    alone = [{t: float(m[t, "seen", "probe"].mean()) for t in ("colour", "shape")} for m in models]
    for number, over in ((1, 0), (2, 1)):
        record = ready.record(number)
        assert [r.task for r in record.retention] == [None, "colour", "shape"]
        for task, found in {r.task: r for r in record.retention if r.task}.items():
            assert found.over_parent.mean == pytest.approx(alone[number][task] - alone[over][task])
            assert found.over_root.mean == pytest.approx(alone[number][task] - alone[0][task])
            assert found.over_parent.low <= found.over_parent.mean <= found.over_parent.high
        mean = record.retention[0]
        assert mean.protocol == "probe"
        assert mean.over_root.mean == pytest.approx(np.mean([r.over_root.mean for r in record.retention[1:]]))
        line = record.analysis.line if record.analysis else None
        assert line and line.at == (0, 0.5, 1) and line.heads == "refitted" and line.protocol == "probe"
        assert line.barrier == pytest.approx(barrier(line.values), abs=1e-5)
        ends = [float(models[n]["held-out", "gate", "probe"].mean()) for n in (over, number)]
        assert (line.values[0], line.values[-1]) == pytest.approx(ends, abs=0.02), "in float32, a rounding apart"
    lost = ready.record(2).retention[0]
    assert lost.over_root.high < 0 and lost.over_parent.high < 0, "it forgot, and that is certain"
    card = ready.text("README.md")
    assert "On 2 tasks that contributors trained on (linear probe): −" in card
    assert "; certainly worse than gen-0 on colour, shape." in card
    assert not (ready.work / "line" / "point").exists()


def test_without_seen_tasks_there_is_nothing_to_forget_and_no_line_unless_asked_for(ready: World, tasks: Path) -> None:
    named = [{"name": "held-out", "path": str(tasks / "held-out")}]
    recipe = ready.recipe(evaluate={"tasks": named, "probe": {"examples": 40}, "seeds": 1, "fewshot": None},
                          gate={"test": "means", "epsilon": 1.0}, search={"control": "off"})  # fmt: skip
    record = ready.run(recipe).record
    assert record and record.retention == () and record.analysis and record.analysis.line is None
