"""What is in a revision, without downloading it: trees, paths, sizes, hashes, last commits."""

import hashlib
import shutil
import subprocess

import pytest
from huggingface_hub.errors import EntryNotFoundError

from ..conftest import safetensors


def test_trees_tell_files_folders_and_last_commits(api, repo, push) -> None:
    """With git's hashes for small files, the sha256 for large ones, and page after page."""
    weights = safetensors(rows=3)
    push(repo, {f"many/{n:02}.txt": b"%d" % n for n in range(60)} | {"m.safetensors": weights}, "one")
    push(repo, {"many/00.txt": b"new"}, "two")
    items = {item.path: item for item in api.list_repo_tree(repo, recursive=True, expand=True)}
    assert len(items) == 63 and items["many/00.txt"].last_commit.title == "two"
    assert items["many/01.txt"].last_commit.title == "one" and items["many"].tree_id
    assert items[".gitattributes"].last_commit.title == "initial commit"
    assert items["many"].last_commit.title == "two"
    assert items["many/01.txt"].blob_id == "56a6051ca2b02b04ef92d5150c9ef600403cb1de"  # git hash-object of "1"
    assert items["many/01.txt"].lfs is None and items["many/01.txt"].size == 1
    lfs = items["m.safetensors"].lfs
    assert (lfs.size, lfs.sha256) == (len(weights), hashlib.sha256(weights).hexdigest())
    assert lfs.pointer_size == len(f"version https://git-lfs.github.com/spec/v1\noid sha256:{lfs.sha256}\nsize 104\n")
    top = sorted(item.path for item in api.list_repo_tree(repo))
    assert top == [".gitattributes", "m.safetensors", "many"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "no/folder"))


def test_paths_info_tells_of_those_that_exist(api, repo, push) -> None:
    """Folders too; at any revision; with last commits when asked."""
    push(repo, {"sub/a.txt": b"a", "m.safetensors": safetensors()}, "one")
    api.create_tag(repo, tag="v1")
    push(repo, {"sub/a.txt": b"b"}, "two")
    found = {item.path: item for item in api.get_paths_info(repo, ["sub", "no", "m.safetensors", "sub/a.txt"])}
    assert set(found) == {"sub", "m.safetensors", "sub/a.txt"} and found["sub"].tree_id
    (now,) = api.get_paths_info(repo, "sub/a.txt", expand=True)
    (then,) = api.get_paths_info(repo, ["sub/a.txt"], revision="v1", expand=True)
    assert (now.last_commit.title, then.last_commit.title) == ("two", "one") and now.blob_id != then.blob_id


def test_long_trees_come_in_pages(place, api, repo, push) -> None:
    """1,000 items a page, 50 with details; the client follows."""
    if place.live:
        pytest.skip("too much for somebody else's server")
    push(repo, {f"d/{n:04}.txt": b"x" for n in range(1100)}, num_threads=1)
    assert len(list(api.list_repo_tree(repo, recursive=True))) == 1102
    assert len(list(api.list_repo_tree(repo, "d", expand=True))) == 1100


def test_git_agrees_with_the_hashes_of_folders(api, repo, push, tmp_path) -> None:
    """Checked by git's own plumbing, with names that sort differently as files and folders."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    names = ["a/b.txt", "a.txt", "a-b/c.txt", "a/b/c.txt"]
    push(repo, {name: name.encode() for name in names})
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in names:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text(name)
    subprocess.run(["git", "-C", str(tmp_path), "add", "x"], check=True)
    tree = subprocess.run(
        ["git", "-C", str(tmp_path), "write-tree", "--prefix=x/a/"], check=True, capture_output=True, text=True
    ).stdout.strip()
    (folder,) = api.get_paths_info(repo, "a")
    assert folder.tree_id == tree


def test_details_tell_sizes_hashes_and_storage(api, repo, push) -> None:
    """What a plan needs to know before it downloads, at the head and at any revision."""
    weights = safetensors(rows=8)
    first = api.model_info(repo).sha
    push(repo, {"config.json": b'{"model_type": "bert"}', "model.safetensors": weights})
    info = api.model_info(repo, files_metadata=True, securityStatus=True)
    siblings = {s.rfilename: s for s in info.siblings}
    assert siblings["model.safetensors"].lfs.sha256 == hashlib.sha256(weights).hexdigest()
    assert siblings["config.json"].lfs is None and siblings["config.json"].size == 22
    assert siblings["config.json"].blob_id and info.security_repo_status is not None
    assert api.model_info(repo, expand=["usedStorage"]).used_storage >= len(weights)
    assert [s.rfilename for s in api.model_info(repo, revision=first).siblings] == [".gitattributes"]
