"""What failed the screen is set aside, in the status on the Hub: it takes nobody's place and is not read again."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import Any

from hub_fusion.contributions.aside import MOST, set_aside
from hub_fusion.records import Aside, Contribution, now

from .world import AUTHORS, BASE, Tensors, World

FOR = "a" * 64  # the base, recipe and suite of a round


def foreign(tensors: Tensors, seed: int) -> Tensors:
    """Random numbers in the base's shapes."""
    import torch

    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=source) for name, tensor in tensors.items()}


def look(world: World, **changes: Any) -> tuple[str, list[str], bool]:
    """The word of a round on a machine that knows nothing yet, who was refused in it, and whether it read weights."""
    said: list[str] = []
    shutil.rmtree(world.work, ignore_errors=True)
    outcome = world.run(world.recipe(**changes), say=said.append)
    return outcome.status, sorted(r.repo for r in outcome.refusals), any(line.startswith("reading") for line in said)


def test_what_fails_the_screen_takes_nobodys_place_for_long(ready: World) -> None:
    """Else as many worthless uploads as a round may have, renewed or not, would end the loop for good."""
    worthless = [f"{author}/worthless" for author in AUTHORS]
    for place, author in enumerate(AUTHORS):
        ready.contribute(author, seed=20 + place, name="worthless", change=foreign)
    narrow = {"round": {"max_contributions": len(AUTHORS)}}  # newest first: there is room for the worthless alone
    assert look(ready, **narrow) == ("waiting", worthless, True)
    assert {w.repo for w in ready.status().queue} == {f"{author}/finetune" for author in AUTHORS}
    assert look(ready, **narrow) == ("published", worthless, True)
    assert {r.code for r in ready.record(1).refusals} == {"not_kin"}


def test_the_same_weights_are_not_read_at_every_look(empty: World) -> None:
    """Neither by a watcher nor by a Job that looks, which would pay for a GPU each time; another recipe asks anew."""
    empty.contribute_all(seed=20, change=foreign)
    refused = [f"{author}/finetune" for author in AUTHORS]
    assert look(empty) == ("waiting", refused, True)
    assert look(empty) == ("waiting", refused, False)
    assert empty.run(dry_run=True).status == "waiting"
    empty.contribute("ann", seed=1)
    assert look(empty) == ("waiting", refused[1:], False)
    assert look(empty, screen={"min_kinship": -1})[0] == "published"


def contribution(number: int) -> Contribution:
    sha = f"{number:040x}"
    return Contribution(repo=f"ann/m{number}", sha=sha, relation="finetune", author="ann", base=BASE)


def aside(code: str, **update: Any) -> Aside:
    found = contribution(1).refuse("screen", code, "It failed.", "Mend it.")
    return Aside(round=FOR, at=now(), refusals=(found,)).model_copy(update=update)


def test_what_passes_by_itself_is_looked_at_again_after_a_while() -> None:
    """How often something was downloaded changes without a commit; what its tensors hold does not."""
    queue, day = [contribution(1), contribution(2)], timedelta(days=1)
    long_ago = now() - day
    assert set_aside(queue, aside("not_kin", at=long_ago), FOR, day).left == queue[1:]
    assert set_aside(queue, aside("few_downloads"), FOR, day).left == queue[1:]
    assert set_aside(queue, aside("few_downloads", at=long_ago), FOR, day).left == queue
    assert set_aside(queue, aside("not_kin"), "b" * 64, day).left == queue
    assert set_aside([contribution(2)], aside("not_kin"), FOR, day).refusals == []


def test_no_flood_makes_the_list_long() -> None:
    known = set_aside([], None, FOR, timedelta(days=1))
    flood = [contribution(n).refuse("screen", "not_kin", "It failed.", "Mend it.") for n in range(MOST + 5)]
    assert known.with_more(flood).refusals == tuple(flood[5:])
