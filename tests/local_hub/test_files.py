"""Reading: downloads, caches, ranges, trees, metadata."""

import secrets
import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import _CACHED_NO_EXIST

from .conftest import safetensors


@pytest.fixture
def full(alice: HfApi, repo: str) -> str:
    """A repository with a config, weights and a folder, tagged v1."""
    alice.create_commit(
        repo,
        [
            CommitOperationAdd("config.json", b'{"model_type": "bert"}'),
            CommitOperationAdd("model.safetensors", safetensors(rows=8)),
            CommitOperationAdd("sub/deep/a ü%2F#?.txt", b"odd name"),
        ],
        commit_message="files",
    )
    alice.create_tag(repo, tag="v1")
    return repo


def test_a_cached_file_is_not_fetched_again(alice, full, tmp_path, hub) -> None:
    """With a tag one HEAD confirms it; the ETag must stay the same."""
    first = alice.hf_hub_download(full, "model.safetensors", revision="v1", cache_dir=tmp_path)
    before = alice.model_info(full).downloads
    assert alice.hf_hub_download(full, "model.safetensors", revision="v1", cache_dir=tmp_path) == first
    assert alice.model_info(full).downloads == before == 1


def test_a_missing_file_repository_and_revision_are_three_errors(alice, full, tmp_path) -> None:
    """The client tells them apart by the code alone; a missing file is remembered."""
    with pytest.raises(EntryNotFoundError):
        alice.hf_hub_download(full, "no.txt", cache_dir=tmp_path)
    assert try_to_load_from_cache(full, "no.txt", cache_dir=tmp_path) is _CACHED_NO_EXIST
    with pytest.raises(RevisionNotFoundError):
        alice.hf_hub_download(full, "config.json", revision="no", cache_dir=tmp_path)
    for name in ("alice/no", "nobody/no", "bare-name"):
        with pytest.raises(RepositoryNotFoundError):
            alice.hf_hub_download(name, "config.json", cache_dir=tmp_path)
        with pytest.raises(RepositoryNotFoundError):
            alice.model_info(name)
    assert alice.file_exists(full, "config.json") and not alice.file_exists(full, "no.txt")


def test_a_snapshot_holds_every_file_of_its_revision(alice, full, tmp_path, hub) -> None:
    """Names with spaces, percent signs and letters beyond ASCII come back as they went up."""
    alice.upload_file(path_or_fileobj=b"later", path_in_repo="later.txt", repo_id=full)
    folder = snapshot_download(full, revision="v1", endpoint=hub.url, token=alice.token, cache_dir=tmp_path)
    found = sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
    assert found == [".gitattributes", "config.json", "model.safetensors", "sub/deep/a ü%2F#?.txt"]
    assert (Path(folder) / "sub/deep/a ü%2F#?.txt").read_text() == "odd name"


def test_safetensors_headers_are_read_by_range(alice, full) -> None:
    """Names, shapes and dtypes without the weights; the info route has the counts."""
    assert alice.get_safetensors_metadata(full).parameter_count == {"F32": 32}
    assert alice.model_info(full).safetensors.total == 32


def test_all_shard_headers_come_in_one_answer(alice, repo) -> None:
    """`get_sharded_safetensors_metadata` makes one call for any number of shards."""
    index = b'{"metadata": {"total_size": 64}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}'
    alice.create_commit(
        repo,
        [
            CommitOperationAdd("model.safetensors.index.json", index),
            CommitOperationAdd("m-1.safetensors", safetensors(name="a")),
            CommitOperationAdd("m-2.safetensors", safetensors(name="b", rows=3)),
        ],
        commit_message="shards",
    )
    found = alice.get_sharded_safetensors_metadata(repo, filename="model.safetensors.index.json")
    assert found.weight_map == {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    assert found.parameter_count == {"F32": 20} and alice.model_info(repo).safetensors.total == 20


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=0-99999999", 206, slice(0, None)),
        ("bytes=5-2", 200, slice(None)),
        ("bytes=0-1,4-5", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=99999999-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_ranges_follow_the_http_rules(raw, full, asked, status, expected) -> None:
    """Headers of weights are read this way; a range that is not understood gives the whole file."""
    content = safetensors(rows=8)
    answer = raw("GET", f"/{full}/resolve/v1/model.safetensors", Range=asked)
    assert answer.status == status
    if expected is None:
        assert answer.headers["content-range"] == f"bytes */{len(content)}"
    else:
        assert answer.body == content[expected]
        assert int(answer.headers["content-length"]) == len(answer.body)
    if status == 206:
        start = range(len(content))[expected].start
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.body) - 1}/{len(content)}"


