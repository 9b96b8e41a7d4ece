"""What a round says can be read by machines: one JSON object a line, with names that do not change with the words."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pytest

from hub_fusion.events import Event, named

from .world import World, judged


def test_a_round_is_logged_as_one_object_a_line(ready: World, task: Path) -> None:
    """In the order of the path; whoever collects logs counts and alarms by these names."""
    recipe = ready.write_recipe(**judged(task), gate={"test": "means", "epsilon": 1.0, "delta": None})
    done = ready.command("run", "--recipe", recipe, "--work", ready.work, "--log-format", "json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(e["at"].endswith("+00:00") and e["text"] for e in events)
    names = [name for name, _ in groupby(e["event"] for e in events if e["event"] != "note")]
    assert names[:2] == ["look", "screen"] and names[-3:] == ["commit", "tag", "published"]
    assert {"fuse", "evaluate"} <= set(names[2:-3])
    published = next(e for e in events if e["event"] == "published")
    assert (published["generation"], published["revision"]) == (1, ready.tags()["gen-1"])


def test_an_error_that_ends_the_process_is_an_object_too(empty: World) -> None:
    done = empty.command("watch", "--recipe", empty.folder / "none.yaml", "--log-format", "json")
    (event,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (event["event"], event["code"], done.returncode) == ("error", 1, 1) and "none.yaml" in event["text"]


def test_a_name_is_put_on_what_has_none() -> None:
    """Stages below the main path speak in plain sentences."""
    said: list[str] = []
    say = named(said.append, "screen")
    say("reading")
    say(Event("fuse", "fusing", step=0.5))
    assert said == ["reading", "fusing"]
    assert [(e.name, e.facts) for e in said if isinstance(e, Event)] == [("screen", {}), ("fuse", {"step": 0.5})]


def test_what_libraries_write_is_logged_as_objects_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A log of objects is one from end to end: the client's warnings of a rate limit, a traceback."""
    import sys

    from hub_fusion.cli.output import JsonLines

    lines = JsonLines(sys.stderr)
    print("Rate limited.\nWaiting", end=" ", file=lines)
    print("2 s\n", file=lines)
    assert [json.loads(line)["text"] for line in capsys.readouterr().err.splitlines()] == [
        "Rate limited.",
        "Waiting 2 s",
    ]


def test_a_look_that_finds_nothing_new_says_so_once(empty: World) -> None:
    """A base with a thousand refused finetunes would else write them into the log at every look."""
    process = empty.start("watch", "--recipe", empty.write_recipe(), "--work", empty.work, "--interval", "0.1",
                          "--log-format", "json")  # fmt: skip
    names: list[str] = []
    try:
        for line in process.stderr or ():
            names.append(json.loads(line)["event"])
            if names.count("look") == 4:
                break
    finally:
        process.kill()
        process.wait()
    assert names.count("waiting") == 1


def test_a_watcher_forgets_old_outcomes(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run for years, and an outcome holds a record and all refusals."""
    from hub_fusion.watch import watch

    monkeypatch.setattr("hub_fusion.watch.KEPT", 1)
    outcomes = watch(ready.recipe(), ready.maintainer, ready.compute, work=ready.work, interval=60.0, once=True)
    assert [(o.status, o.generation) for o in outcomes] == [("waiting", 1)]
