"""What becomes of contributions after they were fused: the watcher tells, and changes nothing by itself."""

from __future__ import annotations

from datetime import timedelta

from hub_fusion.contributions.listing import Listing

from .world import AUTHORS, BASE, World


def test_a_watcher_tells_once_that_a_fused_contribution_is_gone(ready: World) -> None:
    """In its log, in the status, and by ``hub-fusion status``; the generation stays."""
    listing, said = Listing(ready.work / "listing.sqlite3"), list[str]()
    rules = ready.recipe().model_copy(update={"rescan": timedelta(0)})
    assert ready.run(rules, listing=listing, say=said.append).status == "published"
    assert ready.run(rules, listing=listing, say=said.append).status == "waiting"
    assert not ready.status().later
    ready.client(AUTHORS[0]).delete_repo(f"{AUTHORS[0]}/finetune")
    for _ in range(2):
        assert ready.run(rules, listing=listing, say=said.append).status == "waiting"
    assert [(one.repo, one.generation, one.code) for one in ready.status().later] == [
        (f"{AUTHORS[0]}/finetune", 1, "gone")
    ]
    assert [line for line in said if "subtract" in line] == [
        f"{AUTHORS[0]}/finetune is part of gen-1. Its repository is gone, or private. To take it out again: "
        f"hub-fusion subtract {AUTHORS[0]}/finetune --reason …"
    ]
    shown = ready.command("status", BASE)
    assert "gone" in shown.stdout + shown.stderr
    assert "gen-1" in ready.tags()
