"""A card is a stranger's text: fields of a wrong type are absent, and no card can stop discovery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.contributions.discover import choose, discover, due, from_model_info
from hub_fusion.recipe import Recipe, Round
from hub_fusion.records import Contribution

from .world import World, adapter_files

SHA = "a" * 40
NOW = datetime(2030, 1, 10, tzinfo=UTC)


def info(card: Any = None, **more: Any) -> Any:
    """What the Hub says about a repository with this card."""
    facts: dict[str, Any] = {
        "id": "ann/finetune", "sha": SHA, "card_data": card, "tags": [], "private": False, "gated": False,
        "created_at": None, "last_modified": None, "siblings": [SimpleNamespace(rfilename="model.safetensors")],
    }  # fmt: skip
    return SimpleNamespace(**facts | more)


def read(card: Any, **more: Any) -> Contribution:
    """The contribution behind it."""
    return from_model_info(info(card, **more), "finetune")


def test_a_good_card_is_read_whole() -> None:
    """Every field that credits and rules are made of."""
    ours = {"base": "acme/base", "base_revision": "b" * 40, "contribute": True, "task": "sentiment"}
    card = {"license": "mit", "base_model": "acme/base", "datasets": ["imdb", "sst2"], "hub_fusion": ours}
    found = read(card, created_at=NOW)
    assert (found.repo, found.author, found.sha, found.relation) == ("ann/finetune", "ann", SHA, "finetune")
    assert (found.license, found.base, found.task, found.datasets) == (
        "mit",
        "acme/base",
        "sentiment",
        ("imdb", "sst2"),
    )
    assert (found.base_revision, found.consent, found.files) == ("b" * 40, True, ("model.safetensors",))


WRONG = [None, 1, 1.5, True, [], {}, [1], {"a": 1}, [["x"]], [None], float("nan"), datetime(2020, 1, 1)]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("field", ["license", "base_model", "datasets", "hub_fusion", "tags"])
def test_fields_of_a_wrong_type_are_absent(field: str, value: Any) -> None:
    """YAML gives any type; none of them is an error."""
    found = read({field: value})
    assert (found.license, found.base, found.datasets, found.task, found.base_revision) == (None, None, (), None, None)
    assert not found.consent


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("field", ["base_revision", "task", "contribute"])
def test_fields_of_ours_of_a_wrong_type_are_absent(field: str, value: Any) -> None:
    """Only `contribute: true` is consent, not 1 or "yes"."""
    found = read({"hub_fusion": {field: value}})
    assert (found.base_revision, found.task) == (None, None)
    assert found.consent == (field == "contribute" and value is True)


@pytest.mark.parametrize("card", [None, 1, "text", [], [1], "---"], ids=repr)
def test_cards_that_are_no_mapping_are_empty(card: Any) -> None:
    """A README without front matter."""
    assert read(card).license is None


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["license", "base_model", "datasets", "hub_fusion", "tags", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_any_card_gives_a_contribution_whose_texts_are_short_and_printable(card: dict[str, Any]) -> None:
    """They go into terminals, records, cards and the dashboard."""
    found = read(card)
    for text in (found.license, found.task, found.base, *found.datasets):
        assert text is None or (text.isprintable() and 0 < len(text) <= 200)
    assert Contribution.from_json(found.to_json()) == found


def test_control_characters_are_taken_out() -> None:
    """A licence that clears the screen, a data set that looks like another line."""
    found = read({"license": "m\x1b[2Jit\n", "datasets": ["a\u202eb", "\x00", "c\r\nd"], "base_model": "acme/\x07base"})
    assert (found.license, found.datasets, found.base) == ("m[2Jit", ("ab", "cd"), "acme/base")


@pytest.mark.parametrize(
    ("bases", "base"),
    [("acme/base", "acme/base"), (["acme/base"], "acme/base"), (["acme/base", "acme/other"], None), ([], None)],
)
def test_a_base_in_a_list_of_one_is_a_base(bases: Any, base: str | None) -> None:
    """Of a merge of several nobody can tell what it adds to one."""
    assert read({"base_model": bases}).base == base


@pytest.mark.parametrize(
    ("claim", "tag", "known"),
    [
        ("gen-3", None, "gen-3"),
        (None, "gen-4", "gen-4"),
        ("gen-3", "gen-4", "gen-3"),
        ("no spaces", "gen-4", "gen-4"),
        ("x" * 129, None, None),
        ("../..", None, "../.."),  # harmless: it is compared, never opened
        ("", None, None),
        ("gen-3\n", None, None),
    ],
)
def test_the_revision_is_in_the_card_or_in_a_tag(claim: str | None, tag: str | None, known: str | None) -> None:
    """Tools rewrite cards and keep tags; the card comes first."""
    tags = ["x", *([f"hub-fusion-base:{tag}"] if tag else [])]
    assert read({"hub_fusion": {"base_revision": claim}}, tags=tags).base_revision == known


# on a Hub ------------------------------------------------------------------------------------------------------------

HOSTILE_FRONTS = {
    "key of the client's constructor": "self: 1\nignore_metadata_errors: true\n",
    "results of a wrong type": "model-index: 7\n",
    "results that are half there": "model-index:\n- name: x\n  results:\n  - task: {type: y}\n",
    "tags of a wrong type": "tags: {a: b}\n",
    "control characters": 'license: "mit\\x1b[2J"\n',
    "licence list": "license: [mit, apache-2.0]\n",
    "eval results of a wrong type": "eval_results: 5\n",
    "datasets of mappings": "datasets: [{a: 1}]\n",
}


def test_no_card_can_hide_the_others(world: World) -> None:
    """One listing holds all of a base's children; a card that the client cannot read must cost only itself."""
    good = world.contribute({"model.safetensors": b"x"})
    adapter = world.contribute(adapter_files(), world.front(base_model_relation="adapter"))
    for front in HOSTILE_FRONTS.values():
        world.contribute({"model.safetensors": b"x"}, f"base_model: {world.base}\n{front}")
    found, refusals = discover(world.hub, Recipe(base=world.base))
    by_name = {c.repo: c for c in found}
    assert (by_name[good].relation, by_name[adapter].relation) == ("finetune", "adapter")
    assert (by_name[good].license, by_name[good].consent, by_name[good].base_revision) == ("mit", True, "gen-0")
    assert refusals == []
    assert [c.key for c in found] == sorted(c.key for c in found)
    assert all(not c.consent for c in found if c.repo not in (good, adapter))


