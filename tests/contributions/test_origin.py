"""Which generation a contribution started from: the card says it, PEFT says it, or its date says it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hub_fusion.contributions.origin import Generations, resolve_origin
from hub_fusion.errors import HubUnreachable
from hub_fusion.hub import Hub
from hub_fusion.records import Contribution, Refusal, Relation

from .world import World, adapter_files


class Silent(Hub):
    """A Hub that does not answer, without the wait."""

    def _read(self, call: Any, *what: str | None) -> Any:
        raise HubUnreachable(f"{self.endpoint} does not answer")


DAY = timedelta(days=1)
START = datetime(2030, 1, 1, tzinfo=UTC)
SHAS = [str(i) * 40 for i in range(6)]
# gen-0, an edit of the card, gen-1, gen-2, an edit
GENERATIONS = Generations(
    commits=tuple((n, SHAS[i], START + i * DAY) for n, i in ((0, 0), (1, 2), (2, 3))),
    history={SHAS[0]: 0, SHAS[1]: 0, SHAS[2]: 1, SHAS[3]: 2, SHAS[4]: 2},
)


def resolved(hub: Any = None, relation: Relation = "finetune", **facts: Any) -> Any:
    """A contribution with its origin, or its refusal."""
    made = Contribution(repo="ann/m", sha="f" * 40, author="ann", relation=relation, **facts)
    return resolve_origin(made, GENERATIONS, hub)


@pytest.mark.parametrize(
    ("claim", "generation"),
    [("gen-0", 0), ("gen-2", 2), (SHAS[2], 1), (SHAS[1], 0), (SHAS[4], 2), (SHAS[2][:8], 1), (SHAS[0].upper(), 0)],
)
def test_the_card_is_believed_first(claim: str, generation: int) -> None:
    """A tag, a sha, a short sha; a commit between two generations has the earlier one's weights."""
    found = resolved(base_revision=claim, created_at=START + 9 * DAY)
    assert (found.generation, found.known_by) == (generation, "card")
    assert found.origin_revision == GENERATIONS.revision(generation)


@pytest.mark.parametrize("claim", ["main", "gen-7", "gen-", "gen-²", "f" * 40, "2", "222222", "refs/pr/1"])
def test_a_card_that_claims_what_is_no_generation_is_refused(claim: str) -> None:
    """main moves, a short sha of six digits is anybody's: another generation's weights would be subtracted."""
    found = resolved(base_revision=claim, created_at=START + 2.5 * DAY)
    assert isinstance(found, Refusal)
    assert (found.stage, found.code) == ("screen", "unknown_revision")
    assert claim in found.reason


def test_without_a_claim_the_date_decides() -> None:
    """Cards of tools that know nothing of generations."""
    found = resolved(created_at=START + 2.5 * DAY)
    assert (found.generation, found.known_by) == (1, "date")


@pytest.mark.parametrize(("days", "generation"), [(-5, 0), (0, 0), (1.9, 0), (2, 1), (2.9, 1), (3, 2), (99, 2)])
def test_a_date_gives_the_newest_generation_of_that_time(days: float, generation: int) -> None:
    """A repository older than the base's own history started from gen-0, if from anything."""
    found = resolved(created_at=START + days * DAY)
    assert (found.generation, found.known_by) == (generation, "date")


def test_without_any_sign_the_newest_is_assumed() -> None:
    """And said to be."""
    found = resolved()
    assert (found.generation, found.origin_revision, found.known_by) == (2, SHAS[3], "assumed")


def test_generations_are_read_from_tags_and_history(world: World) -> None:
    """A tag of another name, or of a commit that is not on main, is not a generation."""
    head = world.hub.resolve(world.base)
    for tag in ("v1", "gen-x", "gen-", "gen-1.5"):
        world.hub.tag(world.base, tag, head)
    generations = Generations.of(world.hub, world.base)
    assert [number for number, _, _ in generations.commits] == [0, 1]
    assert generations.revision(0) == world.hub.tags(world.base)["gen-0"]
    shas = [commit.sha for commit in reversed(world.hub.commits(world.base))]
    zero, one = shas.index(generations.revision(0)), shas.index(generations.revision(1))
    assert [generations.find(sha) for sha in shas[zero:]] == [0] * (one - zero) + [1] * (len(shas) - one)
    assert generations.find("gen-1") == 1


@pytest.mark.parametrize(
    ("revision", "expected"),
    [("gen-0", (0, "peft")), ("main", (1, "date")), (None, (1, "date")), (7, (1, "date")), ({"a": 1}, (1, "date"))],
)
def test_adapters_may_say_it_in_their_configuration(world: World, revision: Any, expected: tuple[int, str]) -> None:
    """PEFT writes the revision that the base was loaded with."""
    repo = world.contribute(adapter_files(revision=revision), world.front(hub_fusion={}))
    generations = Generations.of(world.hub, world.base)
    found = resolve_origin(world.contribution(repo, "adapter"), generations, world.hub)
    assert (found.generation, found.known_by) == expected


def test_a_hub_that_does_not_answer_is_no_answer(tmp_path: Path) -> None:
    """Else an adapter would be compared with whatever generation its date gives, whenever the network fails."""
    with pytest.raises(HubUnreachable):
        resolved(Silent("http://127.0.0.1:9", cache_dir=tmp_path), "adapter", created_at=START)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"revision": ' + b"9" * 5000 + b"}"])
def test_a_broken_configuration_says_nothing(world: World, text: bytes) -> None:
    """The screen refuses it later, with a reason."""
    repo = world.contribute(adapter_files() | {"adapter_config.json": text}, world.front(hub_fusion={}))
    generations = Generations.of(world.hub, world.base)
    assert resolve_origin(world.contribution(repo, "adapter"), generations, world.hub).known_by == "date"
