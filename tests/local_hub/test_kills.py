"""kill -9 at random moments while real clients push: nothing acknowledged is lost, nothing half-done is seen."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hub_fusion.local_hub import add_user
from hub_fusion.local_hub.fsck import check

from .conftest import PROJECT

SERVE = """
import sys
from pathlib import Path
from hub_fusion.local_hub import run
run(Path(sys.argv[1]), port=int(sys.argv[2]))
"""

# Every way in which content travels: inline, git-lfs (file objects), Xet (bytes). A commit that fails is made anew.
PUSH = """
import hashlib, io, json, os, sys, warnings
warnings.simplefilter("ignore")
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi(endpoint=sys.argv[1], token=sys.argv[2])
n = 0
while True:
    n += 1
    small, lfs, xet = b"%d" % n, os.urandom(200_000), os.urandom(200_000)
    files = {f"{sys.argv[3]}.txt": small, f"{sys.argv[3]}-{n % 3}.bin": lfs, f"{sys.argv[3]}.safetensors": xet}
    add = [CommitOperationAdd(path, io.BytesIO(raw) if raw is lfs else raw) for path, raw in files.items()]
    try:
        oid = api.create_commit("alice/m", add, commit_message=f"c{n}").oid
    except Exception:
        continue
    print(json.dumps([oid, {path: hashlib.sha256(raw).hexdigest() for path, raw in files.items()}]), flush=True)
"""


class Killable:
    """A server on one folder and one port, started again after every kill."""

    def __init__(self, root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.root, self.url = root, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-c", SERVE, str(self.root), str(self.port)]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline().strip() == self.url

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[Killable]:
    """A server not yet started."""
    server = Killable(tmp_path / "hub")
    yield server
    server.kill()


def kill_and_check(server: Killable, tmp_path: Path, kills: int) -> int:
    """Kill the server `kills` times under load; returns the number of commits that were acknowledged."""
    rng = random.Random(kills)
    token = add_user(server.root, "alice")
    server.start()
    HfApi(endpoint=server.url, token=token).create_repo("alice/m")
    env = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    logs = [tmp_path / f"acknowledged-{n}" for n in range(2)]
    pushers = []
    for n, log in enumerate(logs):
        command = [sys.executable, "-c", PUSH, server.url, token, f"w{n}"]
        with log.open("w") as out:
            home = {"HF_HOME": str(tmp_path / f"home-{n}")}
            pushers.append(subprocess.Popen(command, env=env | home, stdout=out, stderr=subprocess.DEVNULL))
    try:
        deadline = time.monotonic() + 60
        while not all(log.stat().st_size for log in logs) and time.monotonic() < deadline:
            time.sleep(0.05)
        for n in range(kills):
            time.sleep(rng.uniform(0.0, 0.6))
            server.kill()
            found = check(server.root, contents=n % 20 == 0)
            assert found.clean, (n, found.faults)
            server.start()
    finally:
        for pusher in pushers:
            pusher.kill()
            pusher.wait()
    server.kill()
    found = check(server.root)
    assert found.clean, found.faults
    server.start()
    api = HfApi(endpoint=server.url, token=token)
    present = {commit.commit_id for commit in api.list_repo_commits("alice/m")}
    acknowledged = [json.loads(line) for log in logs for line in log.read_text().splitlines() if line.endswith("]")]
    assert {oid for oid, _ in acknowledged} <= present
    for oid, files in acknowledged[:: max(1, len(acknowledged) // 50)]:
        shown = {item.path: item for item in api.get_paths_info("alice/m", list(files), revision=oid)}
        assert {p: shown[p].lfs.sha256 for p in files if p.endswith(("bin", "safetensors"))} == {
            p: sha256 for p, sha256 in files.items() if not p.endswith("txt")
        }
    return len(acknowledged)


def test_kills_during_pushes_lose_nothing(killable, tmp_path) -> None:
    """The short form of the proof below."""
    assert kill_and_check(killable, tmp_path, 6) >= 2


@pytest.mark.slow
def test_two_hundred_kills_during_pushes_lose_nothing(killable, tmp_path) -> None:
    """About two minutes; fsck is clean after each kill, and every acknowledged commit is there at the end."""
    assert kill_and_check(killable, tmp_path, 200) >= 100
