"""Whoever announces a contribution in a discussion is answered once for each thing that comes of it."""

from __future__ import annotations

import base64
import json
import urllib.request
from typing import Any

import pytest

from hub_fusion.announcements import Announcements
from hub_fusion.deeds import Direct
from hub_fusion.errors import RepoMissing
from hub_fusion.hub import Discussions
from hub_fusion.publish.rollback import roll_back
from hub_fusion.publish.state import open_base

from .world import AUTHORS, BASE, LATER, World

ANN, BOB = AUTHORS[:2]


def announce(world: World, title: str, author: str = ANN) -> int:
    """Open a discussion on the base's page; its number."""
    return int(world.client(author).api.create_discussion(BASE, title, description="<b>please</b> @everybody").num)


def force_card(world: World, card: str) -> None:
    """Put a card of any text into LATER's repository, as git would: the client checks cards, which nobody has to."""
    content = base64.b64encode(card.encode()).decode()
    lines = [{"key": "header", "value": {"summary": "A card"}},
             {"key": "file", "value": {"path": "README.md", "content": content, "encoding": "base64"}}]  # fmt: skip
    request = urllib.request.Request(
        f"{world.hub.url}/api/models/{LATER}/finetune/commit/main",
        "".join(json.dumps(line) + "\n" for line in lines).encode(),
        {"authorization": f"Bearer {world.tokens[LATER]}", "content-type": "application/x-ndjson"},
    )
    urllib.request.urlopen(request).close()


def answers(world: World, number: int) -> list[str]:
    """What the maintainer's account said there."""
    return Discussions(world.maintainer).said_by(BASE, number, "acme")


def is_open(world: World, number: int) -> bool:
    return str(world.maintainer.api.get_discussion_details(BASE, number).status) == "open"


def watcher(world: World, **recipe: Any) -> Announcements:
    """A process that has just been started."""
    rules, hub = world.recipe(**recipe), world.maintainer
    return Announcements(rules, hub, Direct(rules, hub, world.work))


def test_an_announced_contribution_is_queued_and_then_fused(ready: World) -> None:
    """Two answers in all, however often and by whichever process it is looked at; then the discussion is closed."""
    number = announce(ready, f"hub-fusion: {ANN}/finetune")
    first = watcher(ready)
    assert first.answer() == 1 and first.answer() == 0 and watcher(ready).answer() == 0
    assert len(answers(ready, number)) == 1 and "**queued** for gen-1" in answers(ready, number)[0]
    assert is_open(ready, number)
    outcome = ready.run()
    assert outcome.status == "published"
    assert first.answer() == 1 and first.answer() == 0 and watcher(ready).answer() == 0
    assert "**gen-1**" in answers(ready, number)[1] and not is_open(ready, number)


def test_what_a_withdrawn_generation_was_made_of_is_not_called_part_of_it(ready: World) -> None:
    """It went out again with it and is free to be fused once more, so it waits."""
    assert ready.run().status == "published"
    roll_back(ready.maintainer, open_base(ready.maintainer, BASE), 1, "Worse.")
    number = announce(ready, f"hub-fusion: {ANN}/finetune")
    assert watcher(ready).answer() == 1
    (told,) = answers(ready, number)
    assert "**queued** for gen-2" in told and "part of" not in told and is_open(ready, number)


def test_a_refusal_comes_with_its_fix_and_a_mended_one_is_heard_again(ready: World) -> None:
    """The discussion is closed; its author opens it again, with nothing mended or with a new commit."""
    bad = ready.contribute(LATER, seed=5, license="cc-by-nc-4.0")
    number = announce(ready, f"hub-fusion: {LATER}/finetune", LATER)
    looking = watcher(ready)
    assert looking.answer() == 1
    (told,) = answers(ready, number)
    assert "**refused** (`license_not_allowed`)" in told and bad[:8] in told and "What helps" in told
    assert not is_open(ready, number) and looking.answer() == 0
    api = ready.client(LATER).api
    api.change_discussion_status(BASE, number, "open")
    assert looking.answer() == 0 and is_open(ready, number), "the same again is not said again; people may talk"
    ready.contribute(LATER, seed=6)
    assert watcher(ready).answer() == 1 and "**queued**" in answers(ready, number)[1]


def test_what_only_the_tensors_tell_is_told_too(ready: World) -> None:
    """Cards and headers are in order; the screen finds that nothing was trained."""
    ready.contribute(LATER, seed=5, change=lambda tensors, _: tensors)
    number = announce(ready, f"hub-fusion: {LATER}/finetune", LATER)
    looking = watcher(ready)
    assert looking.answer() == 1 and "**queued**" in answers(ready, number)[0]
    outcome = ready.run()
    assert looking.answer(outcome.queue, outcome.refusals) == 1
    told = answers(ready, number)[1]
    assert "**refused** (`unchanged`)" in told
    assert not is_open(ready, number)


@pytest.mark.parametrize(
    "title",
    ["hub-fusion:", "hub-fusion: ann", "please take hub-fusion: ann/finetune", "hub-fusion: ann/finetune!",
     "hub-fusion: ../../etc", "hub-fusion: <b>x</b>/y", "hub-fusion: ann/" + "x" * 97, "hub-fusion: ann/f\u202ex"],
)  # fmt: skip
def test_other_discussions_are_left_alone(empty: World, title: str) -> None:
    """What is not exactly the form asks nothing; nothing of it is ever repeated."""
    number = announce(empty, title)
    assert watcher(empty).answer() == 0
    assert answers(empty, number) == [] and is_open(empty, number)


def test_what_is_not_there_and_what_others_say_in_their_cards_is_told_harmlessly(empty: World) -> None:
    """A licence may be any text: no link, no mention, no markup of it reaches the discussion."""
    missing = announce(empty, "hub-fusion: nobody/nothing")
    empty.contribute(LATER, seed=5)
    force_card(
        empty, "---\nbase_model: acme/base\ntags: [hub-fusion]\nlicense: '[x](https://evil.example) @acme <i>'\n---"
    )
    bad = announce(empty, f"hub-fusion: {LATER}/finetune")
    assert watcher(empty).answer() == 2
    assert "not there" in answers(empty, missing)[0] and not is_open(empty, missing)
    (told,) = answers(empty, bad)
    assert "@acme" not in told and "https://" not in told and "<i>" not in told


def test_a_flood_is_answered_a_little_at_a_time(empty: World) -> None:
    """Each answer costs requests; opening discussions costs their authors nothing. The oldest come first."""
    numbers = [announce(empty, f"hub-fusion: nobody/m{n}") for n in range(12)]
    looking = watcher(empty)
    assert looking.answer() == 10 and [n for n in numbers if answers(empty, n)] == numbers[:10]
    assert looking.answer() == 2


def test_without_discussions_there_is_a_note_and_the_watcher_goes_on(empty: World) -> None:
    """A recipe whose base hides its community page, or is gone."""
    said: list[str] = []
    recipe = empty.recipe().model_copy(update={"base": "acme/hidden"})
    hub = empty.maintainer
    deeds = Direct(recipe, hub, empty.work)
    assert Announcements(recipe, hub, deeds, said.append).answer() == 0 and len(said) == 1
    with pytest.raises(RepoMissing):
        Discussions(empty.maintainer).newest("acme/hidden")
