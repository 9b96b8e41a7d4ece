"""The tag stable: it follows at a distance, never back but for a withdrawal, and is mended wherever it was lost."""

from __future__ import annotations

from datetime import timedelta

import pytest
from huggingface_hub import snapshot_download

from hub_fusion.errors import RecordError
from hub_fusion.publish.channel import due_stable, promote
from hub_fusion.publish.state import open_base
from hub_fusion.publish.status import tell_stable

from .world import BASE, World

AT_ONCE = {"publish": {"hold_back": "PT0S"}}


def test_a_generation_becomes_stable_when_its_time_is_over_and_not_before(ready: World) -> None:
    """Who follows the tag has gen-0 until then; a look without news moves nothing and a dry run never."""
    ready.run(ready.recipe(publish={"hold_back": "P7D"}))
    assert ready.tags()["stable"] == ready.tags()["gen-0"]
    ready.run(ready.recipe(publish={"hold_back": "P7D"}))
    ready.run(ready.recipe(**AT_ONCE), dry_run=True)
    assert ready.tags()["stable"] == ready.tags()["gen-0"]
    ready.run(ready.recipe(**AT_ONCE))
    assert ready.tags()["stable"] == ready.tags()["gen-1"]
    ready.run(ready.recipe(publish={"hold_back": "P365D"}))
    assert ready.tags()["stable"] == ready.tags()["gen-1"], "never back"
    folder = snapshot_download(BASE, revision="stable", endpoint=ready.hub.url, token=ready.tokens["ann"],
                               cache_dir=ready.folder / "stable")  # fmt: skip
    assert folder.endswith(ready.tags()["gen-1"])


def test_promotion_is_for_good_and_is_taken_up_where_it_was_killed(ready: World) -> None:
    """Killed between the removal of the tag and its setting, or before both: the status knows."""
    ready.run()
    assert "stable" not in ready.tags(), "nobody has asked for it"
    done = ready.command("promote", BASE, "gen-1", "--json")
    assert done.returncode == 0 and ready.tags()["stable"] == ready.tags()["gen-1"], done.stderr
    ready.maintainer.delete_tag(BASE, "stable")
    ready.run()
    assert ready.tags()["stable"] == ready.tags()["gen-1"]
    for wrong in (0, 2):
        with pytest.raises(RecordError, match="gen-1"):
            promote(ready.maintainer, open_base(ready.maintainer, BASE), wrong)


def test_a_withdrawn_generation_is_not_stable_a_moment_longer_than_it_must(ready: World) -> None:
    ready.run(ready.recipe(**AT_ONCE))
    ready.run(ready.recipe(**AT_ONCE))
    assert ready.tags()["stable"] == ready.tags()["gen-1"]
    assert ready.command("rollback", BASE, "gen-1", "--reason", "bad").returncode == 0
    assert ready.tags()["stable"] == ready.tags()["gen-0"]
    tell_stable(ready.maintainer, BASE, 1)  # promoted once, withdrawn since
    ready.run(ready.recipe(**AT_ONCE))
    assert ready.tags()["stable"] != ready.tags()["gen-1"]


def test_a_tag_of_that_name_that_is_no_generation_is_left_alone(ready: World) -> None:
    """Somebody used the word before the loop did."""
    ready.run()
    edited = ready.commit({"notes.md": "x"})
    ready.maintainer.tag(BASE, "stable", edited)
    said: list[str] = []
    ready.run(ready.recipe(**AT_ONCE), say=said.append)
    assert ready.tags()["stable"] == edited and any("left alone" in line for line in said)
    with pytest.raises(RecordError, match="no generation: delete it first"):
        promote(ready.maintainer, open_base(ready.maintainer, BASE), 1)


def test_the_rule_by_itself(ready: World) -> None:
    """Of what is not withdrawn: the newest that is old enough, or what was promoted, whichever is newer."""
    ready.run()
    index = ready.index()
    made = index.generations[1].created_at
    day = timedelta(days=1)
    assert [due_stable(index, None, day, made + wait) for wait in (0 * day, day)] == [0, 1]
    assert [due_stable(index, current, day, made) for current in (0, 1, 7)] == [0, 1, 1]
    assert [due_stable(index, current, None, made + day) for current in (None, 0, 1)] == [None, 0, 1]
