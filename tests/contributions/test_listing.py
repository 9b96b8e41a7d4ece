"""Looking again costs little and misses nothing; the file that makes it cheap decides nothing and may be lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import get_session
from safetensors.torch import save

from hub_fusion.contributions import listing as listing_module
from hub_fusion.contributions.discover import discover
from hub_fusion.contributions.filters import Circumstances, filter_contributions
from hub_fusion.contributions.listing import Listing
from hub_fusion.local_hub.db import Database
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution

from .world import World, adapter_files, card, finetuned, tensors

SOUND = {"model.safetensors": save(finetuned(1))}
SHAPES = {"model.safetensors": save({n: t.repeat(2) if t.dim() == 1 else t for n, t in finetuned(1).items()})}


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """The paths of all requests."""
    paths: list[str] = []

    def note(request: Any) -> None:
        paths.append(request.url.path)

    hooks = get_session().event_hooks["request"]
    hooks.append(note)
    yield paths
    hooks.remove(note)


class Watcher:
    """Somebody who looks at a world again and again."""

    def __init__(self, world: World, **recipe: Any) -> None:
        self.world, self.said = world, list[str]()
        self.recipe = Recipe.model_validate({"base": world.base} | recipe)
        self.listing = Listing(world.folder / "work" / "listing.sqlite3", self.said.append)
        self.head = world.hub.resolve(world.base)

    def look(self, **recipe: Any) -> tuple[list[Contribution], dict[str, str]]:
        """The queue, and repository → code of its refusal."""
        rules = self.recipe.model_copy(update=recipe)
        queue, refusals = self.listing.look(self.world.hub, rules, frozenset(), self.head)
        return queue, {r.repo: r.code for r in refusals}

    def queue(self, **recipe: Any) -> set[str]:
        """The repositories in it."""
        return {c.repo for c in self.look(**recipe)[0]}


ALL = {"rescan": timedelta(0)}


def owner(world: World, repo: str) -> Any:
    """The client of a repository's owner."""
    return world.api(repo.partition("/")[0])


def set_dates(world: World, dates: dict[str, int]) -> None:
    """Put last changes into the Hub's store, in milliseconds."""
    database = Database(world.server.root / "hub.sqlite3")
    with database.write() as con:
        for repo, at in dates.items():
            con.execute("UPDATE repos SET modified=? WHERE full_name=?", (at, repo))
    database.close()


def date_of(world: World, repo: str) -> int:
    """The last change of a repository in milliseconds."""
    return round(world.hub.model(repo).last_modified.timestamp() * 1000)


def test_a_look_finds_what_a_listing_of_everything_finds(world: World) -> None:
    """And refuses by headers besides; a second look gives the same."""
    good, adapter = world.contribute(SOUND), world.contribute(adapter_files())
    world.contribute(SOUND, world.front(license="cc-by-nc-4.0"))
    wider = world.contribute(SHAPES)
    watcher = Watcher(world)
    found, refused = discover(world.hub, watcher.recipe)
    kept, more = filter_contributions(found, Circumstances.of(world.hub, watcher.recipe))
    assert {c.repo for c in kept} == {good, adapter, wider}
    for _ in range(2):
        queue, codes = watcher.look()
        assert queue == [c for c in kept if c.repo != wider]
        assert codes == {r.repo: r.code for r in (*refused, *more)} | {wider: "shape_mismatch"}


def test_when_nothing_is_new_a_look_is_one_request(world: World, asked: list[str]) -> None:
    """Neither the listing nor any header is read twice; with an alias it is one request more."""
    world.contribute(SOUND), world.contribute(adapter_files()), world.contribute(SHAPES)
    watcher = Watcher(world, aliases=["mirrors/base"])
    first = watcher.look()
    asked.clear()
    assert watcher.look() == first
    assert asked == ["/api/models"] * 2


def test_a_commit_is_looked_at_anew_and_the_others_are_not(world: World, asked: list[str]) -> None:
    """A verdict holds for a commit."""
    first, second = world.contribute(SOUND), world.contribute(SHAPES)
    watcher = Watcher(world)
    assert watcher.queue() == {first}
    world.commit(second, {"model.safetensors": save(finetuned(2))}, owner(world, second))
    asked.clear()
    assert watcher.queue() == {first, second}
    assert [path for path in asked if first in path] == []


def test_another_recipe_or_another_base_is_another_verdict(world: World, asked: list[str]) -> None:
    """What the method needs beside the weights is part of the headers' verdict."""
    repo = world.contribute(SOUND)
    watcher = Watcher(world)
    assert watcher.queue() == {repo}
    fisher = watcher.recipe.merge.model_copy(update={"method": "fisher"})
    assert watcher.look(merge=fisher)[1] == {repo: "statistics_missing"}
    assert watcher.queue() == {repo}
    wide = {name: t.repeat(1, 2) if t.dim() == 2 else t for name, t in tensors().items()}
    watcher.head = world.commit(world.base, {"model.safetensors": save(wide)})
    assert watcher.look()[1] == {repo: "shape_mismatch"}


