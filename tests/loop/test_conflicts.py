"""Others write to the base at the same time, or the Hub is not there: one generation, clear words, a clean stop."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_fusion.errors import HubConflict, HubUnreachable
from hub_fusion.finish import Outcome
from hub_fusion.hub import Hub
from hub_fusion.local_hub import serve
from hub_fusion.watch import Stopped, watch

from .proxy import Request, forwarding
from .world import BASE, World, write_finetune

NOTES = "<!-- hub_fusion:notes:start -->\n"


class Meanwhile:
    """A `say` that acts once, when a round is about to publish: somebody else is faster."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act: Callable[[], object] | None = act
        self.said: list[str] = []

    def __call__(self, text: str) -> None:
        self.said.append(text)
        if text.startswith("publishing") and self.act:
            act, self.act = self.act, None
            act()


@pytest.mark.parametrize("shared", [False, True], ids=["own work folders", "one work folder"])
def test_two_watchers_at_once_publish_one_generation(shared: bool, ready: World) -> None:
    """The parent of the commit decides; whoever comes second finds everything fused, and that is no error."""
    recipe, works = ready.write_recipe(), [ready.folder / "one", ready.folder / ("one" if shared else "two")]
    both = [ready.start("watch", "--once", "--recipe", recipe, "--work", work) for work in works]
    words = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], words
    assert set(ready.tags()) == {"gen-0", "gen-1"} and len(ready.maintainer.commits(BASE)) == 3
    assert sum("published" in text for text in words) == 1
    assert [e.tag for e in ready.index().entries] == ["gen-0", "gen-1"] and ready.status().generation == 1


def test_a_watcher_that_comes_second_starts_over_and_finds_nothing_to_do(ready: World) -> None:
    """The race of two watchers, at its narrowest place."""

    say = Meanwhile(lambda: ready.run(work=ready.folder / "other"))
    outcome = ready.run(say=say)
    assert outcome.status == "waiting" and outcome.generation == 1
    assert any("starting over" in text for text in say.said)
    assert set(ready.tags()) == {"gen-0", "gen-1"}


def test_a_card_edited_meanwhile_is_kept_and_the_generation_published_on_it(ready: World) -> None:
    """Hours of fusing and measuring are not thrown away for a typo in the README."""
    ready.run()
    ready.contribute_all(seed=10)
    edit: list[str] = []

    def human() -> None:
        edit.append(ready.commit({"README.md": ready.text("README.md").replace(NOTES, f"{NOTES}Written meanwhile.\n")}))

    outcome = ready.run(say=Meanwhile(human))
    assert outcome.status == "published" and outcome.generation == 2
    commits = [commit.sha for commit in ready.maintainer.commits(BASE)]
    assert commits[:2] == [ready.tags()["gen-2"], edit[0]], "on top of the edit"
    assert "Written meanwhile." in ready.text("README.md", "gen-2")


@pytest.mark.parametrize("new", ['"hidden_size":16 ', '"hidden_size":  16'], ids=["same size", "other size"])
def test_a_configuration_edited_meanwhile_makes_the_round_start_over(new: str, ready: World) -> None:
    """It may change what was measured. The edit can leave the file's size as it was."""
    before = ready.text("config.json")
    text = before.replace('"hidden_size": 16', new)
    assert text != before
    say = Meanwhile(lambda: ready.commit({"config.json": text}))
    outcome = ready.run(say=say)
    assert outcome.status == "published" and any("starting over" in line for line in say.said)
    assert ready.text("config.json", "gen-1") == text


def test_weights_changed_meanwhile_are_not_overwritten(ready: World) -> None:
    source = ready.maintainer.snapshot(BASE, ready.maintainer.resolve(BASE), ("*.json", "*.safetensors"))
    other = write_finetune(source, ready.folder / "other", 5, lambda tensors, _: tensors) / "model.safetensors"
    with pytest.raises(HubConflict, match="does not have the weights of gen-0"):
        ready.run(say=Meanwhile(lambda: ready.commit({"model.safetensors": other.read_bytes()})))
    assert set(ready.tags()) == {"gen-0"} and "fusion/index.json" not in ready.maintainer.files(BASE, "main")


