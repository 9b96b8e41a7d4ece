"""A Hub on a bad day: whatever it drops, delays or refuses, there is one generation in the end, or clear words."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hub_fusion.errors import HubFusionError, HubUnreachable
from hub_fusion.hub import Hub

from .test_kill import assert_published_once, untouched  # noqa: F401 (a fixture)
from .world import BASE, World, hub_fusion

Rules = list[dict[str, Any]]
MIX: Rules = [
    {"route": "commit", "kind": "drop", "when": "after", "rate": 0.3, "times": 2},
    {"route": "commit", "kind": 503, "rate": 0.3, "times": 2},
    {"route": "commit", "kind": 412, "rate": 0.2, "times": 1},
    {"route": "tag", "kind": "drop", "when": "after", "rate": 0.5, "times": 1},
    {"route": "tag", "kind": 500, "rate": 0.3, "times": 1},
    {"route": "preupload", "kind": "drop", "rate": 0.3, "times": 1},
    {"route": "lfs", "kind": 502, "rate": 0.2, "times": 1},
    {"route": "xet", "kind": 503, "rate": 0.1, "times": 2},
    {"route": "list", "kind": 429, "reset": 0, "rate": 0.5, "times": 1},
    {"route": "list", "kind": "tag-lag", "seconds": 0.5, "rate": 0.5},
    {"route": "info", "kind": "stale", "seconds": 0.5, "rate": 0.1},
    {"route": "refs", "kind": "stale", "seconds": 0.5, "rate": 0.1},
    {"route": "resolve", "kind": "cut", "rate": 0.2, "times": 3},
    {"route": "resolve", "kind": "drop", "rate": 0.1, "times": 3},
    {"route": "resolve", "kind": "slow", "bytes_per_s": 200000, "rate": 0.1},
    {"route": "any", "kind": "timeout", "seconds": 0.2, "rate": 0.02, "times": 2},
    {"route": "any", "kind": 500, "rate": 0.02, "times": 3},
]


def slowly(*cases: Any) -> list[Any]:
    """Cases of the long tests only."""
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


def run_until_quiet(world: World, rounds: int = 12) -> list[str]:
    """Rounds as a watcher makes them, until there is nothing to do; what became of each. Only known errors pass."""
    outcomes: list[str] = []
    while len(outcomes) < rounds and outcomes[-1:] != ["waiting"]:
        try:
            outcomes.append(world.run().status)
        except HubFusionError as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    return outcomes


@pytest.mark.parametrize("seed", [1, *slowly(*range(2, 22))])
def test_rounds_under_a_mix_of_faults_publish_one_generation(seed: int, ready: World, untouched: str) -> None:  # noqa: F811
    """The same bytes as on a good day, one tag, one record; the faults differ with the seed."""
    ready.hub.faults.set({"seed": seed, "rules": MIX})
    outcomes = run_until_quiet(ready)
    assert outcomes[-1] == "waiting", outcomes
    hits = list(ready.hub.faults.log)
    ready.hub.faults.set(None)
    assert hits, "the mix should hit something"
    assert_published_once(ready, untouched)


@pytest.mark.parametrize("kind", [{"kind": 503}, {"kind": "drop"}, {"kind": 429, "reset": 0}, {"kind": 429}], ids=str)
@pytest.mark.parametrize("route", ["commit", *slowly("tag", "branch", "refs", "list", "resolve", "tree")])
def test_one_fault_before_a_request_is_not_noticed(route: str, kind: dict[str, Any], ready: World) -> None:
    """What did not happen is tried again, a commit too: it names its parent, so that of two only one can succeed."""
    ready.hub.faults.set([{"route": route, "times": 1} | kind])
    assert ready.run().status == "published"
    assert [hit.kind for hit in ready.hub.faults.log] == [str(kind["kind"])]
    assert set(ready.tags()) == {"gen-0", "gen-1"} and len(ready.maintainer.commits(BASE)) == 3


def test_a_conflict_that_is_none_costs_no_fuse(ready: World) -> None:
    """A server that lags refuses a commit on main's own head: the same commit is sent again, not made again."""
    ready.hub.faults.set([{"route": "commit", "kind": 412, "times": 2}])
    said: list[str] = []
    assert ready.run(say=said.append).status == "published" and len(ready.hub.faults.log) == 2
    assert sum(line.startswith("fusing") for line in said) == 1 and len(ready.maintainer.commits(BASE)) == 3


