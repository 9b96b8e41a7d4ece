"""Content on its way down: headers, ranges, caches, snapshots."""

import secrets
from pathlib import Path

import pytest
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import _CACHED_NO_EXIST

from ..conftest import safetensors


@pytest.fixture
def full(api, repo, push) -> str:
    """A repository with a config and weights, tagged v1."""
    push(repo, {"config.json": b'{"model_type": "bert"}', "model.safetensors": safetensors(rows=8)})
    api.create_tag(repo, tag="v1")
    return str(repo)


def test_metadata_holds_what_the_cache_needs(api, repo, push, transport) -> None:
    """Commit, ETag and size, for small files and large ones; what is large has a Xet hash too."""
    oid = push(repo, {"a.txt": b"hello", "m.safetensors": safetensors()})
    for path, etag_length in {"a.txt": 40, "m.safetensors": 64}.items():
        found = get_hf_file_metadata(hf_hub_url(repo, path, endpoint=api.endpoint), token=api.token)
        (shown,) = api.get_paths_info(repo, path)
        assert found.commit_hash == oid and len(found.etag) == etag_length and found.size == shown.size
        assert (shown.lfs.sha256 if shown.lfs else shown.blob_id) == found.etag
        assert (found.xet_file_data and found.xet_file_data.file_hash) == shown.xet_hash


def test_a_cached_file_is_not_fetched_again(api, full, tmp_path, wire) -> None:
    """With a tag one HEAD confirms it; the ETag must stay the same, and a file that is had is not sent."""
    first = api.hf_hub_download(full, "model.safetensors", revision="v1", cache_dir=tmp_path)
    written = Path(first).stat().st_mtime_ns
    assert api.hf_hub_download(full, "model.safetensors", revision="v1", cache_dir=tmp_path) == first
    assert Path(first).stat().st_mtime_ns == written
    assert api.hf_hub_download(full, "model.safetensors", revision="v1", cache_dir=tmp_path, force_download=True)


def test_head_tells_what_get_would_send(wire, full, api) -> None:
    """On the first answer, before any redirect: commit, ETag and size; 304 for what the client has."""
    head = wire("HEAD", f"/{full}/resolve/v1/config.json", Accept_Encoding="identity")
    get = wire("GET", f"/{full}/resolve/v1/config.json", Accept_Encoding="identity")
    for name in ("etag", "content-length", "x-repo-commit", "accept-ranges"):
        assert head.headers[name] == get.headers[name]
    assert head.body == b"" and head.headers["x-repo-commit"] == api.model_info(full).sha
    assert head.headers["etag"].startswith('"') and len(head.headers["etag"]) == 42
    assert int(head.headers["content-length"]) == len(get.body) == 22
    again = wire("GET", f"/{full}/resolve/v1/config.json", If_None_Match=head.headers["etag"])
    assert again.status == 304 and again.body == b""


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_ranges_give_the_part_that_was_asked_for(wire, full, path) -> None:
    """Headers of weights are read this way; behind a redirect too. What is beyond the end is 416."""
    url = f"/{full}/resolve/v1/{path}"
    content = wire("GET", url, Accept_Encoding="identity").body
    size = len(content)
    for asked, start, end in (("0-3", 0, 4), ("10-", 10, size), ("-5", size - 5, size), ("0-99999999", 0, size)):
        answer = wire("GET", url, Range=f"bytes={asked}", Accept_Encoding="identity")
        assert (answer.status, answer.body) == (206, content[start:end])
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    beyond = wire("GET", url, Range="bytes=99999999-", Accept_Encoding="identity")
    assert beyond.status == 416 and beyond.headers["content-range"] == f"bytes */{size}"


def test_a_file_of_many_pieces_streams_whole_and_by_range(api, wire, repo) -> None:
    """The pieces must join without a seam."""
    content = secrets.token_bytes(3 * 2**20 + 17)
    api.upload_file(path_or_fileobj=content, path_in_repo="big.bin", repo_id=repo)
    url = f"/{repo}/resolve/main/big.bin"
    assert wire("GET", url, Accept_Encoding="identity").body == content
    assert wire("GET", url, Range="bytes=1048575-2097153").body == content[1048575:2097154]


def test_three_kinds_of_missing_are_three_errors(api, full, tmp_path) -> None:
    """A missing file is remembered; a missing revision or repository is not."""
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(full, "no.txt", cache_dir=tmp_path)
    assert try_to_load_from_cache(full, "no.txt", cache_dir=tmp_path) is _CACHED_NO_EXIST
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(full, "config.json", revision="no", cache_dir=tmp_path)
    for name in (f"{full}-no", f"{full.partition('/')[0]}-no/no", "bare-name-that-nobody-has"):
        with pytest.raises(RepositoryNotFoundError):
            api.hf_hub_download(name, "config.json", cache_dir=tmp_path)
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(name)
    assert api.file_exists(full, "config.json") and not api.file_exists(full, "no.txt")
    assert api.revision_exists(full, "v1") and not api.revision_exists(full, "no")


def test_a_snapshot_is_one_revision(api, repo, push, transport, tmp_path) -> None:
    """Only what the patterns name, as it was then; by a branch, a tag or a commit."""
    first = push(repo, {"a.txt": b"1", "sub/b.bin": b"\0one", "sub/c.txt": b"c"})
    push(repo, {"a.txt": b"2", "sub/b.bin": b"\0two"})
    folder = Path(api.snapshot_download(repo, revision=first, cache_dir=tmp_path, ignore_patterns="sub/c*"))
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {k: v for k, v in found.items() if k != ".gitattributes"} == {"a.txt": b"1", "sub/b.bin": b"\0one"}
    newest = Path(api.snapshot_download(repo, local_dir=tmp_path / "local"))
    assert (newest / "sub/b.bin").read_bytes() == b"\0two" and (newest / "sub/c.txt").exists()
    assert api.snapshot_download(repo, cache_dir=tmp_path, allow_patterns="*.txt") != str(folder)
    offline = api.snapshot_download(repo, revision=first, cache_dir=tmp_path, local_files_only=True,
                                    ignore_patterns="sub/c*")  # fmt: skip
    assert Path(offline) == folder


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_files_of_other_kinds_have_their_prefix(api, new_repo, push, kind, tmp_path) -> None:
    """`/datasets/…` and `/spaces/…`, in URLs and in the cache."""
    repo = new_repo(kind)
    push(repo, {"a.txt": b"a", "m.bin": b"\0m"}, repo_type=kind)
    for path, content in {"a.txt": b"a", "m.bin": b"\0m"}.items():
        found = api.hf_hub_download(repo, path, repo_type=kind, cache_dir=tmp_path)
        assert Path(found).read_bytes() == content and f"{kind}s--" in found
    folder = Path(api.snapshot_download(repo, repo_type=kind, cache_dir=tmp_path / "all"))
    assert (folder / "m.bin").read_bytes() == b"\0m"
