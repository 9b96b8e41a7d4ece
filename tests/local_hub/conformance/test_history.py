"""Repositories and their history: names, commits, branches, tags, trees, squash, lists."""

import threading
import time

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def options_of(kind: str) -> dict[str, str]:
    """What making a repository of this kind needs besides its name."""
    return {"space_sdk": "static"} if kind == "space" else {}


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_repository_is_made_once_moved_and_deleted(place, new_repo, kind) -> None:
    """The old name leads to the new one."""
    repo = new_repo(kind, **options_of(kind))
    options = {"repo_type": kind, **options_of(kind)}
    place.api.create_repo(repo, exist_ok=True, **options)
    with pytest.raises(HfHubHTTPError) as caught:
        place.api.create_repo(repo, **options)
    assert status(caught) == 409
    info = place.api.repo_info(repo, repo_type=kind)
    assert info.id == repo and info.private and len(info.sha) == 40
    assert ".gitattributes" in place.api.list_repo_files(repo, repo_type=kind)
    with pytest.raises(HfHubHTTPError, match=f"A {kind} repository called .* already exists") as caught:
        place.api.move_repo(repo, new_repo(kind, **options_of(kind)), repo_type=kind)
    assert status(caught) == 409
    place.api.move_repo(repo, f"{repo}-moved", repo_type=kind)
    try:
        assert place.api.repo_info(repo, repo_type=kind).id == f"{repo}-moved"
    finally:
        place.api.delete_repo(f"{repo}-moved", repo_type=kind)
    assert not place.api.repo_exists(repo, repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        place.api.delete_repo(f"{repo}-moved", repo_type=kind)


def test_one_commit_adds_copies_and_deletes(place, repo, push) -> None:
    """Folders too, with or without a slash at the end; a wrong operation refuses all."""
    first = push(repo, {"a.txt": b"a", "m.bin": b"\0m", "old/x.txt": b"x", "old/y/z.txt": b"z"}, "one")
    operations = [
        CommitOperationAdd("b.txt", b"b"),
        CommitOperationCopy("m.bin", "n.bin"),
        CommitOperationDelete("a.txt"),
        CommitOperationDelete("old"),
    ]
    done = place.api.create_commit(repo, operations, commit_message="two", commit_description="why",
                                   parent_commit=first)  # fmt: skip
    assert sorted(place.api.list_repo_files(repo)) == [".gitattributes", "b.txt", "m.bin", "n.bin"]
    history = place.api.list_repo_commits(repo)
    assert [(c.commit_id, c.title, c.message) for c in history[:1]] == [(done.oid, "two", "why")]
    assert history[1].commit_id == first and history[-1].title == "initial commit"
    with pytest.raises(HfHubHTTPError) as caught:
        push(repo, {"c.txt": b"c"}, parent_commit=first)
    assert status(caught) == 412
    with pytest.raises(EntryNotFoundError):
        place.api.create_commit(repo, [CommitOperationDelete("no.txt")], commit_message="no")
    assert place.api.model_info(repo).sha == done.oid


def test_what_is_there_already_makes_no_commit(place, repo, push, tmp_path) -> None:
    """The same files again, as commit and as folder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "sub" / "b.bin").write_bytes(b"\0b")
    place.api.upload_folder(repo_id=repo, folder_path=tmp_path)
    head = place.api.model_info(repo).sha
    place.api.upload_folder(repo_id=repo, folder_path=tmp_path)
    assert push(repo, {"a.txt": b"a", "sub/b.bin": b"\0b"}) == head
    place.api.delete_folder("sub", repo_id=repo)
    assert place.api.model_info(repo).sha != head and not place.api.file_exists(repo, "sub/b.bin")


def test_branches_and_tags_name_commits(place, repo, push) -> None:
    """A tag does not move, main is not deleted, what is missing is said to be."""
    api, first = place.api, push(repo, {"a.txt": b"1"})
    api.create_branch(repo, branch="dev")
    api.create_tag(repo, tag="v1", revision=first, tag_message="first")
    second = push(repo, {"a.txt": b"2"}, revision="dev")
    refs = api.list_repo_refs(repo)
    assert {b.name: b.target_commit for b in refs.branches} == {"main": first, "dev": second}
    assert [(t.name, t.ref, t.target_commit) for t in refs.tags] == [("v1", "refs/tags/v1", first)]
    assert api.model_info(repo, revision="v1").sha == first and api.revision_exists(repo, "dev")
    for again in (lambda: api.create_branch(repo, branch="dev"), lambda: api.create_tag(repo, tag="v1")):
        with pytest.raises(HfHubHTTPError) as caught:
            again()
        assert status(caught) == 409
    api.create_branch(repo, branch="dev", exist_ok=True)
    api.create_tag(repo, tag="v1", exist_ok=True)
    with pytest.raises(RevisionNotFoundError):
        api.create_tag(repo, tag="v2", revision="no")
    with pytest.raises(HfHubHTTPError, match="Cannot delete refs/heads/main") as caught:
        api.delete_branch(repo, branch="main")
    assert status(caught) == 403
    api.delete_branch(repo, branch="dev")
    api.delete_tag(repo, tag="v1")
    with pytest.raises(HfHubHTTPError):
        api.delete_tag(repo, tag="v1")
    assert not api.revision_exists(repo, "dev") and len(api.list_repo_refs(repo).tags) == 0


def test_trees_tell_files_folders_and_last_commits(place, repo, push) -> None:
    """With git's hashes, and page after page."""
    push(repo, {f"many/{n:02}.txt": b"%d" % n for n in range(60)} | {"m.safetensors": b"\0" * 50}, "one")
    push(repo, {"many/00.txt": b"new"}, "two")
    items = {item.path: item for item in place.api.list_repo_tree(repo, recursive=True, expand=True)}
    assert len(items) == 63 and items["many/00.txt"].last_commit.title == "two"
    assert items["many/01.txt"].last_commit.title == "one" and items["many"].tree_id
    assert items["many/01.txt"].blob_id == "56a6051ca2b02b04ef92d5150c9ef600403cb1de"  # git hash-object of "1"
    assert items["m.safetensors"].lfs.size == 50 and items["many/01.txt"].lfs is None
    assert [f.path for f in place.api.get_paths_info(repo, ["many", "no", "m.safetensors"])] == [
        "many",
        "m.safetensors",
    ]
    with pytest.raises(EntryNotFoundError):
        list(place.api.list_repo_tree(repo, "no"))


def test_a_squash_leaves_one_commit_with_the_same_files(place, repo, push) -> None:
    """The branch is as it was, without its past."""
    push(repo, {"a.txt": b"1"})
    push(repo, {"a.txt": b"2"})
    place.api.super_squash_history(repo, commit_message="all in one")
    assert [c.title for c in place.api.list_repo_commits(repo)] == ["all in one"]
    assert place.api.file_exists(repo, "a.txt")


def test_pull_requests_and_conversions_are_squashed_too(place, repo, push) -> None:
    """Programs that convert data keep one commit on refs/convert/…, whatever they wrote before."""
    pull = place.api.create_pull_request(repo, title="p").git_reference
    place.api.create_branch(repo, branch="refs/convert/parquet")
    for ref in (pull, "refs/convert/parquet"):
        push(repo, {"a.txt": b"1"}, revision=ref)
        push(repo, {"a.txt": b"2"}, revision=ref)
        place.api.super_squash_history(repo, branch=ref, commit_message="one")
        assert [c.title for c in place.api.list_repo_commits(repo, revision=ref)] == ["one"]
        assert place.api.file_exists(repo, "a.txt", revision=ref)
    assert [c.ref for c in place.api.list_repo_refs(repo).converts] == ["refs/convert/parquet"]
    assert not place.api.file_exists(repo, "a.txt")


def test_of_commits_at_one_moment_none_is_lost(place, repo) -> None:
    """Clients that begin again at 412 all get through."""

    def work(n: int) -> None:
        for step in range(2):
            while True:
                head = place.api.model_info(repo).sha
                try:
                    add = [CommitOperationAdd(f"{n}-{step}.txt", b"x")]
                    place.api.create_commit(repo, add, commit_message=f"{n}-{step}", parent_commit=head)
                    break
                except HfHubHTTPError as error:
                    if error.response.status_code != 412:
                        failures.append(error)
                        return

    failures: list[Exception] = []
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and len(place.api.list_repo_commits(repo)) == 9
    assert len(place.api.list_repo_files(repo)) == 9


def test_cards_become_tags_and_lists_find_them(place, repo, push) -> None:
    """Relation, licence and language as the Hub derives them; an index may lag."""
    base = "google-bert/bert-base-uncased"
    push(repo, {"README.md": f"---\nlicense: mit\nbase_model: {base}\nlanguage: en\ntags: [x-y]\n---\n# hi".encode()})
    wanted = {"license:mit", f"base_model:{base}", f"base_model:finetune:{base}", "en", "x-y"}
    deadline = time.monotonic() + 120
    while not wanted <= set(place.api.model_info(repo).tags) and place.live and time.monotonic() < deadline:
        time.sleep(5)
    assert wanted <= set(place.api.model_info(repo).tags)
    name = repo.partition("/")[2]
    found = list(place.api.list_models(author=place.account, search=name, filter=f"base_model:finetune:{base}",
                                       expand=["sha", "cardData", "tags"]))  # fmt: skip
    assert [(m.id, m.card_data["license"]) for m in found] == [(repo, "mit")]
    with pytest.raises(BadRequestError):
        list(place.api.list_models(author=place.account, expand=["childrenModelCount"]))
