"""Reading: downloads, caches, ranges, trees, metadata."""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

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
