"""Large files are removed for good: from every commit, or leaving their pointers, and never another's."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError

from hub_fusion.local_hub.collect import collect
from hub_fusion.local_hub.fsck import check

from .conftest import safetensors


def push(api, repo, message="files", revision=None, **files: bytes) -> str:
    """Commit files, named with "_" for "."; returns the commit's oid."""
    add = [CommitOperationAdd(name.replace("_", "."), content) for name, content in files.items()]
    return api.create_commit(repo, add, commit_message=message, revision=revision).oid


@pytest.fixture
def history(alice, repo):
    """A repository with large files a to c on main, d on a branch and e in a pull request; {letter: LFSFileInfo}."""
    push(alice, repo, "one", a_bin=b"\0a", b_bin=b"\0b", t_txt=b"t")
    alice.create_tag(repo, tag="v1", tag_message="first")
    push(alice, repo, "two", c_bin=b"\0c", b_bin=b"\0b2")
    alice.create_branch(repo, branch="dev")
    push(alice, repo, "three", revision="dev", d_bin=b"\0d")
    alice.create_commit(repo, [CommitOperationAdd("e.bin", b"\0e")], commit_message="four", create_pr=True)
    found = list(alice.list_lfs_files(repo))
    return {file.filename[0] if file.size == 2 else file.filename[0] + "2": file for file in found}


def test_every_large_file_of_all_history_is_listed_once_with_its_ref(alice, bob, repo, history) -> None:
    """Storage is used by what older commits hold, too; where it is tells what would break."""
    where = {name: (file.filename, file.ref) for name, file in history.items()}
    assert where == {
        "a": ("a.bin", "refs/heads/main"),
        "b": ("b.bin", "refs/heads/main"),
        "b2": ("b.bin", "refs/heads/main"),
        "c": ("c.bin", "refs/heads/main"),
        "d": ("d.bin", "refs/heads/dev"),
        "e": ("e.bin", "refs/pr/1"),
    }
    assert history["a"].pushed_at <= history["c"].pushed_at <= history["e"].pushed_at
    alice.super_squash_history(repo)
    squashed = {file.oid: file.ref for file in alice.list_lfs_files(repo)}
    assert squashed[history["b"].oid] in ("refs/heads/dev", "refs/pr/1", "refs/tags/v1") and len(squashed) == 6
    with pytest.raises(HfHubHTTPError):
        list(bob.list_lfs_files(repo))


def test_rewriting_takes_a_file_out_of_every_commit(alice, hub, repo, history, tmp_path) -> None:
    """Titles, dates, order, tags, branches and the pull request stay; commits that held it get new names."""
    before = alice.list_repo_commits(repo)
    used = alice.model_info(repo, expand=["usedStorage"]).used_storage
    alice.permanently_delete_lfs_files(repo, [history["b"], history["c"]])
    after = alice.list_repo_commits(repo)
    told = [(c.title, c.created_at, c.authors) for c in before]
    assert [(c.title, c.created_at, c.authors) for c in after] == told
    assert after[-1].commit_id == before[-1].commit_id and after[0].commit_id != before[0].commit_id
    files = [".gitattributes", "a.bin", "b.bin", "t.txt"]
    assert alice.list_repo_files(repo) == files
    assert alice.list_repo_files(repo, revision="v1") == [".gitattributes", "a.bin", "t.txt"]
    assert alice.list_repo_files(repo, revision="dev") == [*files[:3], "d.bin", "t.txt"]
    details = alice.get_discussion_details(repo, 1)
    assert "e.bin" in details.diff and details.conflicting_files == []
    assert alice.list_repo_commits(repo, revision="refs/pr/1")[0].commit_id in str(details.events)
    with pytest.raises(RevisionNotFoundError):
        alice.model_info(repo, revision=before[0].commit_id)
    assert {file.oid for file in alice.list_lfs_files(repo)} == {history[name].oid for name in ("a", "b2", "d", "e")}
    assert alice.model_info(repo, expand=["usedStorage"]).used_storage == used - 4
    with pytest.raises(EntryNotFoundError):
        alice.hf_hub_download(repo, "c.bin", cache_dir=tmp_path)
    alice.merge_pull_request(repo, 1)
    assert alice.file_exists(repo, "e.bin")
    assert check(hub.root).clean


def test_without_rewriting_the_pointers_stay_and_the_content_is_gone(alice, hub, repo, history, tmp_path) -> None:
    """Commits keep their names; the file is listed, cannot be read, and may be sent again."""
    head = alice.model_info(repo).sha
    alice.permanently_delete_lfs_files(repo, [history["a"]], rewrite_history=False)
    assert alice.model_info(repo).sha == head and "a.bin" in alice.list_repo_files(repo)
    with pytest.raises(EntryNotFoundError):
        alice.hf_hub_download(repo, "a.bin", cache_dir=tmp_path)
    assert history["a"].oid not in {file.oid for file in alice.list_lfs_files(repo)}
    push(alice, repo, t_txt=b"later commits go on")
    assert check(hub.root).clean
    push(alice, repo, a_bin=b"\0a")
    assert Path(alice.hf_hub_download(repo, "a.bin", cache_dir=tmp_path)).read_bytes() == b"\0a"
    assert check(hub.root).clean


@pytest.mark.parametrize("rewrite", [True, False])
def test_gc_frees_what_was_removed_unless_another_repository_has_it(alice, hub, repo, rewrite) -> None:
    """Contents are shared on disk, not between repositories; new commits do not trip over what is gone."""
    other = alice.create_repo(f"{repo}-other").repo_id
    weights = [safetensors(fill, rows=5, name=f"{repo}{rewrite}") for fill in (1.0, 2.0)]
    push(alice, repo, model_safetensors=weights[0], b_safetensors=weights[1])
    push(alice, other, b_safetensors=weights[1])
    alice.permanently_delete_lfs_files(repo, alice.list_lfs_files(repo), rewrite_history=rewrite)
    collect(hub.root, grace_s=0)
    left = [file.filename for file in alice.list_lfs_files(other)]
    assert left == ["b.safetensors"] and alice.file_exists(other, "b.safetensors")
    assert not alice.file_exists(repo, "b.safetensors") and not alice.file_exists(repo, "model.safetensors")
    assert check(hub.root).clean
    push(alice, repo, t_txt=b"t")
    assert alice.model_info(repo).sha and check(hub.root).clean


def test_only_who_may_write_removes_and_a_wrong_request_removes_nothing(alice, bob, nobody, raw, repo, history) -> None:
    """It cannot be undone."""
    for api in (bob, nobody):
        with pytest.raises(HfHubHTTPError):
            api.permanently_delete_lfs_files(repo, [history["a"]])
    oid = history["a"].oid
    for wrong in ({}, [], {"sha": oid}, {"sha": ["x"]}, {"sha": [oid], "rewriteHistory": "no"}, {"sha": [None]}):
        answer = raw("POST", f"/api/models/{repo}/lfs-files/batch", {"deletions": wrong}, token=alice.token)
        assert answer.status == 400
    with pytest.raises(BadRequestError):
        alice.permanently_delete_lfs_files(repo, [type("File", (), {"file_oid": "../x"})()])
    history["a"].file_oid = "0" * 64
    alice.permanently_delete_lfs_files(repo, [history["a"]])
    assert len(list(alice.list_lfs_files(repo))) == 6