def test_a_repository_with_an_unreadable_card_can_be_looked_at(world: World) -> None:
    """Included by name, or checked by its author."""
    repo = world.contribute({"model.safetensors": b"x"}, f"base_model: {world.base}\nself: 1\nlicense: mit\n")
    recipe = Recipe.model_validate({"base": world.base, "contributions": {"include": [repo]}})
    found, _ = discover(world.hub, recipe)
    assert [c.repo for c in found] == [repo]


def test_included_repositories_are_found_or_refused_by_name(world: World) -> None:
    """They need not declare the base; a misspelt one is told, not forgotten."""
    plain = world.contribute({"model.safetensors": b"x"}, {"license": "mit"})
    adapter = world.contribute(adapter_files(), {"license": "mit"})
    recipe = Recipe.model_validate(
        {"base": world.base, "contributions": {"include": [plain, adapter, "ann/lost", world.base, "not a name"]}}
    )
    found, refusals = discover(world.hub, recipe)
    assert {c.repo: c.relation for c in found} == {plain: "finetune", adapter: "adapter"}
    assert [(r.repo, r.stage, r.code) for r in refusals] == [
        ("ann/lost", "discover", "not_found"), ("not a name", "discover", "not_found"),
    ]  # fmt: skip
    assert all(r.reason and r.fix for r in refusals)


# which of them enter the round ---------------------------------------------------------------------------------------


def ready(repo: str, days_ago: float | None = 0.0) -> Contribution:
    """A contribution last modified so many days ago."""
    when = None if days_ago is None else NOW - timedelta(days=days_ago)
    return Contribution(repo=repo, sha=SHA, relation="finetune", author=repo.partition("/")[0], last_modified=when)


def rule(**changes: Any) -> Round:
    """A round of two to four."""
    return Round.model_validate({"min_contributions": 3, "max_contributions": 4} | changes)


def test_a_fuse_is_due_when_there_are_enough() -> None:
    """Exactly at the number."""
    queue = [ready(f"u{i}/m") for i in range(3)]
    assert due(queue[:2], rule(), NOW) is None
    assert due(queue, rule(), NOW) == "3 contributions are ready, 3 are needed"
    assert due([], rule(), NOW) is None


def test_two_are_enough_after_the_oldest_has_waited() -> None:
    """So that a quiet base moves too; one alone is no average."""
    waited = rule(max_wait=timedelta(days=7))
    assert due([ready("a/m", 6.9), ready("b/m")], waited, NOW) is None
    assert "the oldest has waited 7 days" in str(due([ready("a/m", 7), ready("b/m")], waited, NOW))
    assert due([ready("a/m", 99)], waited, NOW) is None


def test_newest_oldest_and_all_choose_as_they_say() -> None:
    """In canonical order, whatever was chosen first; `all` knows no maximum."""
    queue = [ready(f"u{i}/m", days_ago=i) for i in range(6)]
    names = {word: [c.repo for c in choose(queue, rule(choose=word))] for word in ("newest", "oldest", "all")}
    assert names == {
        "newest": ["u0/m", "u1/m", "u2/m", "u3/m"],
        "oldest": ["u2/m", "u3/m", "u4/m", "u5/m"],
        "all": [f"u{i}/m" for i in range(6)],
    }


def test_diverse_takes_the_newest_of_every_account_first() -> None:
    """A busy account does not push the others out; what is left goes to the newest again."""
    queue = [ready(f"busy/m{i}", days_ago=i) for i in range(5)] + [ready("ann/m", 20), ready("bob/m", 30)]
    chosen = choose(queue, rule(choose="diverse"))
    assert [c.repo for c in chosen] == ["ann/m", "bob/m", "busy/m0", "busy/m1"]
    assert [c.repo for c in choose(queue, rule(choose="newest"))] == ["busy/m0", "busy/m1", "busy/m2", "busy/m3"]


@pytest.mark.parametrize("word", ["newest", "oldest", "diverse", "all"])
def test_choosing_does_not_depend_on_the_order_of_the_listing(word: Any) -> None:
    """Also with equal dates, and with none."""
    queue = [ready(f"u{i % 3}/m{i}", days_ago=i // 4) for i in range(8)] + [ready("x/m", None)]
    expected = choose(queue, rule(choose=word))
    assert choose(queue[::-1], rule(choose=word)) == expected
    assert choose(queue[3:] + queue[:3], rule(choose=word)) == expected