@pytest.mark.parametrize("kind", ["504", "drop"])
def test_a_commit_whose_answer_is_lost_is_not_made_again(kind: str, ready: World) -> None:
    """It is there already: the next round finds it and puts the tag on it."""
    ready.hub.faults.set([{"route": "POST /**/commit/main", "kind": kind, "when": "after", "times": 1}])
    with pytest.raises(HubUnreachable):
        ready.run()
    assert set(ready.tags()) == {"gen-0"}
    assert ready.run().status == "waiting" and set(ready.tags()) == {"gen-0", "gen-1"}
    assert len(ready.maintainer.commits(BASE)) == 3 and len(ready.hub.faults.log) == 1


def test_a_tag_whose_answer_is_lost_is_found(ready: World) -> None:
    ready.hub.faults.set([{"route": "tag", "kind": "drop", "when": "after"}])
    with pytest.raises(HubUnreachable, match="does not answer"):
        ready.run()
    ready.hub.faults.set([{"route": "tag", "kind": "drop", "when": "after", "times": 2}])
    assert ready.run().status == "published" and set(ready.tags()) == {"gen-0", "gen-1"}


def test_a_429_is_obeyed_and_not_asked_against(ready: World) -> None:
    """One request, the wait that the header names, one more; for reads and for commits."""
    for route, header in (("info", {"reset": 2}), ("info", {"retry_after": 2}), ("commit", {"reset": 2})):
        ready.hub.faults.set([{"route": route, "kind": 429, "times": 1} | header])
        before, began = len(ready.hub.faults.log), time.monotonic()
        ready.maintainer.model(BASE) if route == "info" else ready.commit({"a.txt": header["reset"] * "x"})
        assert 2 < time.monotonic() - began < 10
        assert len(ready.hub.faults.log) == before + 1


def test_a_whole_round_within_tight_rate_limits(ready: World) -> None:
    """Slower, but through."""
    ready.hub.limits.set({"api": "12/2", "resolvers": "12/2"})
    assert ready.run().status == "published"
    ready.hub.limits.set({})
    assert set(ready.tags()) == {"gen-0", "gen-1"}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"kind": 429, "reset": 3600}, "in 3600 s"),
        ({"kind": 429, "retry_after": 7200}, "in 7200 s"),
        pytest.param({"kind": 503}, "answers 503", marks=pytest.mark.slow),
        pytest.param({"kind": "drop"}, "does not answer", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_fault_that_stays_is_exit_code_4_in_bounded_time(rule: dict[str, Any], words: str, ready: World) -> None:
    """A limit that ends in an hour is told, not waited for."""
    ready.hub.faults.set([{"route": "refs"} | rule])
    began = time.monotonic()
    done = ready.command("run", "--recipe", ready.write_recipe())
    assert done.returncode == 4 and words in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - began < 45


@pytest.mark.slow
@pytest.mark.parametrize("route", ["commit", "tag", "preupload", "xet", "resolve", "tree", "list"])
def test_a_step_that_never_works_is_exit_code_4_without_a_traceback(route: str, ready: World) -> None:
    """Whatever the client raises for it, and nothing is half published."""
    ready.hub.faults.set([{"route": route, "kind": 503 if route != "list" else 501}])
    done = ready.command("run", "--recipe", ready.write_recipe(), timeout=300)
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
    ready.hub.faults.set(None)
    assert set(ready.tags()) <= {"gen-0", "gen-1"} and ready.run().status in ("published", "waiting")
    assert set(ready.tags()) == {"gen-0", "gen-1"} and len(ready.maintainer.commits(BASE)) == 3


QUICK = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}  # else it tries for minutes


