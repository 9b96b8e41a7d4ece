"""The processes that a user starts: the one that reads contributions has no token that may write, wherever one looks.

A merge method of another distribution is the spy: it runs in the worker, in the middle of a round.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from loop.world import AUTHORS, BASE, World, hub_fusion, opened

from hub_fusion.local_hub import add_user

ORDINARY = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if not os.geteuid() and shutil.which("setpriv") else []
SPY = '''
import json, os, pathlib
from hub_fusion.merge import merge_method

def readable(path):
    try:
        return pathlib.Path(path).read_bytes().decode(errors="replace")
    except OSError as error:
        return type(error).__name__

def attempt(call):
    try:
        return str(call())
    except Exception as error:
        return str(getattr(getattr(error, "response", None), "status_code", error))

def look():
    import huggingface_hub
    from hub_fusion.hub import Hub
    api, parent = Hub().api, os.getppid()
    return {
        "rank": os.environ.get("RANK"), "environment": dict(os.environ), "token": huggingface_hub.get_token(),
        "headers": api._build_hf_headers(), "command": readable("/proc/self/cmdline"),
        "parent": readable(f"/proc/{parent}/environ") if os.environ.get("RANK", "0") == "0" else "",
        "memory": readable(f"/proc/{parent}/mem"),
        "tag": attempt(lambda: api.create_tag("acme/base", tag="mine")),
        "commit": attempt(lambda: api.upload_file(repo_id="acme/base", path_in_repo="a", path_or_fileobj=b"a")),
        "delete": attempt(lambda: api.delete_repo("acme/base")),
    }

@merge_method("Spy", source="https://arxiv.org/abs/2405.17461", judged="seen-task")
def spy(deltas, weights):
    """The mean. Example: [[1, 3], [3, 5]] give [2, 4]."""
    place = pathlib.Path(os.environ["SPY"]) / f"{os.getpid()}.json"
    if not place.exists():
        place.write_text(json.dumps(look()))
    return (deltas * (weights / weights.sum()).reshape(-1, *[1] * (deltas.ndim - 1))).sum(0)
'''


@pytest.fixture
def spy(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with the distribution; what it saw is written there as PID.json."""
    folder = tmp_path / "spy"
    about = folder / "spy-0.1.dist-info"
    about.mkdir(parents=True)
    (folder / "spy.py").write_text(SPY)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[hub_fusion.merge_methods]\nspy = spy\n")
    return folder


def with_spy(world: World, spy: Path) -> dict[str, str]:
    """The maintainer's environment, with the spy installed, and logged in besides."""
    found = world.environment()
    home = Path(found["HF_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    for name in ("token", "stored_tokens"):
        (home / name).write_text(world.tokens["acme"])
    return found | {"PYTHONPATH": f"{found['PYTHONPATH']}:{spy}", "SPY": str(spy)}


def seen(spy: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(spy.glob("*.json"))]


def assert_blind(told: dict[str, Any], token: str) -> None:
    """Nothing that a worker can look at in the ordinary way has the token, and the Hub refuses what it tries."""
    assert token not in json.dumps(told)
    assert told["token"] is None and "authorization" not in told["headers"]
    assert [told[name] for name in ("tag", "commit", "delete")] == ["401"] * 3
    if sys.platform == "linux" and (os.geteuid() or ORDINARY):
        assert told["parent"] == told["memory"] == "PermissionError"


def test_a_worker_has_no_token_that_may_write_and_yet_its_generation_is_published(ready: World, spy: Path) -> None:
    recipe = ready.write_recipe(merge={"method": "spy"})
    arguments = [*ORDINARY, *hub_fusion("run", "-r", recipe, "--work", ready.work, "--json")]
    environment = with_spy(ready, spy)
    done = subprocess.run(arguments, env=environment, cwd=ready.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["status"], said["generation"], said["revision"]) == ("published", 1, ready.tags()["gen-1"])
    assert ready.record(1).method == "spy"
    (told,) = seen(spy)
    if os.geteuid() == 0 and not ORDINARY:
        told["parent"] = "not asked"
    assert_blind(told, ready.tokens["acme"])
    assert done.stderr.count("a login is stored in") == 1 and "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_of_a_launch_are_blind_and_publish_the_same_bytes(
    ready: World, spy: Path, ready_store: Path
) -> None:
    """Rank 0 keeps the token from its worker, the others go on without it before they import anything heavy."""
    environment = with_spy(ready, spy) | {"ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--main_process_port", "0"]  # fmt: skip
    arguments = ["-r", str(ready.write_recipe(merge={"method": "spy"})), "--work", str(ready.work), "--json"]

    def run(command: list[str], environment: dict[str, str]) -> None:
        done = subprocess.run([*command, *arguments], env=environment, cwd=ready.folder, capture_output=True, text=True,
                              timeout=240)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout)["status"] == "published"

    run([*launch, *hub_fusion("run")[1:]], environment)
    assert sorted(told["rank"] for told in seen(spy)) == ["0", "1"]
    for told in seen(spy):  # the launcher's own environment is another matter
        assert_blind(told | dict.fromkeys(("parent", "memory"), "PermissionError"), ready.tokens["acme"])
    with opened(ready_store, ready.folder / "twin") as twin:
        arguments[3] = str(twin.work)
        run(hub_fusion("run"), with_spy(twin, spy))
        assert twin.record(1).weights == ready.record(1).weights


def running(world: World, *more: str) -> subprocess.Popen[str]:
    return world.start("watch", "-r", world.write_recipe(), "--work", world.work, "--interval", "0.2",
                       "--log-format", "json", *more)  # fmt: skip


def wait_for(process: subprocess.Popen[str], event: str) -> None:
    """Read the log up to an event."""
    assert process.stderr
    for line in process.stderr:
        if json.loads(line)["event"] == event:
            return
    raise AssertionError(f"the log ended before {event!r}")


