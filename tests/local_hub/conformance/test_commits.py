"""Commits: all of one or nothing, on the parent that it names."""

import base64
import json
import threading
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from ..conftest import safetensors
from .conftest import status_of


def test_one_commit_adds_copies_and_deletes(api, repo, push, tmp_path) -> None:
    """Readers see the old files or the new ones: large, small, single ones and folders, named with a slash or not."""
    first, second = safetensors(1.0), safetensors(2.0)
    start = {
        "config.json": b"{}",
        "m.safetensors": first,
        "gone.txt": b"g",
        "old/x.txt": b"x",
        "old/y/z.txt": b"z",
        "past/x": b"x",
    }
    parent = push(repo, start, "one", commit_description="first")
    operations = [
        CommitOperationAdd("m.safetensors", second),
        CommitOperationCopy("m.safetensors", "kept.safetensors"),
        CommitOperationCopy("config.json", "kept.json"),
        CommitOperationDelete("gone.txt"),
        CommitOperationDelete("old/"),
        CommitOperationDelete("past"),
    ]
    done = api.create_commit(repo, operations, commit_message="two", commit_description="why", parent_commit=parent)
    expected = [".gitattributes", "config.json", "kept.json", "kept.safetensors", "m.safetensors"]
    assert api.list_repo_files(repo) == expected and api.model_info(repo).sha == done.oid
    for path, content in {"kept.safetensors": first, "m.safetensors": second, "kept.json": b"{}"}.items():
        assert Path(api.hf_hub_download(repo, path, cache_dir=tmp_path)).read_bytes() == content
    history = api.list_repo_commits(repo)
    assert [(c.commit_id, c.title, c.message) for c in history[:2]] == [
        (done.oid, "two", "why"),
        (parent, "one", "first"),
    ]


def test_deleting_what_is_not_there_changes_nothing(api, repo) -> None:
    """One wrong operation refuses the whole commit."""
    operations = [CommitOperationAdd("a.txt", b"x"), CommitOperationDelete("no.txt")]
    with pytest.raises(EntryNotFoundError):
        api.create_commit(repo, operations, commit_message="m")
    assert api.list_repo_files(repo) == [".gitattributes"]


def test_a_commit_on_a_stale_parent_is_refused_with_412(api, repo, push) -> None:
    """`parent_commit` is the lock between two publishers."""
    parent = api.model_info(repo).sha
    push(repo, {"a.txt": b"1"}, parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="since you opened this page") as caught:
        push(repo, {"a.txt": b"2"}, parent_commit=parent)
    assert caught.value.response.status_code == 412


def test_of_many_commits_on_one_parent_exactly_one_wins(api, repo, push, tmp_path) -> None:
    """Also when they arrive at the same moment; the others are told, and nothing of them is seen."""
    parent = api.model_info(repo).sha
    outcome: list[object] = []
    start = threading.Barrier(6)

    def attempt(n: int) -> None:
        start.wait()
        try:
            outcome.append((n, push(repo, {"a.txt": b"%d" % n}, f"c{n}", parent_commit=parent)))
        except HfHubHTTPError as error:
            outcome.append(error.response.status_code)

    _together([threading.Thread(target=attempt, args=(n,)) for n in range(6)])
    winners = [item for item in outcome if isinstance(item, tuple)]
    assert len(winners) == 1 and outcome.count(412) == 5
    ((n, oid),) = winners
    assert api.model_info(repo).sha == oid
    assert Path(api.hf_hub_download(repo, "a.txt", cache_dir=tmp_path)).read_bytes() == b"%d" % n


def test_commits_without_a_parent_all_succeed_in_some_order(api, repo, push) -> None:
    """Commits to one branch queue: none overwrites what another has just added."""
    _together([threading.Thread(target=push, args=(repo, {f"f{n}.txt": b"x"}, f"c{n}")) for n in range(6)])
    assert len(api.list_repo_commits(repo)) == 7
    assert api.list_repo_files(repo) == [".gitattributes", *(f"f{n}.txt" for n in range(6))]


def test_clients_that_begin_again_at_412_all_get_through(api, repo, push) -> None:
    """Of commits at one moment none is lost."""

    def work(n: int) -> None:
        for step in range(2):
            while True:
                try:
                    push(repo, {f"{n}-{step}.txt": b"x"}, parent_commit=api.model_info(repo).sha)
                    break
                except HfHubHTTPError as error:
                    if error.response.status_code != 412:
                        failures.append(error)
                        return

    failures: list[Exception] = []
    _together([threading.Thread(target=work, args=(n,)) for n in range(4)])
    assert failures == [] and len(api.list_repo_commits(repo)) == 9 and len(api.list_repo_files(repo)) == 9


