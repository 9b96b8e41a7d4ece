"""A look at which nothing is new asks the Hub for little, and what is asked for once is never what can change."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from huggingface_hub.utils import get_session

from hub_fusion.announcements import Announcements
from hub_fusion.contributions.listing import Listing
from hub_fusion.deeds import Direct
from hub_fusion.errors import RepoMissing
from hub_fusion.generation import run_generation
from hub_fusion.hub import Hub
from hub_fusion.hub.facts import FileInfo, Refs
from hub_fusion.hub.trees import Trees
from hub_fusion.publish.rollback import roll_back
from hub_fusion.publish.state import check_base, fused_credits, open_base, read_fused
from hub_fusion.publish.status import SQUASH, read_status, tell_error

from .world import AUTHORS, BASE, World


@contextmanager
def requests() -> Iterator[list[str]]:
    """The paths of all requests of this process."""
    paths: list[str] = []
    hooks = get_session().event_hooks["response"]
    hooks.append(note := lambda answer: paths.append(answer.url.path))
    try:
        yield paths
    finally:
        hooks.remove(note)


def test_an_idle_look_is_four_requests(ready: World) -> None:
    """Refs at its beginning and before the status would be written, one page of the listing, one of discussions."""
    hub, recipe, listing = ready.maintainer, ready.recipe(), Listing(ready.work / "listing.sqlite3")

    def look(announcements: Announcements) -> str:
        outcome = run_generation(recipe, hub, ready.compute, work=ready.work, listing=listing)
        announcements.answer(outcome.queue, outcome.refusals)
        return outcome.status

    announcements = Announcements(recipe, hub, Direct(recipe, hub, ready.work))
    assert [look(announcements) for _ in range(3)] == ["published", "waiting", "waiting"]
    with requests() as paths:
        assert look(announcements) == "waiting"
    base = f"/api/models/{BASE}"
    assert Counter(paths) == {f"{base}/refs": 2, "/api/models": 1, f"{base}/discussions": 1}


def test_a_round_asks_for_the_files_of_a_commit_once(ready: World) -> None:
    """The listing, the forecast, the origin, the screen and the notices all want to know them."""
    with requests() as paths:
        listing = Listing(ready.work / "listing.sqlite3")
        assert ready.run(ready.recipe(), listing=listing).status == "published"
    trees = Counter(path for path in paths if "/finetune/tree/" in path)
    assert len(trees) == 5 and set(trees.values()) == {1}, trees


def test_what_may_change_is_asked_for_anew(ready: World) -> None:
    """A branch's files are; a commit's are not, and whoever changes what was given changes it for himself alone."""
    hub = ready.maintainer
    at = hub.resolve(BASE)
    with requests() as paths:
        hub.files(BASE, at).clear()
        assert "README.md" in hub.files(BASE, at)
        assert len(paths) == 1
        before = hub.files(BASE, "main")
        ready.commit({"new.txt": "x"})
        assert set(hub.files(BASE, "main")) - set(before) == {"new.txt"}
        assert "new.txt" not in hub.files(BASE, at)
    for _ in range(2):
        with pytest.raises(RepoMissing), requests() as paths:
            hub.files("acme/gone", at)
        assert len(paths) == 1, "what is not there may come"


def test_records_are_read_once_in_a_process(ready: World) -> None:
    """A look wants to know who is in any generation, and so do the screen, the gate and every answer."""
    hub = ready.maintainer
    assert ready.run().status == "published"
    state = open_base(hub, BASE)
    before = read_fused(hub, state), fused_credits(hub, state)
    assert {credit.author for _, credit in before[1]} == set(AUTHORS)
    shutil.rmtree(hub.cache_dir)
    with requests() as paths:
        assert (read_fused(hub, state), fused_credits(hub, state)) == before
    assert paths == []
    roll_back(hub, state, 1, "Worse.")
    assert fused_credits(hub, open_base(hub, BASE)) == [], "that it was withdrawn is the index's to say"


def test_the_lists_that_were_used_last_are_kept() -> None:
    """Strangers decide how many files a repository has, so what is bounded is files, not lists."""
    trees, asked = Trees(most=10), list[str]()

    def get(commit: str, files: int) -> int:
        def ask() -> dict[str, FileInfo]:
            asked.append(commit)
            return {f"{n}": FileInfo(f"{n}", 1, None) for n in range(files)}

        return len(trees.get(("model", "a/b", commit), ask))

    assert [get("a", 4), get("b", 3), get("a", 4), get("c", 3), get("a", 4), get("b", 3)] == [4, 3, 4, 3, 4, 3]
    assert asked == ["a", "b", "c", "b"], "b was used longest ago when c came"
    assert [get("d", 11), get("d", 11)] == [11, 11]
    assert asked[-2:] == ["d", "d"], "one that is too large is not kept and displaces nobody"


def test_a_tag_that_is_seen_before_its_commit_is_no_foreign_one(ready: World) -> None:
    """The Hub may read heads before tags while somebody publishes between the two; the next answer has both."""
    hub = ready.maintainer
    early = hub.refs(BASE)
    assert ready.run().status == "published"
    answers = [Refs(hub.refs(BASE).tags, early.branches)]

    class Torn(Hub):
        def refs(self, repo: str) -> Refs:
            return answers.pop() if answers else super().refs(repo)

    state = open_base(Torn(hub.endpoint, hub.token, hub.cache_dir), BASE)
    assert not answers and state.generation == 1 and state.head == hub.resolve(BASE)
    check_base(hub, state)


def test_a_status_that_was_squashed_meanwhile_is_read_as_it_is_now(ready: World) -> None:
    """Its commit is gone from the Hub then; an empty status would make a rejected attempt be made again."""
    tell_error(ready.maintainer, BASE, "first")
    state = open_base(ready.maintainer, BASE)
    for number in range(SQUASH):
        tell_error(ready.maintainer, BASE, f"error {number}")
    fresh = ready.client(endpoint=ready.hub.url)
    fresh.cache_dir = ready.folder / "empty-cache"
    assert read_status(fresh, state, as_of_state=True).last_error in ("first", f"error {SQUASH - 1}")