def test_a_tag_that_somebody_took_is_told_before_anything_is_committed(ready: World) -> None:
    head = ready.maintainer.branches(BASE)["main"]
    with pytest.raises(HubConflict, match=f"tag gen-1 already, on {head[:8]}.*delete it"):
        ready.run(say=Meanwhile(lambda: ready.maintainer.tag(BASE, "gen-1", head)))
    assert ready.maintainer.branches(BASE)["main"] == head
    with pytest.raises(HubConflict, match=r"tags of generations \(gen-1\)"):
        ready.run()
    ready.maintainer.api.delete_tag(BASE, tag="gen-1")
    assert ready.run().generation == 1, "once the tag is gone the loop goes on"


def test_a_later_tag_that_is_no_generation_is_told(ready: World) -> None:
    ready.run()
    ready.maintainer.tag(BASE, "gen-7", ready.tags()["gen-0"])
    with pytest.raises(HubConflict, match=r"is at gen-1 but has tags of later generations \(gen-7"):
        ready.run()


def test_an_answer_that_is_lost_leaves_the_next_round_to_complete_the_generation(ready: World) -> None:
    """The commit arrived, its answer did not: it is never sent twice, and the tag is put on it later."""

    def lose(request: Request) -> bool:
        return not request.path.endswith("/commit/main")

    with forwarding(ready.hub.url, after=lose) as proxy, pytest.raises(HubUnreachable):
        from hub_fusion.generation import run_generation

        run_generation(ready.recipe(), ready.client(endpoint=proxy.url), ready.compute, work=ready.work)
    assert set(ready.tags()) == {"gen-0"}
    assert ready.run().status == "waiting"
    assert set(ready.tags()) == {"gen-0", "gen-1"} and ready.maintainer.commits(BASE)[0].sha == ready.tags()["gen-1"]