def test_a_file_of_many_pieces_streams_whole_and_by_range(alice, raw, repo) -> None:
    """Large files are never held in memory; the pieces must join without a seam."""
    content = secrets.token_bytes(3 * 2**20 + 17)
    alice.upload_file(path_or_fileobj=content, path_in_repo="big.bin", repo_id=repo)
    assert raw("GET", f"/{repo}/resolve/main/big.bin").body == content
    assert raw("GET", f"/{repo}/resolve/main/big.bin", Range="bytes=1048575-2097153").body == content[1048575:2097154]


def test_head_tells_what_get_would_send(raw, full) -> None:
    """ETag, size and commit are all the client needs to know that its copy is good."""
    head = raw("HEAD", f"/{full}/resolve/v1/model.safetensors")
    get = raw("GET", f"/{full}/resolve/v1/model.safetensors")
    for name in ("etag", "content-length", "x-repo-commit", "x-linked-etag", "x-linked-size", "accept-ranges"):
        assert head.headers[name] == get.headers[name]
    assert head.body == b"" and len(head.headers["x-repo-commit"]) == 40
    again = raw("GET", f"/{full}/resolve/v1/model.safetensors", If_None_Match=get.headers["etag"])
    assert again.status == 304 and again.body == b""
    regular = raw("HEAD", f"/{full}/resolve/v1/config.json")
    assert "x-linked-etag" not in regular.headers and len(regular.headers["etag"]) == 42


def test_the_tree_shows_folders_hashes_and_who_changed_what(alice, full) -> None:
    """Git's own hashes for regular files, the sha256 for large ones."""
    alice.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=full, commit_message="newer")
    items = {item.path: item for item in alice.list_repo_tree(full, recursive=True, expand=True)}
    assert items["sub/deep"].tree_id and items["sub"].last_commit.title == "files"
    assert items["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    assert items["config.json"].last_commit.title == "newer"
    assert items["model.safetensors"].last_commit.title == "files"
    assert items[".gitattributes"].last_commit.title == "initial commit"
    top = [item.path for item in alice.list_repo_tree(full)]
    assert top == [".gitattributes", "config.json", "model.safetensors", "sub"]
    assert [item.path for item in alice.list_repo_tree(full, "sub")] == ["sub/deep"]
    with pytest.raises(EntryNotFoundError):
        list(alice.list_repo_tree(full, "no/folder"))
    assert [item.path for item in alice.get_paths_info(full, ["sub", "no", "config.json"])] == ["sub", "config.json"]


def test_git_agrees_with_the_hashes_of_folders(alice, repo, tmp_path) -> None:
    """An empty-handed check against git's own plumbing, with names that sort differently as files and folders."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    names = ["a/b.txt", "a.txt", "a-b/c.txt", "a/b/c.txt"]
    alice.create_commit(repo, [CommitOperationAdd(n, n.encode()) for n in names], commit_message="names")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in names:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text(name)
    subprocess.run(["git", "-C", str(tmp_path), "add", "x"], check=True)
    tree = subprocess.run(
        ["git", "-C", str(tmp_path), "write-tree", "--prefix=x/a/"], check=True, capture_output=True, text=True
    ).stdout.strip()
    (folder,) = alice.get_paths_info(repo, "a")
    assert folder.tree_id == tree


def test_long_trees_come_in_pages(alice, repo) -> None:
    """1,000 items a page, 50 with details; the client follows."""
    names = [f"d/{n:04}.txt" for n in range(1100)]
    alice.create_commit(repo, [CommitOperationAdd(n, b"x") for n in names], commit_message="many", num_threads=1)
    assert len(list(alice.list_repo_tree(repo, recursive=True))) == 1102
    assert len(list(alice.list_repo_tree(repo, "d", expand=True))) == 1100


def test_the_file_system_view_reads_bytes(alice, full, hub) -> None:
    """fsspec readers use info, tree, paths-info and ranges."""
    fs = HfFileSystem(endpoint=hub.url, token=alice.token, skip_instance_cache=True)
    assert f"{full}/config.json" in fs.ls(full, detail=False)
    with fs.open(f"{full}/model.safetensors", "rb") as file:
        assert file.read(8) == safetensors(rows=8)[:8]


def test_details_tell_sizes_hashes_and_storage(alice, full) -> None:
    """What a plan needs to know before it downloads."""
    info = alice.model_info(full, files_metadata=True, securityStatus=True)
    siblings = {s.rfilename: s for s in info.siblings}
    assert siblings["model.safetensors"].lfs.sha256 and siblings["config.json"].lfs is None
    assert siblings["config.json"].size == 22 and info.security_repo_status["scansDone"]
    assert alice.model_info(full, expand=["usedStorage"]).used_storage > 150
    old = alice.list_repo_commits(full)[-1].commit_id
    assert [s.rfilename for s in alice.model_info(full, revision=old).siblings] == [".gitattributes"]
