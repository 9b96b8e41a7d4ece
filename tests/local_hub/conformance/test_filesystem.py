"""`HfFileSystem`: what fsspec users and data libraries do."""

import pytest
from huggingface_hub import HfFileSystem

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, where it PUTs


@pytest.fixture
def fs(api) -> HfFileSystem:
    """A file system that remembers nothing of another test."""
    return HfFileSystem(endpoint=api.endpoint, token=api.token, skip_instance_cache=True)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_it_reads_writes_lists_copies_moves_and_removes(fs, new_repo, kind, transport) -> None:
    """Each write is a commit."""
    repo = new_repo(kind)
    root = repo if kind == "model" else f"datasets/{repo}"
    with fs.open(f"{root}/data/a.txt", "w") as file:
        file.write("one\n")
    with pytest.raises(NotImplementedError):  # the client appends to buckets only
        fs.open(f"{root}/data/a.txt", "ab")
    fs.pipe(f"{root}/data/b.bin", bytes(range(256)) * 1000)
    assert fs.read_text(f"{root}/data/a.txt") == "one\n"
    assert fs.cat_file(f"{root}/data/b.bin", start=255, end=258) == b"\xff\0\1"
    with fs.open(f"{root}/data/b.bin", "rb", block_size=1000) as file:
        file.seek(100_001)
        assert file.read(3) == bytes([100_001 % 256, 100_002 % 256, 100_003 % 256])
    assert sorted(fs.glob(f"{root}/data/*")) == [f"{root}/data/a.txt", f"{root}/data/b.bin"]
    assert fs.glob(f"{root}/**/*.bin") == [f"{root}/data/b.bin"]
    fs.cp_file(f"{root}/data/b.bin", f"{root}/copy.bin")
    assert fs.info(f"{root}/copy.bin")["size"] == 256_000 and fs.isdir(f"{root}/data")
    fs.mv(f"{root}/copy.bin", f"{root}/moved.bin")
    assert not fs.exists(f"{root}/copy.bin") and fs.size(f"{root}/moved.bin") == 256_000
    fs.rm(f"{root}/data", recursive=True)
    assert sorted(fs.ls(root, detail=False, refresh=True)) == [f"{root}/.gitattributes", f"{root}/moved.bin"]


def test_it_walks_and_tells_of_files_and_folders(fs, repo, push) -> None:
    """Names, types, sizes, and the commit that changed them last when asked."""
    push(repo, {"a/b/c.txt": b"c", "a/d.bin": b"\0d", "e.txt": b"e"})
    assert sorted((path, sorted(folders), sorted(files)) for path, folders, files in fs.walk(repo)) == [
        (repo, ["a"], [".gitattributes", "e.txt"]),
        (f"{repo}/a", ["b"], ["d.bin"]),
        (f"{repo}/a/b", [], ["c.txt"]),
    ]
    assert sorted(fs.find(f"{repo}/a")) == [f"{repo}/a/b/c.txt", f"{repo}/a/d.bin"]
    found = fs.info(f"{repo}/a/d.bin", expand_info=True)
    assert (found["type"], found["size"], found["last_commit"].title) == ("file", 2, "files")
    assert found["lfs"] is not None and fs.info(f"{repo}/a")["type"] == "directory"
    assert {item["type"] for item in fs.ls(repo, detail=True)} == {"file", "directory"}
    with pytest.raises(FileNotFoundError):
        fs.info(f"{repo}/no.txt")
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{repo}-no")
    assert fs.modified(f"{repo}/e.txt") and fs.url(f"{repo}/e.txt").endswith(f"{repo}/resolve/main/e.txt")


def test_a_revision_is_part_of_a_path(fs, api, repo, push) -> None:
    """A branch, a tag, a commit; a ref with slashes is quoted."""
    first = push(repo, {"a.txt": b"1"})
    api.create_tag(repo, tag="v1")
    api.create_branch(repo, branch="dev/x")
    push(repo, {"a.txt": b"2"})
    push(repo, {"a.txt": b"3"}, revision="dev/x")
    for revision, content in {"v1": b"1", first: b"1", "main": b"2", "dev%2Fx": b"3"}.items():
        assert fs.cat_file(f"{repo}@{revision}/a.txt") == content
    assert fs.cat_file(f"{repo}/a.txt", revision="v1") == b"1"
    proposed = push(repo, {"a.txt": b"4"}, create_pr=True)
    assert proposed and fs.cat_file(f"{repo}@refs/pr/1/a.txt") == b"4"
    fs.pipe(f"{repo}@dev%2Fx/b.txt", b"b")
    assert api.file_exists(repo, "b.txt", revision="dev/x") and not api.file_exists(repo, "b.txt")


def test_files_go_between_here_and_there(fs, repo, tmp_path) -> None:
    """`put` and `get`, of folders."""
    (tmp_path / "up" / "sub").mkdir(parents=True)
    (tmp_path / "up" / "a.txt").write_bytes(b"a")
    (tmp_path / "up" / "sub" / "b.bin").write_bytes(b"\0b")
    fs.put(f"{tmp_path}/up/", f"{repo}/data/", recursive=True)
    fs.get(f"{repo}/data/", f"{tmp_path}/down/", recursive=True)
    assert (tmp_path / "down" / "a.txt").read_bytes() == b"a"
    assert (tmp_path / "down" / "sub" / "b.bin").read_bytes() == b"\0b"
