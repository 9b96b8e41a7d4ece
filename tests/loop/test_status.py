"""The status branch: small, quiet, and nobody's words are lost."""

from __future__ import annotations

from hub_fusion.publish.status import (
    SQUASH,
    STATUS_BYTES,
    tell_error,
    tell_headroom,
    tell_proposed,
    tell_queue,
    tell_rejected,
)
from hub_fusion.records import Attempt, Headroom, Proposed, Refusal, Told, Waiting, now, tell_refusals

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


def refused(number: int) -> list[Refusal]:
    """So many repositories without a licence, each of an account of its own."""
    return [
        Refusal(repo=f"account{n}/finetune", sha=f"{n:040x}", author=f"account{n}", stage="filter",
                code="license_missing", reason=f"Its card names no licence. {'Long words. ' * 20}", fix="Name one.")
        for n in range(number)
    ]  # fmt: skip


def test_a_base_with_ten_thousand_refused_finetunes_has_a_small_status(empty: World) -> None:
    """The dashboard reads no more than 5 MB, and every change is a commit of the whole file."""
    hub = empty.maintainer
    waiting = [Waiting(repo=f"w{n}/m", sha="0" * 40) for n in range(3000)]
    tell_queue(hub, BASE, 0, waiting, refused(10_000))
    status = empty.status()
    assert len(empty.text("fusion/status.json", "fusion-status").encode()) < 800_000
    assert (status.queued, len(status.queue), status.refused) == (3000, 1000, {"license_missing": 10_000})
    named = set(status.refused_names["license_missing"])
    assert len(named | {r.repo for r in status.refusals}) == 10_000
    told = tell_refusals(refused(10_000))
    for number in range(40):
        record = attempt(f"{number:064x}", told)
        tell_rejected(hub, record)
    text = empty.text("fusion/status.json", "fusion-status")
    assert len(text.encode()) < STATUS_BYTES
    status = empty.status()
    assert [a.id for a in status.rejected] == [f"{number:064x}" for number in range(40)]
    assert status.rejected[-1].refusals == told.refusals  # the newest is told whole, the oldest by its counts
    assert (status.rejected[0].refusals, status.rejected[0].refused) == ((), {"license_missing": 10_000})
    assert set(status.refused_names["license_missing"]) == named  # who is known by name alone stays so after a fuse
    before = len(hub.commits(BASE, "fusion-status"))
    tell_rejected(hub, record)  # a status that was made to fit is not changed by being read
    assert len(hub.commits(BASE, "fusion-status")) == before
    done = empty.command("status", BASE)
    assert "9800 more were refused, in all 10000 license_missing; hub-fusion check USER/MODEL says why" in done.stderr


def test_rejected_attempts_that_do_not_fit_go_the_oldest_first(empty: World) -> None:
    """A gate that rejects for years must not end the status; the newest attempt stays, whatever it holds."""
    hub, large = empty.maintainer, "x" * 400_000
    for number in range(5):
        tell_rejected(hub, attempt(f"{number:064x}", Told(), recipe=large))
    assert [a.id[-1] for a in empty.status().rejected] == ["2", "3", "4"]
    tell_rejected(hub, attempt("a" * 64, Told(), recipe=large * 5))
    assert [a.id for a in empty.status().rejected] == ["a" * 64]


def attempt(id: str, told: Told, recipe: str = "") -> Attempt:
    """What the gate rejected."""
    return Attempt(id=id, status="rejected", base=BASE, created_at=now(), refusals=told.refusals, refused=told.refused,
                   recipe=recipe)  # fmt: skip
