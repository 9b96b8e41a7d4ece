"""Where a finetune started from, by a few slices of its weights: certain, or nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils import get_session
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from hub_fusion.contributions.nearest import Nearest, nearest
from hub_fusion.contributions.origin import Generations, identify_weights, resolve_origin, too_old
from hub_fusion.hub import Hub
from hub_fusion.local_hub import LocalHub, add_user
from hub_fusion.recipe import Round
from hub_fusion.records import Contribution

from .world import World

WIDE = 96
Tensors = dict[str, torch.Tensor]


def noise(seed: int, size: float) -> Tensors:
    """Something of the shapes of a base that has more weights than the slices hold."""
    source = torch.Generator().manual_seed(seed)
    shapes = {"embeddings.word_embeddings.weight": (500, WIDE)} | {
        f"encoder.layer.{n}.{part}.weight": (WIDE, WIDE)
        for n in range(4) for part in ("attention.self.query", "output.dense")
    }  # fmt: skip
    return {name: torch.randn(shape, generator=source) * size for name, shape in shapes.items()}


def moved(start: Tensors, seed: int, size: float) -> Tensors:
    """A step from there."""
    return {name: start[name] + step for name, step in noise(seed, size).items()}


@pytest.fixture(scope="module")
def line() -> list[Tensors]:
    """Four generations, each a small step from the one before."""
    found = [noise(0, 1.0)]
    for n in range(1, 4):
        found.append(moved(found[-1], n, 0.004))
    return found


@pytest.fixture(scope="module")
def place(server: LocalHub, tmp_path_factory: pytest.TempPathFactory, line: list[Tensors]) -> World:
    """A base with these four generations."""
    token = add_user(server.root, "liner")
    hub = Hub(server.url, token, tmp_path_factory.mktemp("cache"))
    world = World(server, tmp_path_factory.mktemp("line"), "liner/base", hub)
    api = world.api("liner", token)
    api.create_repo(world.base)
    for n, weights in enumerate(line):
        world.commit(world.base, {"model.safetensors": save(weights), "config.json": b"{}"}, api)
        api.create_tag(world.base, tag=f"gen-{n}")
    return world


def finetune(line: list[Tensors], origin: int, size: float = 0.01, seed: int = 77) -> Tensors:
    return moved(line[origin], seed, size)


def resolved(world: World, weights: Tensors, claim: str | None = None) -> Any:
    """The contribution with these weights and this claim, resolved."""
    repo = world.contribute({"model.safetensors": save(weights)}, world.front(hub_fusion={"base_revision": claim}))
    generations = Generations.of(world.hub, world.base)
    asked = Nearest(world.hub, world.base, {number: sha for number, sha, _ in generations.commits})
    return resolve_origin(world.contribution(repo), generations, world.hub, nearest=asked)


@pytest.mark.parametrize("origin", range(4))
def test_weights_tell_where_training_started(place: World, line: list[Tensors], origin: int) -> None:
    """Though it moved much farther than a generation does, and no card says anything."""
    found = resolved(place, finetune(line, origin))
    assert (found.generation, found.known_by) == (origin, "tensors")


MADE: dict[str, Callable[[Tensors], Tensors]] = {
    "in 16 bits": lambda w: {n: t.to(torch.bfloat16) for n, t in w.items()},
    "prefixed, with a head": lambda w: {f"bert.{n}": t for n, t in w.items()} | {"classifier.bias": torch.ones(3)},
    "with tokens added": lambda w: w | {"embeddings.word_embeddings.weight": torch.cat(
        [w["embeddings.word_embeddings.weight"], torch.ones(7, WIDE)])},
    "one layer trained": lambda w: w | {"encoder.layer.3.output.dense.weight": torch.randn(WIDE, WIDE)},
}  # fmt: skip


@pytest.mark.parametrize("how", MADE)
def test_weights_tell_it_however_they_are_stored(place: World, line: list[Tensors], how: str) -> None:
    """What a finetune may look like and still be fused."""
    found = resolved(place, MADE[how](finetune(line, 1)))
    assert (found.generation, found.known_by) == (1, "tensors")


def test_a_true_card_is_confirmed_and_a_false_one_corrected(place: World, line: list[Tensors]) -> None:
    """The change is taken against what the weights started from; otherwise the base's own way would count twice."""
    true, false = (resolved(place, finetune(line, 2), claim) for claim in ("gen-2", "gen-0"))
    assert (true.generation, true.known_by) == (2, "card")
    assert (false.generation, false.known_by, false.base_revision) == (2, "tensors", "gen-0")
    assert false.origin_revision == place.hub.tags(place.base)["gen-2"]


def test_a_revision_that_is_no_generation_is_forgiven_where_the_weights_tell(place: World, line: list[Tensors]) -> None:
    """The sha of the root's own repository, say."""
    assert resolved(place, finetune(line, 3), "f" * 40).generation == 3
    assert resolved(place, noise(5, 1.0), "f" * 40).code == "unknown_revision"


