"""Generations that a human decides about: merged they are like any other, closed they do not come again."""

from __future__ import annotations

from typing import Any

import pytest

from hub_fusion.errors import HubUnreachable
from hub_fusion.reproduce import reproduce

from .world import BASE, World

ASK: dict[str, Any] = {"publish": {"mode": "pull-request"}}


def pulls(world: World, status: str = "open") -> list[int]:
    found = world.maintainer.api.get_repo_discussions(BASE, discussion_type="pull_request", discussion_status=status)
    return sorted(discussion.num for discussion in found)


def test_merged_it_is_a_generation_and_the_lineage_goes_on(ready: World) -> None:
    """The next look tags the commit that brought the record; then the next round is proposed on top of it."""
    outcome = ready.run(ready.recipe(**ASK))
    assert (outcome.status, outcome.revision, set(ready.tags())) == ("proposed", "refs/pr/1", {"gen-0"})
    assert "fusion/index.json" not in ready.maintainer.files(BASE, "main")
    waiting = ready.run(ready.recipe(**ASK))
    assert waiting.status == "waiting" and "pull request 1 for gen-1 awaits" in waiting.reason and pulls(ready) == [1]
    ready.maintainer.api.merge_pull_request(BASE, 1)
    assert ready.run(ready.recipe(**ASK)).status == "waiting" and set(ready.tags()) == {"gen-0", "gen-1"}
    assert ready.tags()["gen-1"] == ready.maintainer.commits(BASE)[0].sha
    assert reproduce(ready.client("fritz"), BASE, "gen-1", ready.compute, ready.folder / "again").equal
    ready.contribute_all(seed=20)
    assert ready.run(ready.recipe(**ASK)).status == "proposed" and pulls(ready) == [2]


def test_closed_it_is_not_made_again_but_something_new_is(ready: World) -> None:
    ready.run(ready.recipe(**ASK))
    ready.maintainer.api.change_discussion_status(BASE, 1, new_status="closed")
    assert ready.run(ready.recipe(**ASK)).status == "known" and pulls(ready) == []
    ready.contribute("fritz", seed=50)
    assert ready.run(ready.recipe(**ASK)).status == "proposed" and pulls(ready) == [2]


def test_what_is_left_out_awaits_a_decision_once(ready: World) -> None:
    """Asked again, it would open a second pull request for the same generation; an empty reason is none."""
    ready.run()
    command = ("subtract", "bob/finetune", "-r", ready.write_recipe(**ASK), "--work", ready.work, "--reason")
    empty = ready.command(*command, " ")
    assert empty.returncode == 2 and "reason" in empty.stderr
    assert ready.command(*command, "the author asked").returncode == 0
    again = ready.command(*command, "the author asked")
    assert again.returncode == 1 and "pull request 1 for gen-2 awaits a decision" in again.stderr
    assert pulls(ready) == [1]


def test_one_whose_answer_was_lost_is_found_and_not_opened_twice(ready: World) -> None:
    """Killed or cut off after it was opened, before the status knew: the look finds its own by its attempt."""
    ready.hub.faults.set([{"route": "POST /**/commit/main", "kind": "drop", "when": "after", "times": 1}])
    with pytest.raises(HubUnreachable):
        ready.run(ready.recipe(**ASK))
    assert pulls(ready) == [1]
    assert ready.run(ready.recipe(**ASK)).status == "waiting" and pulls(ready) == [1]
    assert [p.number for p in ready.status().proposed] == [1]


def test_one_that_main_has_left_behind_is_closed_and_made_anew(ready: World) -> None:
    """Somebody edited the card, so it conflicts. A stranger's of the same name is nobody's business."""
    ready.client("ann").api.create_pull_request(BASE, title="Generation 1: mine")
    ready.run(ready.recipe(**ASK))
    ready.commit({"README.md": "---\nlicense: apache-2.0\n---\n\nRewritten.\n"})
    assert ready.run(ready.recipe(**ASK)).status == "proposed"
    own = [d for d in ready.maintainer.api.get_repo_discussions(BASE) if d.author == "acme"]
    assert [(d.num, d.status) for d in sorted(own, key=lambda d: d.num)] == [(2, "closed"), (3, "open")]
