"""fsck finds every kind of damage, gc removes what is nobody's and nothing else."""

import hashlib
import io
import json
import secrets
import sqlite3
import threading
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from typer.testing import CliRunner

from hub_fusion.cli import app
from hub_fusion.local_hub import add_user, serve
from hub_fusion.local_hub.blobs import BlobStore
from hub_fusion.local_hub.collect import collect
from hub_fusion.local_hub.fsck import check

from .conftest import safetensors, send


@pytest.fixture
def own(tmp_path):
    """A Hub of the test's own, with one repository of three commits; (hub, api, repo)."""
    token = add_user(tmp_path / "hub", "alice")
    with serve(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=token)
        api.create_repo("alice/m")
        for n in range(2):
            add = [CommitOperationAdd("model.safetensors", safetensors(n)), CommitOperationAdd("a.txt", b"%d" % n)]
            api.create_commit("alice/m", add, commit_message=f"c{n}")
        yield hub, api, "alice/m"


def blob(hub, content: bytes) -> Path:
    """Where this content is kept."""
    sha256 = hashlib.sha256(content).hexdigest()
    return hub.root / "blobs" / sha256[:2] / sha256[2:]


def faults(hub) -> str:
    return "\n".join(check(hub.root).faults)


def test_a_healthy_folder_is_clean_while_it_is_served(own) -> None:
    """The proof may run beside the server."""
    hub, _, _ = own
    found = check(hub.root)
    assert found.clean and not found.notes
    assert (found.repos, found.commits, found.blobs) == (1, 3, 5)


def test_a_changed_cut_or_lost_blob_is_found(own) -> None:
    """A disk that forgets must not go unnoticed."""
    hub, _, _ = own
    path = blob(hub, safetensors(0))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert "has the content of" in faults(hub) and check(hub.root, contents=False).clean
    path.write_bytes(content[:-1])
    assert "the index says" in "\n".join(check(hub.root, contents=False).faults)
    path.unlink()
    assert "not there" in faults(hub)
    path.write_bytes(content)
    assert check(hub.root).clean


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE refs SET oid='0' WHERE name='refs/heads/main'", "leads to"),
        ("DELETE FROM commits WHERE title='c0'", "the parent"),
        ("UPDATE commits SET title='forged' WHERE title='c0'", "not the hash of what it says"),
        ("DELETE FROM trees WHERE id=(SELECT tree FROM repos)", "the tree"),
        ("UPDATE trees SET entries='[]' WHERE id=(SELECT tree FROM repos)", "not the hash of what it lists"),
        ("UPDATE trees SET entries='{' WHERE id=(SELECT tree FROM repos)", "cannot be read"),
        ("UPDATE repos SET head=(SELECT oid FROM commits WHERE title='c0')", "not the head of main"),
        ("DELETE FROM repo_blobs", "not among its repository's blobs"),
    ],
)
def test_damage_to_the_index_is_found(own, statement, found) -> None:
    """Each rule of the index, broken once."""
    hub, _, _ = own
    with sqlite3.connect(hub.root / "hub.sqlite3") as con:
        con.execute(statement)
    con.close()
    assert found in faults(hub)


