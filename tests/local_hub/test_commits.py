"""Commits and uploads: what was sent is what is served, all of it or nothing."""

import hashlib
import secrets
from pathlib import Path

from huggingface_hub import HfApi

from .conftest import safetensors, send


def fetch(api: HfApi, repo: str, path: str, folder: Path, revision: str | None = None) -> bytes:
    """The content of a file, through the client's own download."""
    return Path(api.hf_hub_download(repo, path, revision=revision, cache_dir=folder)).read_bytes()


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
