"""Commits and uploads: what was sent is what is served, all of it or nothing."""

import hashlib
import io
import secrets
import threading
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from .conftest import safetensors, send


def fetch(api: HfApi, repo: str, path: str, folder: Path, revision: str | None = None) -> bytes:
    """The content of a file, through the client's own download."""
    return Path(api.hf_hub_download(repo, path, revision=revision, cache_dir=folder)).read_bytes()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, where it PUTs a file
@pytest.mark.parametrize("size", [1, 100, 70_000, 300_000, 3_000_000])
@pytest.mark.parametrize("how", ["bytes", "path", "file object"])
def test_what_was_uploaded_is_what_is_downloaded(alice, repo, tmp_path, how, size) -> None:
    """Bytes and paths go through Xet, file objects through git-lfs: the client decides, both must hold."""
    content = (secrets.token_bytes(size // 2) + b"\0\1\2\3" * size)[:size]
    source = tmp_path / "source.bin"
    source.write_bytes(content)
    sent = {"bytes": content, "path": source, "file object": io.BytesIO(content)}[how]
    alice.upload_file(path_or_fileobj=sent, path_in_repo="model.bin", repo_id=repo)
    assert fetch(alice, repo, "model.bin", tmp_path) == content
    (info,) = alice.get_paths_info(repo, "model.bin")
    assert info.lfs.sha256 == hashlib.sha256(content).hexdigest() and info.size == size


def test_one_commit_carries_adds_deletes_and_copies(alice, repo, tmp_path) -> None:
    """A generation is one commit: readers see the old files or the new ones, never a mixture."""
    first, second = safetensors(1.0), safetensors(2.0)
    alice.create_commit(
        repo,
        [
            CommitOperationAdd("config.json", b"{}"),
            CommitOperationAdd("model.safetensors", first),
            CommitOperationAdd("old/a.txt", b"a"),
            CommitOperationAdd("old/b/c.txt", b"c"),
            CommitOperationAdd("gone.txt", b"gone"),
        ],
        commit_message="one",
        commit_description="why",
    )
    done = alice.create_commit(
        repo,
        [
            CommitOperationCopy("model.safetensors", "kept.safetensors"),
            CommitOperationCopy("config.json", "kept.json"),
            CommitOperationAdd("model.safetensors", second),
            CommitOperationDelete("gone.txt"),
            CommitOperationDelete("old/"),
        ],
        commit_message="two",
    )
    assert alice.list_repo_files(repo) == sorted(
        [".gitattributes", "config.json", "kept.json", "kept.safetensors", "model.safetensors"]
    )
    assert fetch(alice, repo, "kept.safetensors", tmp_path) == first
    assert fetch(alice, repo, "model.safetensors", tmp_path, done.oid) == second
    history = alice.list_repo_commits(repo)
    assert [(c.title, c.message) for c in history[:2]] == [("two", ""), ("one", "why")]
    assert len(done.oid) == 40 and alice.model_info(repo).sha == done.oid


def test_a_copy_from_another_repository_needs_the_right_to_read_it(alice, bob, repo, tmp_path) -> None:
    """Knowing the hash of a private file must not be enough to get it."""
    content = safetensors(3.0)
    alice.upload_file(path_or_fileobj=content, path_in_repo="m.safetensors", repo_id=repo)
    sha256 = hashlib.sha256(content).hexdigest()
    mine = bob.create_repo(f"bob/m-{secrets.token_hex(4)}").repo_id
    line = f'{{"key":"lfsFile","value":{{"path":"stolen","algo":"sha256","oid":"{sha256}","size":{len(content)}}}}}'
    body = ('{"key":"header","value":{"summary":"s"}}\n' + line).encode()
    answer = send(bob.endpoint, "POST", f"/api/models/{mine}/commit/main", body, token=bob.token)
    assert answer.status == 400 and bob.list_repo_files(mine) == [".gitattributes"]
    bob.upload_file(path_or_fileobj=content, path_in_repo="m.safetensors", repo_id=mine)
    assert fetch(bob, mine, "m.safetensors", tmp_path) == content


def test_upload_folder_sends_everything_and_nothing_twice(alice, repo, tmp_path) -> None:
    """The second upload of the same folder makes no commit: the server tells what is there already."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# hello\n")
    (folder / "sub" / "model.safetensors").write_bytes(safetensors(4.0))
    (folder / "empty.txt").write_bytes(b"")
    alice.upload_folder(repo_id=repo, folder_path=folder)
    head = alice.model_info(repo).sha
    assert alice.list_repo_files(repo) == [".gitattributes", "README.md", "empty.txt", "sub/model.safetensors"]
    alice.upload_folder(repo_id=repo, folder_path=folder)
    assert alice.model_info(repo).sha == head
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# changed\n")
    (folder / "empty.txt").unlink()
    alice.upload_folder(repo_id=repo, folder_path=folder, delete_patterns="empty.txt")
    assert alice.list_repo_files(repo) == [".gitattributes", "README.md", "sub/model.safetensors"]


def test_a_commit_on_a_stale_parent_is_refused_with_412(alice, repo) -> None:
    """`parent_commit` is the lock between two publishers."""
    parent = alice.model_info(repo).sha
    add = [CommitOperationAdd("a.txt", b"1")]
    alice.create_commit(repo, add, commit_message="first", parent_commit=parent[:7])
    with pytest.raises(HfHubHTTPError, match="The branch was updated") as caught:
        alice.create_commit(repo, [CommitOperationAdd("a.txt", b"2")], commit_message="2", parent_commit=parent)
    assert caught.value.response.status_code == 412


def test_of_many_commits_on_one_parent_exactly_one_wins(alice, repo, tmp_path) -> None:
    """Also when they arrive at the same moment; the others are told, and nothing of them is seen."""
    parent = alice.model_info(repo).sha
    outcome: list[object] = []
    start = threading.Barrier(6)

    def attempt(n: int) -> None:
        add = [CommitOperationAdd("a.txt", b"%d" % n)]
        start.wait()
        try:
            outcome.append((n, alice.create_commit(repo, add, commit_message=f"c{n}", parent_commit=parent).oid))
        except HfHubHTTPError as error:
            outcome.append(error.response.status_code)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [item for item in outcome if isinstance(item, tuple)]
    assert len(winners) == 1 and outcome.count(412) == 5
    ((n, oid),) = winners
    assert alice.model_info(repo).sha == oid and fetch(alice, repo, "a.txt", tmp_path) == b"%d" % n


def test_commits_without_a_parent_all_succeed_in_some_order(alice, repo) -> None:
    """Commits to one branch queue: none overwrites what another has just added."""
    threads = [
        threading.Thread(
            target=alice.create_commit,
            args=(repo, [CommitOperationAdd(f"f{n}.txt", b"x")]),
            kwargs={"commit_message": f"c{n}"},
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(alice.list_repo_commits(repo)) == 7
    assert alice.list_repo_files(repo) == [".gitattributes", *(f"f{n}.txt" for n in range(6))]


def test_deleting_what_is_not_there_changes_nothing(alice, repo) -> None:
    """One wrong operation refuses the whole commit."""
    with pytest.raises(EntryNotFoundError):
        alice.create_commit(
            repo,
            [CommitOperationAdd("a.txt", b"x"), CommitOperationDelete("no.txt")],
            commit_message="m",
        )
    assert alice.list_repo_files(repo) == [".gitattributes"]


def test_gitattributes_size_and_content_decide_what_is_large(alice, repo, raw) -> None:
    """Patterns of the repository first, then size, then bytes that are not text; empty files never."""
    alice.upload_file(
        path_or_fileobj=b"*.tensors filter=lfs diff=lfs merge=lfs -text\n", path_in_repo=".gitattributes", repo_id=repo
    )
    files = [
        {"path": "a.tensors", "size": 9, "sample": "YQ=="},
        {"path": "deep/in/a.tensors", "size": 9, "sample": "YQ=="},
        {"path": "a.safetensors", "size": 9, "sample": "YQ=="},
        {"path": "big.txt", "size": 11 * 2**20, "sample": "YQ=="},
        {"path": "binary.dat", "size": 9, "sample": "AAECAw=="},
        {"path": "empty.tensors", "size": 0, "sample": ""},
        {"path": "skip.me", "size": 1, "sample": "YQ=="},
    ]
    body = {"files": files, "gitIgnore": "*.me\n"}
    found = raw("POST", f"/api/models/{repo}/preupload/main", body, token=alice.token).json["files"]
    modes = ["lfs", "lfs", "regular", "lfs", "lfs", "regular", "regular"]
    assert [file["uploadMode"] for file in found] == modes
    assert [file["shouldIgnore"] for file in found] == [False] * 6 + [True]