def test_a_conflict_on_the_status_branch_loses_nobodys_words(empty: World) -> None:
    """Two watchers tell at once: the second applies its change to what the first wrote."""
    from hub_fusion.publish.status import tell_error

    threads = [
        threading.Thread(target=tell_error, args=(empty.maintainer, BASE, f"error {number}")) for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (empty.status().last_error or "").startswith("error")
    assert [c.title for c in empty.maintainer.commits(BASE, "fusion-status")].count("Status") == 3


def test_a_watcher_survives_a_hub_that_is_down_and_stops_on_sigterm(
    ready_store: Path, tmp_path: Path, ready: World
) -> None:
    """Started before its Hub, as after a power cut; then stopped as systemd and Kubernetes do it."""
    ready.hub.stop()
    port = ready.hub.port
    recipe = ready.write_recipe()
    arguments = ("watch", "--recipe", recipe, "--work", ready.work, "--interval", "0.2")
    process = ready.start(*arguments, stdout=subprocess.DEVNULL)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        wait_for(lambda: any("does not answer" in line for line in lines), lines)
        with serve(ready.folder / "store", port=port):
            wait_for(lambda: any(line.startswith("waiting") for line in lines), lines)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0 and time.monotonic() - began < 2
            reader.join(5)
            assert any("stopped by SIGTERM" in line for line in lines)
            hub = Hub(f"http://127.0.0.1:{port}", ready.tokens["acme"], tmp_path / "after")
            assert set(hub.tags(BASE)) == {"gen-0", "gen-1"}
    finally:
        process.kill()


def test_a_watcher_tells_why_it_cannot_go_on_and_goes_on_when_it_can(ready: World) -> None:
    """Weights changed by hand stop the loop, not the watcher; the status says so until they are back."""
    ready.run()
    weights = ready.maintainer.download(BASE, "model.safetensors", ready.tags()["gen-1"]).read_bytes()
    ready.commit({"model.safetensors": b"somebody else's"})
    arguments = ("watch", "--recipe", ready.write_recipe(), "--work", ready.work, "--interval", "0.2")
    process = ready.start(*arguments, stdout=subprocess.DEVNULL)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        wait_for(lambda: sum("this round failed" in line for line in lines) >= 2, lines)
        assert "does not have the weights of gen-1" in (ready.status().last_error or "")
        assert ready.command("status", BASE, "--json").returncode == 0, "whoever looks is still told"
        ready.commit({"model.safetensors": weights})
        wait_for(lambda: any(line.startswith("waiting") for line in lines), lines)
        assert ready.status().last_error is None and ready.status().generation == 1
    finally:
        process.kill()
        process.wait()


def test_a_watcher_outlives_a_work_folder_that_cannot_be_used(ready: World) -> None:
    """A disk that is gone or read-only for a while is no reason to be started by hand again."""
    ready.work.write_text("a file where the folder should be")

    def say(text: str) -> None:
        if "this round failed" in text:
            ready.work.unlink()

    def stop(outcome: Outcome) -> None:
        assert outcome.status == "published" and ready.status().last_error is None
        raise Stopped

    options = {"work": ready.work, "interval": 0.1, "say": say, "tell": stop}
    watch(ready.recipe(), ready.maintainer, ready.compute, **options)  # type: ignore[arg-type]
    assert ready.work.is_dir() and set(ready.tags()) == {"gen-0", "gen-1"}


def wait_for(condition: Callable[[], bool], lines: list[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "".join(lines)
        time.sleep(0.02)


def test_watching_embedded_in_a_thread_leaves_signals_alone(empty: World) -> None:
    """Signals belong to the main thread; a program that embeds the watcher keeps its own handlers."""
    before = signal.getsignal(signal.SIGTERM)
    found: list[str] = []

    def work() -> None:
        options = {"work": empty.work, "interval": 1.0, "once": True}
        found.extend(o.status for o in watch(empty.recipe(), empty.maintainer, empty.compute, **options))  # type: ignore[arg-type]

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["waiting"] and signal.getsignal(signal.SIGTERM) is before


def test_the_watcher_restores_the_signal_handler(empty: World) -> None:
    before = signal.getsignal(signal.SIGTERM)
    watch(empty.recipe(), empty.maintainer, empty.compute, work=empty.work, interval=1.0, once=True)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_watcher_makes_one_generation_after_the_other_and_then_waits(ready: World) -> None:
    """Once means: as long as there is something to do."""
    ready.contribute("fritz", seed=50)
    recipe = ready.recipe(round={"min_contributions": 3, "max_contributions": 3, "choose": "oldest"})
    options = {"work": ready.work, "interval": 60.0, "once": True}
    outcomes = watch(recipe, ready.maintainer, ready.compute, **options)  # type: ignore[arg-type]
    assert [(o.status, o.generation) for o in outcomes] == [("published", 1), ("published", 2), ("waiting", 2)]


def test_an_unreachable_hub_is_exit_code_4_in_bounded_time(ready: World) -> None:
    """Also for what was seen before: the client would answer from its cache when it is asked for a branch."""
    recipe = ready.write_recipe()
    assert ready.command("run", "--recipe", recipe).returncode == 0
    assert "gen-1" in ready.command("lineage", BASE).stdout
    ready.hub.stop()
    commands: list[list[str | Path]] = [["run", "-r", recipe], ["lineage", BASE], ["status", BASE]]
    began = time.monotonic()
    processes = [ready.start(*command) for command in commands]
    for command, process in zip(commands, processes, strict=True):
        data, words = process.communicate(timeout=60)
        assert (process.returncode, data) == (4, ""), (command, words)
        assert f"{ready.hub.url} does not answer" in words and "Traceback" not in words
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_hub_that_vanishes_before_a_listing_is_exit_code_4_in_bounded_time(empty: World) -> None:
    """The client tries paginated calls again by itself; both patiences together stay below a minute."""
    recipe = empty.write_recipe()
    empty.hub.stop()
    assert empty.command("discover", "-r", recipe, timeout=60).returncode == 4