def test_storage_that_does_not_answer_is_exit_code_4(ready: World) -> None:
    """Contents come from elsewhere than metadata, by a library that has one exception for whatever happens."""
    ready.hub.faults.set([{"route": "GET /cas/**", "kind": 503}])
    command = hub_fusion("run", "--recipe", ready.write_recipe())
    done = subprocess.run(command, env=ready.environment() | QUICK, capture_output=True, text=True, timeout=120)
    assert done.returncode == 4 and "the storage of" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("storage", [{}, {"HF_HUB_DISABLE_XET": "1"}], ids=["xet", "plain"])
def test_a_watcher_outlives_a_full_disk(storage: dict[str, str], ready: World) -> None:
    """It says what it cannot write, each time it tries, and is there when somebody has made room."""
    full = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))"
    code = f"{full}; runpy.run_module('hub_fusion', run_name='__main__')"
    arguments = ("watch", "--recipe", str(ready.write_recipe()), "--work", str(ready.work), "--interval", "0.1")
    environment = ready.environment() | QUICK | storage | {"PYTHONDONTWRITEBYTECODE": "1"}
    log = ready.folder / "log"
    with log.open("w") as file:
        watcher = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, stderr=file)
    try:
        end = time.monotonic() + 60
        while log.read_text().count("this round failed") < 2 and watcher.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        said = log.read_text()
        assert watcher.poll() is None and "cannot be written" in said and "Traceback" not in said, said
    finally:
        watcher.terminate()
        watcher.wait(30)


def test_a_stale_hub_does_not_make_a_second_generation_of_the_same(ready: World, untouched: str) -> None:  # noqa: F811
    """Lists and refs of before the publication: the commit's parent is not the head any more, and that decides."""
    ready.hub.faults.set([{"route": r, "kind": "stale", "seconds": 600} for r in ("refs", "info", "list", "tree")])
    outcomes = [run_until_quiet(ready, rounds=1)[0] for _ in range(3)]
    assert outcomes.count("published") <= 1
    ready.hub.faults.set(None)
    assert run_until_quiet(ready)[-1] == "waiting"
    assert_published_once(ready, untouched)


def test_a_hub_that_takes_requests_and_never_answers_is_unreachable(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client by itself would wait for ever, and a watcher with it. A limit that a program has set is left alone."""
    from huggingface_hub import close_session
    from huggingface_hub.utils import get_session

    monkeypatch.setattr("hub_fusion.hub.calls.SILENCE_S", 0.5)
    monkeypatch.setattr("hub_fusion.hub.calls.RETRIES", 1)
    close_session()
    try:
        ready.hub.faults.set([{"route": "refs", "kind": "timeout", "seconds": 600}])
        with pytest.raises(HubUnreachable, match="does not answer"):
            ready.maintainer.tags(BASE)
        assert len(ready.hub.faults.log) == 2
        get_session().timeout = 7
        ready.hub.faults.set(None)
        assert ready.tags() == {} and get_session().timeout.read == 7
    finally:
        close_session()


def test_downloads_survive_cut_and_dropped_answers(ready: World, tmp_path: Path) -> None:
    """In whole files and in ranges; what arrives is what is there."""
    hub = Hub(ready.hub.url, ready.tokens["acme"], tmp_path)
    head = hub.resolve(BASE)
    whole = ready.maintainer.download(BASE, "model.safetensors", head).read_bytes()
    for kind in ({"kind": "cut", "bytes": 100}, {"kind": "drop"}, {"kind": 503}):
        ready.hub.faults.set([{"route": "GET /*/*/resolve/**", "times": 2} | kind])
        assert hub.read_range(BASE, "model.safetensors", head, 10, 5000) == whole[10:5000]
        ready.hub.faults.set([{"route": "GET /*/*/resolve/**", "times": 1} | kind])
        assert "license: apache-2.0" in Hub(ready.hub.url, None, tmp_path / str(kind)).read_text(BASE, "README.md")
    assert len(ready.hub.faults.log) == 9