def test_upload_folder_sends_everything_and_nothing_twice(api, repo, push, tmp_path) -> None:
    """The second upload of the same folder makes no commit: the server tells what is there already."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# hello\n")
    (folder / "sub" / "model.safetensors").write_bytes(safetensors(4.0))
    (folder / "empty.txt").write_bytes(b"")
    api.upload_folder(repo_id=repo, folder_path=folder)
    head = api.model_info(repo).sha
    assert api.list_repo_files(repo) == [".gitattributes", "README.md", "empty.txt", "sub/model.safetensors"]
    api.upload_folder(repo_id=repo, folder_path=folder)
    assert push(repo, {"sub/model.safetensors": safetensors(4.0)}) == head == api.model_info(repo).sha
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# changed\n")
    (folder / "empty.txt").unlink()
    api.upload_folder(repo_id=repo, folder_path=folder, delete_patterns="empty.txt")
    assert api.list_repo_files(repo) == [".gitattributes", "README.md", "sub/model.safetensors"]
    api.delete_folder("sub", repo_id=repo)
    api.delete_file("README.md", repo_id=repo)
    assert api.list_repo_files(repo) == [".gitattributes"]


def test_files_are_copied_between_repositories(api, new_repo, push, tmp_path) -> None:
    """Large ones by reference, small ones by content."""
    source, target = new_repo(), new_repo()
    push(source, {"m.safetensors": safetensors(7.0), "a.txt": b"a"})
    copies = [
        CommitOperationCopy(path, f"copied-{path}", src_repo_id=source, src_repo_type="model")
        for path in ("m.safetensors", "a.txt")
    ]
    api.create_commit(target, copies, commit_message="copies")
    for path, content in {"copied-m.safetensors": safetensors(7.0), "copied-a.txt": b"a"}.items():
        assert Path(api.hf_hub_download(target, path, cache_dir=tmp_path)).read_bytes() == content


def test_gitattributes_and_size_decide_what_is_large(api, repo, push, wire) -> None:
    """Patterns of the repository first, then size; empty files never; and .gitignore says what to leave out."""
    push(repo, {".gitattributes": b"*.tensors filter=lfs diff=lfs merge=lfs -text\n"})
    sample = base64.b64encode(b"a").decode()
    files = [
        {"path": "a.tensors", "size": 9, "sample": sample},
        {"path": "deep/in/a.tensors", "size": 9, "sample": sample},
        {"path": "a.txt", "size": 9, "sample": sample},
        {"path": "big.txt", "size": 11 * 2**20, "sample": sample},
        {"path": "skip.me", "size": 1, "sample": sample},
    ]
    body = {"files": files, "gitIgnore": "*.me\n"}
    found = wire("POST", f"/api/models/{repo}/preupload/main", body).json["files"]
    assert [file["uploadMode"] for file in found[:4]] == ["lfs", "lfs", "regular", "lfs"]
    assert [file["shouldIgnore"] for file in found] == [False] * 4 + [True]


@pytest.mark.parametrize("path", ["../a.txt", "a/../../b.txt", "/a.txt", ".git/config", ""])
def test_a_path_that_leads_elsewhere_is_refused(repo, wire, api, path) -> None:
    """The client would not send it; the commit is refused whole."""
    lines = [
        {"key": "header", "value": {"summary": "s"}},
        {"key": "file", "value": {"path": path, "content": base64.b64encode(b"x").decode(), "encoding": "base64"}},
    ]
    body = "\n".join(map(json.dumps, lines)).encode()
    answer = wire("POST", f"/api/models/{repo}/commit/main", body, Content_Type="application/x-ndjson")
    assert answer.status in (400, 422) and api.list_repo_files(repo) == [".gitattributes"]


def test_a_commit_goes_to_branches_only(api, repo, push) -> None:
    """A tag and a commit's hash stay what they are."""
    oid = push(repo, {"a.txt": b"1"})
    api.create_tag(repo, tag="v1")
    for revision in ("v1", oid, "no-such-branch"):
        assert status_of(lambda revision=revision: push(repo, {"a.txt": b"2"}, revision=revision)) in (400, 403, 404)
    assert api.model_info(repo).sha == oid


def _together(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
