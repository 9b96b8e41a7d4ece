"""Content on its way up: Xet, git-lfs in one piece and in parts, inline."""

import hashlib
import io
import os
import secrets
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, file_download

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, where it PUTs

LFS_JSON = "application/vnd.git-lfs+json"


@pytest.mark.parametrize("size", [1, 131_072, 131_073, 5_000_000])
def test_what_goes_up_comes_down(api, repo, transport, size, tmp_path, monkeypatch) -> None:
    """As bytes, as a path, as a file object; down by the transport that the client is set up for."""
    used = []
    read = file_download.xet_get
    monkeypatch.setattr(file_download, "xet_get", lambda **options: (used.append("xet"), read(**options)))
    content = (secrets.token_bytes(size // 2) + b"\0\1\2\3" * size)[:size]
    (tmp_path / "source").write_bytes(content)
    for n, sent in enumerate([content, tmp_path / "source", io.BytesIO(content)]):
        api.upload_file(path_or_fileobj=sent, path_in_repo=f"{n}.bin", repo_id=repo)
        found = api.hf_hub_download(repo, f"{n}.bin", cache_dir=tmp_path / f"cache-{n}")
        assert Path(found).read_bytes() == content
        (shown,) = api.get_paths_info(repo, f"{n}.bin")
        assert (shown.lfs.sha256, shown.size) == (hashlib.sha256(content).hexdigest(), size)
    assert used == (["xet"] * 3 if transport == "xet" else [])


def test_a_very_large_file_object_goes_up_in_parts(place, api, repo, transport, tmp_path) -> None:
    """The server decides that; the client only follows."""
    if place.live:
        pytest.skip("too much for somebody else's server")
    content = os.urandom(1 << 20) * 70
    api.upload_file(path_or_fileobj=io.BytesIO(content), path_in_repo="big.bin", repo_id=repo)
    assert Path(api.hf_hub_download(repo, "big.bin", cache_dir=tmp_path)).read_bytes() == content


def test_a_client_without_xet_pushes_by_lfs_alone(python, api, repo, tmp_path) -> None:
    """`HF_HUB_DISABLE_XET=1`, as behind a firewall that knows no Xet."""
    script = f"""
import os
from pathlib import Path
from huggingface_hub import HfApi
Path("folder").mkdir()
for name in ("a.bin", "b.safetensors"):
    Path("folder", name).write_bytes(os.urandom(300_000))
HfApi().upload_folder(repo_id="{repo}", folder_path="folder")
found = HfApi().snapshot_download("{repo}")
print(all(Path(found, p.name).read_bytes() == p.read_bytes() for p in Path("folder").iterdir()))
"""
    assert python(script, HF_HUB_DISABLE_XET="1").splitlines()[-1] == "True"
    assert all(item.lfs for item in api.get_paths_info(repo, ["a.bin", "b.safetensors"]))


def test_the_lfs_batch_tells_what_is_missing_and_verifies_what_came(repo, wire, api) -> None:
    """Git-lfs's own protocol: where to send an object, whether it came, and nothing for one that is there."""
    content = secrets.token_bytes(1000)
    item = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    ask = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [item], "hash_algo": "sha256"}
    url, json_type = f"/{repo}.git/info/lfs/objects/batch", {"Accept": LFS_JSON, "Content_Type": LFS_JSON}
    answer = wire("POST", url, ask, **json_type)
    (told,) = answer.json["objects"]
    assert answer.status == 200 and answer.json.get("transfer", "basic") == "basic"
    actions = told["actions"]
    assert wire("PUT", actions["upload"]["href"], content, token=False).status == 200
    if "verify" in actions:
        assert wire("POST", actions["verify"]["href"], item, **json_type).status == 200
        wrong = {"oid": item["oid"], "size": 999}
        assert wire("POST", actions["verify"]["href"], wrong, **json_type).status >= 400
    (again,) = wire("POST", url, ask, **json_type).json["objects"]
    assert not again.get("actions", {}).get("upload")
    api.create_commit(repo, [CommitOperationAdd("m.bin", io.BytesIO(content))], commit_message="m")
    assert api.get_paths_info(repo, "m.bin")[0].lfs.sha256 == item["oid"]


def test_content_that_is_not_what_was_announced_is_refused(repo, wire) -> None:
    """The name is the hash: a file under the name of another would be served to everybody."""
    item = {"oid": hashlib.sha256(secrets.token_bytes(9)).hexdigest(), "size": 1000}
    ask = {"operation": "upload", "transfers": ["basic"], "objects": [item], "hash_algo": "sha256"}
    told = wire("POST", f"/{repo}.git/info/lfs/objects/batch", ask, Accept=LFS_JSON, Content_Type=LFS_JSON).json
    href = told["objects"][0]["actions"]["upload"]["href"]
    assert wire("PUT", href, b"x" * 1000, token=False).status >= 400
    assert wire("PUT", href, b"x" * 999, token=False).status >= 400


def test_the_same_content_is_sent_once(api, repo, new_repo, tmp_path) -> None:
    """In a second repository, under another name, it is there without another upload of its bytes."""
    content, second = secrets.token_bytes(400_000), new_repo()
    for target, path in ((repo, "a.bin"), (repo, "b.bin"), (second, "c.bin")):
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=target)
        assert Path(api.hf_hub_download(target, path, cache_dir=tmp_path)).read_bytes() == content


def test_empty_and_small_files_keep_their_bytes(api, repo, push, tmp_path) -> None:
    """Line ends, letters beyond ASCII, no newline at the end; names with all that URLs give a meaning to."""
    files = {"empty": b"", "crlf.txt": b"a\r\nb", "sub/deep/a ü%2F#?.txt": "ü€🙂".encode(), "a+b&c=d.txt": b"x"}
    push(repo, files)
    for path, content in files.items():
        assert Path(api.hf_hub_download(repo, path, cache_dir=tmp_path)).read_bytes() == content
    folder = Path(api.snapshot_download(repo, cache_dir=tmp_path / "all"))
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {path: found[path] for path in files} == files