def test_what_is_not_certain_is_not_said(place: World, line: list[Tensors]) -> None:
    """Weights of another origin, one halfway between two generations, one that drowns the steps in noise."""
    halfway = {n: (line[1][n] + line[2][n]) / 2 for n in line[0]}
    for weights in (halfway, finetune(line, 1, size=5.0)):
        found = resolved(place, weights)
        assert (found.generation, found.known_by) == (3, "date")
        assert resolved(place, weights, "gen-1").known_by == "card"


def test_broken_weights_say_nothing_here(place: World, line: list[Tensors]) -> None:
    """The screen refuses them, with a reason."""
    for weights in (finetune(line, 1) | {"encoder.layer.0.output.dense.weight": torch.ones(2, 2)},
                    {n: t * float("nan") for n, t in line[1].items()}):  # fmt: skip
        assert resolved(place, weights).known_by == "date"


def test_a_generation_that_holds_a_finetune_is_not_its_origin(place: World, line: list[Tensors]) -> None:
    """Of five fused together, each lies just as near to what they became as to what they started from."""
    five = [finetune(line, 2, seed=100 + n) for n in range(5)]
    became = {n: sum(one[n] for one in five) / 5 for n in line[0]}
    values = [list(line[2].values()), list(became.values())]
    slices = {n: [tensor.double().numpy().ravel() for tensor in found] for n, found in enumerate(values)}
    assert nearest([tensor.double().numpy().ravel() for tensor in five[0].values()], slices) == 1, "by weights alone"
    repo = place.contribute({"model.safetensors": save(five[0])})
    c = identify_weights(place.contribution(repo), place.hub)
    generations = Generations.of(place.hub, place.base)
    assert generations.before(c, {}) == [0, 1, 2, 3]
    assert generations.before(c, {str(c.weights_sha256): 3}) == [0, 1, 2], "whatever its newest commit is"
    assert generations.before(c, {c.key: 2, str(c.weights_sha256): 1}) == [0]
    early = c.model_copy(update={"last_modified": generations.commits[0][2] - timedelta(seconds=1)})
    assert generations.before(early, {}) == [], "nobody starts from what is not there yet"


def test_kilobytes_are_read_and_generations_once(place: World, line: list[Tensors]) -> None:
    """256 kB for a contribution's slices, and a header; a second one does not read the generations again."""
    read: list[int] = []

    def note(answer: Any) -> None:
        if answer.request.headers.get("range"):
            read.append(int(answer.headers.get("content-length", 0)))

    generations = Generations.of(place.hub, place.base)
    asked = Nearest(place.hub, place.base, {number: sha for number, sha, _ in generations.commits})
    repos = [place.contribute({"model.safetensors": save(finetune(line, n, seed=n + 5))}) for n in (1, 2)]
    get_session().event_hooks["response"].append(note)
    try:
        assert asked.generation(place.contribution(repos[0]), 3, range(4)) == 1
        first = len(read)
        assert asked.generation(place.contribution(repos[1]), 3, range(4)) == 2
    finally:
        get_session().event_hooks["response"].remove(note)
    assert first >= 5 * (len(read) - first) and sum(read[first:]) < 400_000


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3), st.floats(0.01, 3.0), st.floats(0.0, 0.9))
def test_a_verdict_is_never_another_generation(seed: int, origin: int, size: float, frozen: float) -> None:
    """Whatever the length of the finetune and the share of its weights that stayed; silence is allowed."""
    random = np.random.default_rng(seed)
    line = np.cumsum(random.normal(size=(4, 4000)) * 0.1, axis=0)
    step = random.normal(size=4000) * size * (random.random(4000) >= frozen)
    assert nearest([line[origin] + step], {n: [values] for n, values in enumerate(line)}) in (origin, None)


def test_equal_generations_are_told_by_the_guess() -> None:
    """After a withdrawal two generations have the same weights: either gives the same change."""
    random = np.random.default_rng(0)
    one, two = random.normal(size=(2, 1000))
    assert nearest([one + 0.1], {3: [one], 1: [one], 2: [two]}) == 3
    assert nearest([one + 0.1], {1: [one], 3: [one]}) is None


def test_slices_that_disagree_say_nothing() -> None:
    """One layer copied from another generation must not turn the whole change into one since that."""
    random = np.random.default_rng(0)
    line = {n: [random.normal(size=1000), random.normal(size=1000)] for n in range(3)}
    assert nearest([line[0][0], line[2][1] + 0.1], line) is None
    assert nearest([line[2][0], line[2][1] + 0.1], line) == 2


@pytest.mark.parametrize(("generation", "code"), [(5, None), (3, None), (2, "too_old"), (None, "too_old")])
def test_what_started_too_long_ago_is_refused_with_a_fix(generation: int | None, code: str | None) -> None:
    """At gen-5, with two generations allowed."""
    c = Contribution(repo="ann/m", sha="f" * 40, author="ann", relation="finetune", generation=generation)
    refusal = too_old(c, 5, Round(max_age=2))
    assert (refusal and refusal.code) == code and (refusal is None or "gen-5" in refusal.fix)
    assert too_old(c, 5, Round()) is None
