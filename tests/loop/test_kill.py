"""kill -9 at every step of a publication: run again, and there is one generation, whole, as if nothing had happened.

A proxy between ``hub-fusion run`` and the Hub kills the process just before a request reaches the Hub, or just after
the Hub has carried it out but before the process learns of it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from .proxy import Request, forwarding
from .world import AUTHORS, BASE, World, opened

Side = Literal["before", "after"]
SIDES: tuple[Side, ...] = ("before", "after")
REQUESTS = 12  # that change something in a round's course: tag, checks, uploads, commit, tag, branch, status
PLACES: dict[str, Callable[[Request], bool]] = {
    "commit": lambda request: request.path.endswith("/commit/main"),
    "tag": lambda request: request.is_tag and b"gen-1" in request.body,
}


@pytest.fixture(scope="module")
def untouched(ready_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """sha256 of the weights that a round publishes when nobody kills it."""
    with opened(ready_store, tmp_path_factory.mktemp("untouched")) as world:
        world.run()
        return world.weights_sha256() or ""


def run_and_kill(world: World, wanted: Callable[[Request], bool], side: Side) -> bool:
    """Start a round in a process of its own and kill it at the wanted request; says whether that came."""
    process: list[subprocess.Popen[str]] = []

    def kill(request: Request) -> bool:
        if not wanted(request):
            return True
        process[0].send_signal(signal.SIGKILL)
        return False

    with forwarding(world.hub.url, **{side: kill}) as proxy:
        arguments = ("run", "--recipe", world.write_recipe(), "--work", world.work)
        process.append(world.start(*arguments, endpoint=proxy.url))
        _, words = process[0].communicate(timeout=120)
        assert process[0].returncode in (0, -signal.SIGKILL), words
        return process[0].returncode != 0


def assert_published_once(world: World, weights: str) -> None:
    """Exactly one gen-1, and everything that speaks of it agrees."""
    hub, tags, index, record = world.maintainer, world.tags(), world.index(), world.record(1)
    commits = [commit.sha for commit in hub.commits(BASE)]
    assert set(tags) == {"gen-0", "gen-1"} and commits[:2] == [tags["gen-1"], tags["gen-0"]], "one commit, on the root"
    records = [path for path in hub.files(BASE, "main") if path.startswith("fusion/gen-")]
    assert records == ["fusion/gen-1.json"]
    assert [(e.status, e.tag) for e in index.entries] == [("root", "gen-0"), ("published", "gen-1")]
    assert index.entries[1].id == record.id and index.entries[0].revision == record.parent_revision == tags["gen-0"]
    assert [c.author for c in record.contributions] == list(AUTHORS) and index.contributors == dict.fromkeys(AUTHORS, 1)
    assert record.weights == {"model.safetensors": weights} and world.weights_sha256() == weights
    assert world.status().generation == 1 and world.status().queue == () and world.status().rejected == ()


def finish(world: World, weights: str) -> None:
    """Run again to the end, directly; then once more, when there is nothing to do."""
    assert world.run().status in ("published", "waiting")
    assert_published_once(world, weights)
    main = world.maintainer.branches(BASE)["main"]
    assert world.run().status == "waiting" and world.maintainer.branches(BASE)["main"] == main


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("place", PLACES)
def test_a_publisher_killed_at_its_commit_or_tag_publishes_once(
    place: str, side: Side, ready: World, untouched: str
) -> None:
    assert run_and_kill(ready, PLACES[place], side)
    finish(ready, untouched)


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
def test_a_publisher_killed_at_any_request_publishes_once(
    number: int, side: Side, ready: World, untouched: str
) -> None:
    assert run_and_kill(ready, lambda request: request.number == number, side), f"no request {number} in a round"
    finish(ready, untouched)


@pytest.mark.slow
def test_every_request_of_a_round_has_its_kill(ready: World) -> None:
    """Holds REQUESTS to what a round really sends."""
    assert not run_and_kill(ready, lambda request: request.number > REQUESTS, "before")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_a_round_killed_at_a_random_moment_publishes_once(seed: int, ready: World, untouched: str) -> None:
    """Between requests too: in the screen, in the fuse, while the candidate is written."""
    process: list[subprocess.Popen[str]] = []
    timers: list[threading.Timer] = []

    def start_timer(request: Request) -> bool:
        if request.number == 1:  # the root's tag: from here a round takes about a second
            timers.append(threading.Timer(random.Random(seed).uniform(0, 1.2), process[0].kill))
            timers[0].start()
        return True

    with forwarding(ready.hub.url, before=start_timer) as proxy:
        arguments = ("run", "--recipe", ready.write_recipe(), "--work", ready.work)
        process.append(ready.start(*arguments, endpoint=proxy.url))
        process[0].communicate(timeout=120)
        timers[0].cancel()
    finish(ready, untouched)


@pytest.mark.slow
def test_a_round_killed_while_it_rejects_remembers_or_repeats(empty: World, task: Path) -> None:
    """The rejection is one commit on the status branch: either it is there, or the attempt is made again."""
    from .world import harmful, judged

    empty.contribute_all(seed=1, change=harmful)
    recipe = empty.recipe(**judged(task), merge={"steps": [1.0]}, gate={"epsilon": 0.0})
    process: list[subprocess.Popen[str]] = []

    def kill(request: Request) -> bool:
        if not request.path.endswith("/commit/fusion-status"):
            return True
        process[0].kill()
        return False

    with forwarding(empty.hub.url, after=kill) as proxy:
        process.append(
            empty.start("run", "--recipe", empty.folder / "recipe.yaml", "--work", empty.work, endpoint=proxy.url)
        )
        process[0].communicate(timeout=120)
    assert process[0].returncode == -signal.SIGKILL
    assert len(empty.status().rejected) == 1
    assert empty.run(recipe).status == "known" and len(empty.status().rejected) == 1