def test_more_than_a_page_of_news_is_read_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher was away for a day."""
    monkeypatch.setattr(listing_module, "PAGE", 2)
    watcher = Watcher(world)
    assert watcher.queue() == set()
    repos = {world.contribute(SOUND) for _ in range(5)}
    assert watcher.queue() == repos


def test_changes_of_one_moment_are_all_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that share the newest known time any may be new, on whatever page they are."""
    monkeypatch.setattr(listing_module, "PAGE", 2)
    late = world.contribute(SOUND, world.front(base_model="someone/else"))
    known = {world.contribute(SOUND) for _ in range(4)}
    moment = max(date_of(world, repo) for repo in known)
    watcher = Watcher(world)
    set_dates(world, dict.fromkeys(known, moment))
    assert watcher.queue() == known
    rewrite(world, late)
    set_dates(world, {late: moment})  # made before the others, so the Hub lists it after them
    assert watcher.queue() == known | {late}


def test_a_date_in_the_far_future_hides_nothing(world: World) -> None:
    """Dates of commits are their authors' to choose; what comes later is seen all the same."""
    first = world.contribute(SOUND)
    set_dates(world, {first: 4_000_000_000_000})
    watcher = Watcher(world)
    assert watcher.queue() == {first}
    second = world.contribute(SOUND)
    assert watcher.queue() == {first, second}


def test_a_date_of_long_ago_is_found_when_all_is_listed(world: World) -> None:
    """Between full listings it is not: that is what `rescan` is for."""
    known, watcher = world.contribute(SOUND), Watcher(world)
    assert watcher.queue() == {known}
    repo = world.contribute(SOUND)
    set_dates(world, {repo: 1_000_000_000_000})
    assert watcher.queue() == {known}
    assert watcher.queue(**ALL) == {known, repo}


def rewrite(world: World, repo: str, **front: Any) -> None:
    """Another card."""
    world.force(repo, "README.md", card(world.front(**front)), str(owner(world, repo).token))