def test_the_commands_tell_by_exit_code_and_json(own) -> None:
    """For a cron job and for a person."""
    hub, _, _ = own
    runner, root = CliRunner(), ["--root", str(hub.root)]
    done = runner.invoke(app, ["hub", "fsck", *root, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["clean"] is True
    blob(hub, b"1").write_bytes(b"2")
    done = runner.invoke(app, ["hub", "fsck", *root])
    assert done.exit_code == 1 and "has the content of" in done.stdout
    assert runner.invoke(app, ["hub", "fsck", *root, "--quick"]).exit_code == 0
    assert json.loads(runner.invoke(app, ["hub", "gc", *root, "--dry-run"]).stdout)["blobs"] == 0
    assert runner.invoke(app, ["hub", "gc", "--root", str(hub.root / "no")]).exit_code == 2


def test_gc_removes_what_a_deleted_repository_left_and_nothing_else(own, tmp_path) -> None:
    """Contents that another repository has too stay; what is young stays."""
    hub, api, repo = own
    api.create_repo("alice/other")
    shared, alone = safetensors(0), safetensors(9.0)
    for path, content in {"shared.safetensors": shared, "alone.safetensors": alone}.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="alice/other")
    api.delete_repo("alice/other")
    assert collect(hub.root).blobs == 0 and blob(hub, alone).exists()
    planned = collect(hub.root, grace_s=0, dry_run=True)
    assert planned.blobs == 1 and blob(hub, alone).exists()
    assert collect(hub.root, grace_s=0).blobs == 1
    assert not blob(hub, alone).exists() and blob(hub, shared).exists()
    old = api.list_repo_commits(repo)[1].commit_id
    found = api.hf_hub_download(repo, "model.safetensors", revision=old, cache_dir=tmp_path / "cache")
    assert Path(found).read_bytes() == shared and check(hub.root).clean


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, where it PUTs a file
def test_gc_removes_uploads_that_were_never_committed(own) -> None:
    """An interrupted push costs space only until the grace period is over."""
    hub, api, repo = own
    content = secrets.token_bytes(1000)
    operation = CommitOperationAdd("x.bin", io.BytesIO(content))
    api.preupload_lfs_files(repo, [operation])
    assert blob(hub, content).exists() and collect(hub.root).uploads == 0
    freed = collect(hub.root, grace_s=0)
    assert freed.uploads >= 1 and not blob(hub, content).exists()
    api.upload_file(path_or_fileobj=io.BytesIO(content), path_in_repo="x.bin", repo_id=repo)
    assert blob(hub, content).exists() and check(hub.root).clean


def test_gc_forgets_squashed_history_only_when_asked(own) -> None:
    """Somebody may have pinned a commit: it is the owner's choice."""
    hub, api, repo = own
    old = api.list_repo_commits(repo)[1].commit_id
    api.super_squash_history(repo)
    collect(hub.root, grace_s=0)
    assert api.model_info(repo, revision=old).sha == old
    freed = collect(hub.root, grace_s=0, history=True)
    assert freed.commits == 3 and freed.blobs == 2 and not api.revision_exists(repo, old)
    assert check(hub.root).clean and api.list_repo_files(repo) == [".gitattributes", "a.txt", "model.safetensors"]


def test_gc_removes_packs_of_chunks_and_clients_go_on(own) -> None:
    """The client remembers what it sent and would refer to it: after a sweep it is given another URL."""
    hub, api, repo = own
    content = secrets.token_bytes(300_000)
    api.upload_file(path_or_fileobj=content, path_in_repo="x.bin", repo_id=repo)
    collect(hub.root, grace_s=0)
    assert collect(hub.root, grace_s=0).xorbs > 0
    api.upload_file(path_or_fileobj=content + b"more", path_in_repo="y.bin", repo_id=repo)
    assert api.get_paths_info(repo, "y.bin")[0].size == 300_004 and check(hub.root).clean


def test_gc_beside_pushes_takes_nothing_from_them(own) -> None:
    """With no grace at all, the guard alone keeps what is being committed."""
    hub, api, repo = own
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            collect(hub.root, grace_s=0)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for n in range(30):  # contents go inline, so that no upload waits for its commit without a grace period
            body = [{"key": "header", "value": {"summary": f"s{n}"}}]
            body += [{"key": "file", "value": {"path": f"f{n % 3}/{i}.txt", "content": f"{n} {i}"}} for i in range(5)]
            lines = "\n".join(map(json.dumps, body)).encode()
            assert send(hub.url, "POST", f"/api/models/{repo}/commit/main", lines, token=api.token).status == 200
    finally:
        stop.set()
        sweeper.join()
    assert check(hub.root).clean


def test_left_overs_of_a_killed_process_go_and_files_in_the_making_stay(own) -> None:
    """Which is which is known by the writer's lock, not by age."""
    hub, _, _ = own
    (hub.root / "tmp" / "left").write_bytes(b"x" * 10)
    with BlobStore(hub.root / "blobs", hub.root / "tmp").writer() as writer:
        writer.write(b"growing")
        assert collect(hub.root, grace_s=0).left_overs == 0  # opening the store above removed the first already
        sha256, _ = writer.keep()
    assert sha256 == hashlib.sha256(b"growing").hexdigest() and not (hub.root / "tmp" / "left").exists()