def worker_of(process: subprocess.Popen[str]) -> int:
    """The keeper's only child."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    (pid,) = found.stdout.split()
    return int(pid)


def is_gone(pid: int) -> bool:
    """A zombie that nobody has waited for is gone too."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return not found or found.startswith("Z")


def assert_goes_on(world: World) -> None:
    """Nobody holds the folder, and the next round makes exactly one generation."""
    lock = FileLock(world.work / "lock")
    with lock.acquire(timeout=5):
        pass
    assert world.run().status in ("published", "waiting")
    assert set(world.tags()) == {"gen-0", "gen-1"} and [e.tag for e in world.index().entries] == ["gen-0", "gen-1"]


MOMENTS = ("look", "screen", *(pytest.param(m, marks=pytest.mark.slow) for m in ("fuse", "commit", "tag", "waiting")))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_ends_with_its_keeper(moment: str, ready: World) -> None:
    """kill -9 of the process that the user knows leaves no orphan, which would hold the folder and the memory."""
    process = running(ready)
    wait_for(process, moment)
    worker = worker_of(process)
    process.kill()
    process.communicate(timeout=20)  # ends when nobody holds the pipes any more
    assert process.returncode == -signal.SIGKILL and is_gone(worker)
    assert_goes_on(ready)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_keeper_ends_with_its_worker(moment: str, ready: World) -> None:
    """As when memory runs out: exit code 1 and a sentence, so that whoever started it starts it again."""
    process = running(ready)
    wait_for(process, moment)
    os.kill(worker_of(process), signal.SIGKILL)
    _, words = process.communicate(timeout=60)
    last = json.loads(words.splitlines()[-1])
    assert process.returncode == 1 and last["event"] == "error"
    assert "the worker was killed by SIGKILL" in last["text"] and "Traceback" not in words
    assert_goes_on(ready)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_to_the_keeper_ends_both_at_once(number: int, code: int, empty: World) -> None:
    """The words are the worker's, once, and so is the exit code."""
    process = running(empty)
    wait_for(process, "waiting")
    worker = worker_of(process)
    began = time.monotonic()
    process.send_signal(number)
    _, words = process.communicate(timeout=20)
    assert process.returncode == code and time.monotonic() - began < 10 and is_gone(worker)
    assert words.count("stopped by SIGTERM") == (number == signal.SIGTERM) and "Traceback" not in words, words


def test_a_run_that_is_terminated_dies_by_that_signal(ready: World) -> None:
    """As one process does."""
    process = ready.start("run", "-r", ready.write_recipe(), "--work", ready.work, "--log-format", "json")
    wait_for(process, "screen")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    assert_goes_on(ready)


def test_a_worker_takes_no_modules_from_the_current_folder(empty: World) -> None:
    """The command takes none either: whoever writes files beside the recipe must not run code by it."""
    (empty.folder / "yaml.py").write_text("raise SystemExit('shadowed')")
    command = [sys.executable, "-P", "-c", "from hub_fusion.cli import main; main()", "run", "--dry-run"]
    done = subprocess.run([*command, "-r", empty.write_recipe(), "--work", empty.work, "--json"], cwd=empty.folder,
                          env=empty.environment(), capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "waiting" and empty.tags() == {}


def test_a_private_base_needs_a_token_for_reading(ready: World) -> None:
    """The writing one is not lent; one in its place that may write as well is found out."""
    ready.maintainer.api.update_repo_settings(BASE, private=True)
    arguments = hub_fusion("run", "-r", ready.write_recipe(), "--work", ready.work)

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        environment = ready.environment() | more
        return subprocess.run(arguments, env=environment, cwd=ready.folder, capture_output=True, text=True, timeout=120)

    without = run()
    assert without.returncode == 1 and "set HUB_FUSION_READ_TOKEN to one that may read the base" in without.stderr
    store = ready.folder / "store"
    writes = add_user(store, "acme", role="fineGrained", permissions={BASE: ["repo.write"]})
    for token in (ready.tokens["acme"], writes):
        refused = run(HUB_FUSION_READ_TOKEN=token)
        assert refused.returncode == 1 and "the token in HUB_FUSION_READ_TOKEN may write" in refused.stderr
    assert ready.tags() == {}
    reads = add_user(store, "acme", role="fineGrained", permissions={BASE: ["repo.content.read"]})
    done = run(HUB_FUSION_READ_TOKEN=reads)
    assert done.returncode == 0 and "gen-1" in ready.tags(), done.stderr


def test_archive_pull_request_and_answers_go_through_the_keeper(ready: World) -> None:
    """What only some recipes ask for, in processes as users start them."""
    thread = ready.client("ann").api.create_discussion(BASE, title="hub-fusion: ann/finetune").num
    recipe = ready.write_recipe(archive={"keep": "all"}, publish={"mode": "pull-request", "hold_back": "P0D"})
    done = ready.command("watch", "--once", "-r", recipe, "--work", ready.work)
    assert done.returncode == 0, done.stderr
    hub = ready.maintainer
    assert len([c for c in hub.commits(f"{BASE}-archive") if c.title.startswith("Keep ")]) == len(AUTHORS)
    (pull,) = hub.api.get_repo_discussions(BASE, discussion_type="pull_request")
    comments = hub.api.get_discussion_details(BASE, thread).events
    assert any("is **queued**" in getattr(event, "content", "") for event in comments)
    hub.api.merge_pull_request(BASE, pull.num)
    again = ready.command("run", "-r", recipe, "--work", ready.work, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["status"] == "waiting"
    assert ready.tags()["gen-1"] == ready.tags()["stable"] == hub.branches(BASE)["main"]
