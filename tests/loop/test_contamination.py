"""What contributors say they trained on taints the tasks that judge, for as long as their work is in the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub_fusion.publish.rollback import roll_back
from hub_fusion.publish.state import fused_credits, open_base
from hub_fusion.reevaluate import reevaluate

from .world import BASE, World, judged

LENIENT = {"test": "means", "epsilon": 1.0, "epsilon_best": 1.0, "delta": None}


def rules(world: World, task: Path, contamination: str = "flag") -> Any:
    tasks = [{"name": "light", "path": str(task), "datasets": ["acme/quadrants"]}]
    return world.recipe(**judged(task, tasks=tasks, contamination=contamination), gate=LENIENT,
                        merge={"steps": [1.0]}, search={"evaluations": 1}, round={"min_contributions": 1})  # fmt: skip


def test_a_tainted_task_is_told_in_record_and_card_until_who_tainted_it_is_withdrawn(empty: World, task: Path) -> None:
    """The generation after it inherits the taint, although nobody in that round says anything."""
    sha = empty.contribute("ann", datasets=["mirror/Quadrants"])
    assert empty.run(rules(empty, task)).status == "published"
    empty.contribute("bob", seed=7)
    assert empty.run(rules(empty, task)).status == "published"
    for generation, since in ((1, None), (2, 1)):
        found = empty.record(generation).contaminated
        assert [(f.task, f.contributions, f.since) for f in found] == [("light", (f"ann/finetune@{sha}",), since)]
    card = empty.text("README.md")
    assert "not held out" in card and "light, since gen-1 (ann/finetune)" in card and "| light ‡ |" in card

    places = {"work": empty.work / "reevaluate", "cache": empty.work / "scores"}
    again = reevaluate(empty.maintainer, BASE, rules(empty, task), empty.compute, **places)
    assert [(f.task, f.since) for f in again.contaminated] == [("light", 1)], "a larger suite may hold more of them"

    empty.contribute("cem", seed=9, datasets=["acme/quadrants"])
    empty.contribute("dora", seed=11, datasets=["acme/another"])
    plan = empty.run(rules(empty, task, "refuse"), dry_run=True)
    assert [c.author for c in plan.queue] == ["dora"]
    assert {(r.author, r.stage, r.code) for r in plan.refusals} == {("cem", "filter", "contaminates")}
    assert "acme/quadrants" in plan.refusals[0].reason and "light" in plan.refusals[0].reason

    hub = empty.maintainer
    for generation, left in ((2, [1]), (1, [])):
        roll_back(hub, open_base(hub, BASE), generation, "not held out")
        assert [number for number, _ in fused_credits(hub, open_base(hub, BASE))] == left
