"""What was acknowledged is still there after a stop, a kill, or in another process."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hub_fusion.local_hub import add_user, serve
from hub_fusion.local_hub.db import SCHEMA

from .conftest import PROJECT, safetensors


@pytest.fixture
def process(tmp_path: Path) -> Iterator:
    """Start a foreground server on `tmp_path/hub`; returns (process, url)."""
    started = []

    def start() -> tuple[subprocess.Popen, str]:
        script = "import sys; from pathlib import Path; from hub_fusion.local_hub import run; run(Path(sys.argv[1]))"
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        server = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "hub")], env=env, stdout=subprocess.PIPE, text=True
        )
        started.append(server)
        return server, server.stdout.readline().strip()

    yield start
    for server in started:
        server.kill()
        server.wait()
        server.stdout.close()


def test_a_restart_on_the_same_folder_serves_the_same(tmp_path) -> None:
    """Refs, files, tokens, counts: nothing lives in the process alone."""
    root = tmp_path / "hub"
    token = add_user(root, "alice")
    content = safetensors()
    with serve(root) as hub:
        api = HfApi(endpoint=hub.url, token=token)
        api.create_repo("alice/m")
        api.upload_file(path_or_fileobj=content, path_in_repo="model.safetensors", repo_id="alice/m")
        api.create_tag("alice/m", tag="v1")
        api.hf_hub_download("alice/m", "model.safetensors", cache_dir=tmp_path / "a")
        before = (api.model_info("alice/m").sha, api.list_repo_files("alice/m"))
    hub.stop()
    with serve(root) as hub:
        api = HfApi(endpoint=hub.url, token=token)
        assert (api.model_info("alice/m", revision="v1").sha, api.list_repo_files("alice/m")) == before
        path = api.hf_hub_download("alice/m", "model.safetensors", cache_dir=tmp_path / "b")
        assert Path(path).read_bytes() == content and api.model_info("alice/m").downloads == 2


WRITER = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi(endpoint=sys.argv[1], token=sys.argv[2])
for n in range(10_000):
    add = [CommitOperationAdd("model.bin", b"%09d" % n * 300), CommitOperationAdd("n.txt", b"%d" % n)]
    print(n, api.create_commit("alice/m", add, commit_message=f"c{n}").oid, flush=True)
"""


def test_no_acknowledged_commit_is_lost_to_a_kill(tmp_path, process) -> None:
    """kill -9 in the middle of a stream of commits: each one that was answered is there, whole, and the rest is not."""
    token = add_user(tmp_path / "hub", "alice")
    server, url = process()
    HfApi(endpoint=url, token=token).create_repo("alice/m")
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, token],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines = [writer.stdout.readline() for _ in range(20)]
    server.kill()
    server.wait()
    writer.kill()
    lines += writer.communicate()[0].splitlines()
    acknowledged = [(int(n), oid) for n, oid in (line.split() for line in lines if len(line.split()) == 2)]
    _, url = process()
    api = HfApi(endpoint=url, token=token)
    oids = [c.commit_id for c in api.list_repo_commits("alice/m")]
    assert len(acknowledged) >= 20 and {oid for _, oid in acknowledged} <= set(oids)
    assert len(oids) <= len(acknowledged) + 2
    for n, oid in acknowledged[-3:]:
        path = api.hf_hub_download("alice/m", "model.bin", revision=oid, cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == b"%09d" % n * 300
    for blob in (tmp_path / "hub" / "blobs").glob("*/*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.parent.name + blob.name
    con = sqlite3.connect(tmp_path / "hub" / "hub.sqlite3")
    assert con.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    con.close()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_foreground_server_stops_cleanly_on_a_signal(tmp_path, process, sent) -> None:
    """A service manager sends SIGTERM, a person Ctrl-C; neither should see a traceback or wait."""
    server, url = process()
    assert url.startswith("http://127.0.0.1:")
    assert list(HfApi(endpoint=url, token=False).list_models(author="alice")) == []
    server.send_signal(sent)
    assert server.wait(timeout=10) == 0


def test_users_are_added_from_another_process_while_the_server_runs(hub, python) -> None:
    """The command line adds users beside a running server; only hashes of tokens reach the disk."""
    script = (
        f"from hub_fusion.local_hub import *; from pathlib import *; print(add_user(Path({str(hub.root)!r}), 'dora'))"
    )
    token = python(script)
    assert HfApi(endpoint=hub.url, token=token).whoami()["name"] == "dora"
    files = list(hub.root.glob("hub.sqlite3*"))
    assert files and not any(token.encode() in path.read_bytes() for path in files)


def test_uploads_that_were_refused_leave_no_scratch_files(hub, raw, alice, repo) -> None:
    """A disk must not fill with what nobody can read."""
    body = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 5}]}
    batch = raw("POST", f"/{repo}.git/info/lfs/objects/batch", body, token=alice.token).json
    url = batch["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.url)
    assert raw("PUT", url, b"wrong").status == 400
    assert list((hub.root / "tmp").iterdir()) == []


def test_importing_the_package_imports_no_web_framework(python) -> None:
    """Other commands must not wait for a server they do not start."""
    script = "import sys, hub_fusion.local_hub; print({'starlette', 'uvicorn', 'torch', 'lz4'} & set(sys.modules))"
    assert python(script) == "set()"


def test_a_folder_of_an_older_version_is_brought_up_to_date(tmp_path) -> None:
    """Who upgrades keeps users and repositories; a folder of a newer version is refused, not guessed at."""
    con = sqlite3.connect(tmp_path / "hub.sqlite3")
    con.executescript(SCHEMA)
    con.execute("INSERT INTO accounts VALUES (1, 'aa', 'alice', 'alice', 'user', 0)")
    con.execute("INSERT INTO tokens VALUES (?, 1, 'write', 0)", (hashlib.sha256(b"hf_old").hexdigest(),))
    con.commit()
    con.close()
    add_user(tmp_path, "bob")
    with serve(tmp_path) as hub:
        api = HfApi(endpoint=hub.url, token="hf_old")
        api.create_repo("alice/m")
        api.upload_file(path_or_fileobj=safetensors(), path_in_repo="model.safetensors", repo_id="alice/m")
    con = sqlite3.connect(tmp_path / "hub.sqlite3")
    con.execute("PRAGMA user_version=1000")
    con.close()
    with pytest.raises(RuntimeError, match="version 1000"):
        add_user(tmp_path, "alice")
