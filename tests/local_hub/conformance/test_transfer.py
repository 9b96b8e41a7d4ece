"""Content: up and down by every transport, through the cache, by range, as a snapshot, as a file system."""

import io
import os
import secrets
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationCopy,
    HfFileSystem,
    constants,
    file_download,
    get_hf_file_metadata,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import _CACHED_NO_EXIST

from ..conftest import safetensors

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, where it PUTs


@pytest.fixture(params=["xet", "plain"])
def transport(request, monkeypatch) -> str:
    """Both ways in which the client may have been set up."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "plain")
    return request.param


@pytest.mark.parametrize("size", [1, 131_072, 131_073, 5_000_000])
def test_what_goes_up_comes_down(place, repo, transport, size, tmp_path, monkeypatch) -> None:
    """As bytes, as a path, as a file object; down by the transport that the client is set up for."""
    used = []
    read = file_download.xet_get
    monkeypatch.setattr(file_download, "xet_get", lambda **options: (used.append("xet"), read(**options)))
    content = secrets.token_bytes(size)
    (tmp_path / "source").write_bytes(content)
    for n, sent in enumerate([content, tmp_path / "source", io.BytesIO(content)]):
        place.api.upload_file(path_or_fileobj=sent, path_in_repo=f"{n}.bin", repo_id=repo)
        found = place.api.hf_hub_download(repo, f"{n}.bin", cache_dir=tmp_path / f"cache-{n}")
        assert Path(found).read_bytes() == content
    assert used == (["xet"] * 3 if transport == "xet" else [])


def test_a_very_large_file_object_goes_up_in_parts(place, repo, transport, tmp_path) -> None:
    """The server decides that; the client only follows."""
    if place.live:
        pytest.skip("too much for somebody else's server")
    content = os.urandom(1 << 20) * 70
    place.api.upload_file(path_or_fileobj=io.BytesIO(content), path_in_repo="big.bin", repo_id=repo)
    found = place.api.hf_hub_download(repo, "big.bin", cache_dir=tmp_path)
    assert Path(found).read_bytes() == content


def test_metadata_holds_what_the_cache_needs(place, repo, push, transport) -> None:
    """Commit, ETag and size, for small files and large ones; what is large has a Xet hash too."""
    oid = push(repo, {"a.txt": b"hello", "m.safetensors": safetensors()})
    for path, etag_length in {"a.txt": 40, "m.safetensors": 64}.items():
        found = get_hf_file_metadata(hf_hub_url(repo, path, endpoint=place.api.endpoint), token=place.api.token)
        (shown,) = place.api.get_paths_info(repo, path)
        assert found.commit_hash == oid and len(found.etag) == etag_length and found.size == shown.size
        assert (shown.lfs.sha256 if shown.lfs else shown.blob_id) == found.etag
        assert (found.xet_file_data and found.xet_file_data.file_hash) == shown.xet_hash


def test_three_kinds_of_missing_are_three_errors(place, repo, push, tmp_path) -> None:
    """A missing file is remembered; a missing revision or repository is not."""
    push(repo, {"a.txt": b"a"})
    with pytest.raises(EntryNotFoundError):
        place.api.hf_hub_download(repo, "no.txt", cache_dir=tmp_path)
    assert try_to_load_from_cache(repo, "no.txt", cache_dir=tmp_path) is _CACHED_NO_EXIST
    with pytest.raises(RevisionNotFoundError):
        place.api.hf_hub_download(repo, "a.txt", revision="no", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        place.api.hf_hub_download(f"{repo}-no", "a.txt", cache_dir=tmp_path)


def test_a_snapshot_is_one_revision(place, repo, push, transport, tmp_path) -> None:
    """Only what the patterns name, as it was then."""
    first = push(repo, {"a.txt": b"1", "sub/b.bin": b"\0one", "sub/c.txt": b"c"})
    push(repo, {"a.txt": b"2", "sub/b.bin": b"\0two"})
    folder = Path(place.api.snapshot_download(repo, revision=first, cache_dir=tmp_path, ignore_patterns="sub/c*"))
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {k: v for k, v in found.items() if k != ".gitattributes"} == {"a.txt": b"1", "sub/b.bin": b"\0one"}
    newest = Path(place.api.snapshot_download(repo, local_dir=tmp_path / "local"))
    assert (newest / "sub/b.bin").read_bytes() == b"\0two" and (newest / "sub/c.txt").exists()


def test_safetensors_headers_come_without_the_weights(place, repo, push) -> None:
    """By range, from a file and from shards."""
    push(repo, {"model.safetensors": safetensors(rows=3)})
    assert place.api.get_safetensors_metadata(repo).parameter_count == {"F32": 12}
    assert place.api.parse_safetensors_file_metadata(repo, "model.safetensors").tensors["w"].shape == [3, 4]


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_the_file_system_reads_writes_lists_copies_and_removes(place, new_repo, kind, transport) -> None:
    """What fsspec users and dataset libraries do."""
    repo = new_repo(kind)
    root = repo if kind == "model" else f"datasets/{repo}"
    fs = HfFileSystem(endpoint=place.api.endpoint, token=place.api.token, skip_instance_cache=True)
    with fs.open(f"{root}/data/a.txt", "w") as file:
        file.write("one\n")
    with pytest.raises(NotImplementedError):  # the client appends to buckets only
        fs.open(f"{root}/data/a.txt", "ab")
    fs.pipe(f"{root}/data/b.bin", bytes(range(256)) * 1000)
    assert fs.read_text(f"{root}/data/a.txt") == "one\n"
    assert fs.cat_file(f"{root}/data/b.bin", start=255, end=258) == b"\xff\0\1"
    assert sorted(fs.glob(f"{root}/data/*")) == [f"{root}/data/a.txt", f"{root}/data/b.bin"]
    fs.cp_file(f"{root}/data/b.bin", f"{root}/copy.bin")
    assert fs.info(f"{root}/copy.bin")["size"] == 256_000 and fs.isdir(f"{root}/data")
    fs.rm(f"{root}/data", recursive=True)
    assert sorted(fs.ls(root, detail=False, refresh=True)) == [f"{root}/.gitattributes", f"{root}/copy.bin"]


def test_files_are_copied_between_repositories(place, new_repo, push, tmp_path) -> None:
    """Large ones by reference, small ones by content."""
    source, target = new_repo(), new_repo()
    push(source, {"m.safetensors": safetensors(7.0), "a.txt": b"a"})
    copies = [
        CommitOperationCopy(path, f"copied-{path}", src_repo_id=source, src_repo_type="model")
        for path in ("m.safetensors", "a.txt")
    ]
    place.api.create_commit(target, copies, commit_message="copies")
    for path, content in {"copied-m.safetensors": safetensors(7.0), "copied-a.txt": b"a"}.items():
        assert Path(place.api.hf_hub_download(target, path, cache_dir=tmp_path)).read_bytes() == content
