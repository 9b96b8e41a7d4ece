"""Leaving a contribution out: the newest generation again without it, and honest words where that is not enough."""

from __future__ import annotations

import pytest

from hub_fusion.errors import RecordError
from hub_fusion.reproduce import reproduce
from hub_fusion.subtract import subtract

from .world import AUTHORS, BASE, World


def test_the_next_generation_is_the_newest_without_it(ready: World) -> None:
    """It follows from its own record, the others have the votes, the withdrawn one stays out, the old one is marked."""
    ready.run()
    done = ready.command("subtract", "BOB/finetune", "--reason", "the author asked", "-r", ready.write_recipe(),
                         "--work", ready.work)  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = ready.record(2)
    assert [c.author for c in record.contributions] == [name for name in AUTHORS if name != "bob"]
    assert [round(c.weight or 0, 6) for c in record.contributions] == [0.25] * 4
    assert record.parent_generation == 0 and record.parent_revision == ready.tags()["gen-0"]
    assert [(r.author, r.code) for r in record.refusals] == [("bob", "subtracted")]
    assert [(e.tag, e.status) for e in ready.index().generations] == [
        ("gen-0", "root"), ("gen-1", "yanked"), ("gen-2", "published")]  # fmt: skip
    assert '"yanked"' in ready.text("fusion/gen-1.json") and '"yanked"' not in ready.text("fusion/gen-1.json", "gen-1")
    assert reproduce(ready.client("fritz"), BASE, "gen-2", ready.compute, ready.folder / "again").equal
    outcome = ready.run(ready.recipe(round={"min_contributions": 1}))
    assert outcome.status == "waiting" and outcome.queue == (), "it does not come in again"


def test_a_bounded_share_is_bounded_once(ready: World) -> None:
    """Five eighths of a step is what the record says already; of the four that are left each has an eighth."""
    bounded = ready.recipe(merge={"max_weight": 0.125})
    ready.run(bounded)
    assert ready.record(1).step == 0.625
    subtract(bounded, ready.maintainer, ready.compute, "bob/finetune", "the author asked", work=ready.work)
    record = ready.record(2)
    assert record.step == 0.5 and {c.weight for c in record.contributions} == {0.25}
    assert reproduce(ready.client("fritz"), BASE, "gen-2", ready.compute, ready.folder / "again").equal


def test_what_was_trained_on_it_is_said_to_stay(ready: World) -> None:
    """Re-fusing cannot untrain; the sentence names the generations and what is left to do."""
    ready.run()
    ready.contribute_all(seed=20)
    ready.run()
    before = ready.maintainer.branches(BASE)["main"]
    for repo, words in (
        ("bob/finetune", "gen-1.*cannot be untrained.*rollback acme/base gen-1"),
        ("zoe/finetune", "in no generation"),
    ):
        with pytest.raises(RecordError, match=words):
            subtract(ready.recipe(), ready.maintainer, ready.compute, repo, "why", work=ready.work)
    assert ready.maintainer.branches(BASE)["main"] == before