CHANGES: dict[str, tuple[Callable[[World, str], Any], str | None, bool]] = {
    "deleted": (lambda w, repo: owner(w, repo).delete_repo(repo), None, False),
    "private": (lambda w, repo: owner(w, repo).update_repo_settings(repo, visibility="private"), None, False),
    "gated": (lambda w, repo: owner(w, repo).update_repo_settings(repo, gated="auto"), "gated", False),
    "another licence": (lambda w, repo: rewrite(w, repo, license="cc-by-nc-4.0"), "license_not_allowed", True),
    "opted out": (lambda w, repo: rewrite(w, repo, tags=["hub-fusion", "no-fusion"]), "opted_out", True),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_happens_to_a_queued_contribution_is_noticed(world: World, change: str) -> None:
    """A commit by the next look; what changes no date by a look at everything, or before it would be fused."""
    act, code, dated = CHANGES[change]
    repo, other = world.contribute(SOUND), world.contribute(SOUND)
    for watcher in (first := Watcher(world), second := Watcher(world)):
        watcher.listing = Listing(world.folder / f"{id(watcher)}.sqlite3", watcher.said.append)
        assert watcher.queue() == {repo, other}
    queue = second.look()[0]
    assert second.listing.confirm(world.hub, second.recipe, queue)
    act(world, repo)
    if dated:
        assert first.queue() == {other}
    assert first.queue(**ALL) == {other}
    assert first.look()[1] == ({repo: code} if code else {})
    assert not second.listing.confirm(world.hub, second.recipe, queue)
    assert second.listing.confirm(world.hub, second.recipe, second.look()[0])
    assert second.look()[1] == ({repo: code} if code else {})
    assert [line for line in second.said if repo in line]


def test_what_the_screen_found_out_of_a_commit_is_remembered(world: World) -> None:
    """NaN in a tensor stays NaN; being a copy depends on who else is there."""
    repo, other = world.contribute(SOUND), world.contribute(SOUND)
    watcher = Watcher(world)
    queue = {c.repo: c for c in watcher.look()[0]}
    broken = queue[repo].refuse("screen", "not_finite", "Tensor x holds NaN.", "Train again.")
    watcher.listing.remember(world.hub, [broken, queue[other].refuse("screen", "copy", "It is a copy.", "None.")])
    assert watcher.look()[1] == {repo: "not_finite"}
    world.commit(repo, {"model.safetensors": save(finetuned(5))}, owner(world, repo))
    assert watcher.look()[1] == {}


def test_what_cannot_be_read_today_is_no_verdict(world: World) -> None:
    """A repository that is hidden between listing and reading holds what it held when it is back."""
    repo = world.contribute(SOUND)
    watcher = Watcher(world)
    assert watcher.queue() == {repo}
    with sqlite3.connect(watcher.listing.file) as con:
        con.execute("DELETE FROM verdicts")
    owner(world, repo).update_repo_settings(repo, visibility="private")
    assert watcher.look()[1] == {repo: "not_fetched"}
    owner(world, repo).update_repo_settings(repo, visibility="public")
    assert watcher.queue() == {repo}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def overwrite(file: Path) -> None:
    """A page in the middle, as a bad disk would."""
    data = bytearray(file.read_bytes())
    data[4096:12288] = b"\xff" * 8192
    file.write_bytes(data)


def age(file: Path) -> None:
    """As another version of the program would have left it."""
    with sqlite3.connect(file) as con:
        con.execute("UPDATE facts SET value='0 0.0.1 x' WHERE key='made by'")
        con.execute("DROP TABLE verdicts")


def spoil(file: Path) -> None:
    """Records that nothing can read."""
    with sqlite3.connect(file) as con:
        con.execute("UPDATE children SET record='{\"kind\": 5}'")


DAMAGES = {
    "deleted": lambda file: file.unlink(), "empty": lambda file: file.write_bytes(b""), "truncated": truncate,
    "overwritten": overwrite, "no database": lambda file: file.write_bytes(b"no database" * 1000), "older": age,
    "unreadable records": spoil,
}  # fmt: skip


def test_a_file_that_is_lost_or_damaged_is_made_anew(world: World, asked: list[str]) -> None:
    """The watcher asks more for once, and says the same."""
    world.contribute(SOUND), world.contribute(SHAPES)
    watcher = Watcher(world)
    before = watcher.look()
    for damage, do in DAMAGES.items():
        do(watcher.listing.file)
        assert watcher.look() == before, damage
        asked.clear()
        assert watcher.look() == before, damage
        assert asked == ["/api/models"], damage


def test_a_file_that_cannot_be_written_costs_requests_and_nothing_else(world: World) -> None:
    """A folder stands in its place."""
    repo = world.contribute(SOUND)
    watcher = Watcher(world)
    watcher.listing.file.mkdir(parents=True)
    (watcher.listing.file / "x").touch()
    assert watcher.queue() == watcher.queue() == {repo}


def test_what_a_quantised_copy_or_a_merge_is_told(world: World) -> None:
    """Only where its author offers it; most of a base's quantised copies are nobody's contribution."""
    quantised = world.contribute(SOUND, world.front(base_model_relation="quantized"))
    merged = world.contribute(SOUND, world.front(base_model_relation="merge"))
    world.contribute(SOUND, world.front(base_model_relation="merge", tags=[]))
    _, refusals = discover(world.hub, Recipe(base=world.base))
    assert {r.repo: (r.stage, r.code) for r in refusals} == {
        quantised: ("discover", "quantized"), merged: ("discover", "merged"),
    }  # fmt: skip


LATER: dict[str, str | None] = {"deleted": "gone", "private": "gone", "gated": None, "another licence": "relicensed",
                                "opted out": "opted_out"}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_happens_to_a_contribution_after_it_was_fused_is_noticed(
    world: World, asked: list[str], change: str
) -> None:
    """It stays in its generation, and a maintainer must know; who is not listed is asked for once a full listing."""
    repo, other = world.contribute(SOUND), world.contribute(SOUND)
    watcher = Watcher(world)
    credits = [(3, c.to_credit()) for c in watcher.look()[0]]
    assert watcher.listing.later(world.hub, watcher.recipe, credits) == ()
    CHANGES[change][0](world, repo)
    watcher.look(**ALL)
    told = watcher.listing.later(world.hub, watcher.recipe, credits)
    wanted = LATER[change]
    assert [(one.repo, one.generation, one.code) for one in told] == ([(repo, 3, wanted)] if wanted else [])
    watcher.look()
    asked.clear()
    assert watcher.listing.later(world.hub, watcher.recipe, credits) == told
    assert asked == []
    assert other not in {one.repo for one in told}


def test_a_fused_contribution_that_names_another_base_now_is_not_gone(world: World) -> None:
    """It is no longer listed, and is asked for by its name."""
    repo = world.contribute(SOUND)
    watcher = Watcher(world)
    credits = [(1, c.to_credit()) for c in watcher.look()[0]]
    rewrite(world, repo, base_model="acme/other", license="bsd-3-clause")
    assert watcher.look(**ALL)[0] == []
    told = watcher.listing.later(world.hub, watcher.recipe, credits)
    assert [(one.code, "bsd-3-clause" in one.reason) for one in told] == [("relicensed", True)]
