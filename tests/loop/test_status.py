"""The status branch: small, quiet, and nobody's words are lost."""

from __future__ import annotations

from hub_fusion.publish.status import SQUASH, tell_error, tell_headroom, tell_proposed
from hub_fusion.records import Headroom, Proposed

from .world import BASE, World


def test_the_branch_is_squashed_and_main_is_not(empty: World) -> None:
    """Years of changes would else be a history that every clone of the branch carries."""
    main = empty.maintainer.commits(BASE)
    for number in range(SQUASH):
        tell_error(empty.maintainer, BASE, f"error {number}")
    assert [c.title for c in empty.maintainer.commits(BASE, "fusion-status")] == ["Status"]
    assert empty.status().last_error == f"error {SQUASH - 1}" and empty.status().commits == SQUASH
    tell_error(empty.maintainer, BASE, "one more")
    assert len(empty.maintainer.commits(BASE, "fusion-status")) == 2
    assert empty.maintainer.commits(BASE) == main


def test_free_bytes_alone_are_no_change(empty: World) -> None:
    """A look every five minutes would else be a commit every five minutes."""

    def told(free: int, seconds: float) -> int:
        room = Headroom(generation=1, disk_free=free, spent={"seconds": seconds})
        tell_headroom(empty.maintainer, BASE, room)
        return empty.status().commits

    assert [told(10, 0), told(20, 0), told(30, 5)] == [1, 1, 2]


def test_people_are_told_what_is_left(empty: World) -> None:
    """In the words of the recipe's budget; what is not limited is told too."""
    spent = {"seconds": 90.0, "bytes": 5.0, "money": 0.5}
    room = Headroom(generation=3, disk_free=12_300_000_000, spent=spent, budget={"money": 2.0})
    tell_headroom(empty.maintainer, BASE, room)
    tell_proposed(empty.maintainer, BASE, add=Proposed(id="a" * 64, generation=3, number=7))
    done = empty.command("status", BASE)
    assert "12.3 GB of disk free; gen-3 has cost 90 seconds, 5 bytes, 0.5 of 2 money" in done.stderr
    assert "pull request 7 proposes gen-3" in done.stderr
