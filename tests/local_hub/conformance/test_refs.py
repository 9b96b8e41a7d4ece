"""Branches, tags, any revision, history and squash."""

import pytest
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RevisionNotFoundError

from .conftest import status_of


def test_branches_and_tags_name_commits(api, repo, push) -> None:
    """Main is not deleted, what is there already is a conflict, what is missing is said to be."""
    first = push(repo, {"a.txt": b"1"})
    api.create_branch(repo, branch="dev")
    api.create_tag(repo, tag="v1", revision=first, tag_message="first")
    second = push(repo, {"a.txt": b"2"}, revision="dev")
    refs = api.list_repo_refs(repo)
    assert {b.name: b.target_commit for b in refs.branches} == {"main": first, "dev": second}
    assert [(t.name, t.ref, t.target_commit) for t in refs.tags] == [("v1", "refs/tags/v1", first)]
    assert api.model_info(repo, revision="v1").sha == first and api.revision_exists(repo, "dev")
    assert status_of(lambda: api.create_branch(repo, branch="dev")) == 409
    api.create_branch(repo, branch="dev", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="Cannot delete refs/heads/main") as caught:
        api.delete_branch(repo, branch="main")
    assert caught.value.response.status_code == 403
    api.delete_branch(repo, branch="dev")
    assert not api.revision_exists(repo, "dev")
    with pytest.raises(HfHubHTTPError):
        api.delete_branch(repo, branch="dev")


def test_tags_do_not_move_and_name_any_revision(api, repo, push) -> None:
    """A generation's tag is a promise: setting it again is a conflict, not a change."""
    first = api.model_info(repo).sha
    push(repo, {"a.txt": b"x"})
    api.create_tag(repo, tag="gen-0", revision=first[:8], tag_message="the beginning")
    api.create_tag(repo, tag="gen-1")
    api.create_tag(repo, tag="gen-1", exist_ok=True)
    assert status_of(lambda: api.create_tag(repo, tag="gen-0")) == 409
    assert {t.name: t.target_commit for t in api.list_repo_refs(repo).tags}["gen-0"] == first
    for revision in ("gen-0", "refs/tags/gen-0", first, first[:8]):
        assert api.model_info(repo, revision=revision).sha == first
    api.delete_tag(repo, tag="gen-0")
    for act in (lambda: api.delete_tag(repo, tag="gen-0"), lambda: api.create_tag(repo, tag="t", revision="no")):
        with pytest.raises(RevisionNotFoundError):
            act()
    with pytest.raises(BadRequestError):
        api.create_tag(repo, tag="bad..name")


def test_branches_grow_apart_from_main(api, repo, push) -> None:
    """Begun at any revision; a branch with a slash in its name is one revision."""
    first = api.model_info(repo).sha
    push(repo, {"main.txt": b"m"})
    api.create_branch(repo, branch="fusion/status", revision=first)
    push(repo, {"a.txt": b"x"}, revision="fusion/status")
    assert api.list_repo_files(repo, revision="fusion/status") == [".gitattributes", "a.txt"]
    assert api.list_repo_files(repo) == [".gitattributes", "main.txt"]
    assert {b.name for b in api.list_repo_refs(repo).branches} == {"main", "fusion/status"}


def test_commits_are_listed_newest_first_in_pages(api, repo, push, wire) -> None:
    """The client follows the pages by itself."""
    for n in range(4):
        push(repo, {"a.txt": b"%d" % n}, f"c{n}")
    found = api.list_repo_commits(repo, formatted=True)
    assert [c.title for c in found] == ["c3", "c2", "c1", "c0", "initial commit"]
    assert [c.created_at for c in found] == sorted((c.created_at for c in found), reverse=True)
    assert found[0].formatted_title and all(len(c.commit_id) == 40 for c in found)
    page = wire("GET", f"/api/models/{repo}/commits/main?limit=2&p=1")
    assert [c["title"] for c in page.json] == ["c1", "c0"] and "p=2" in page.headers["link"]


def test_a_squash_leaves_one_commit_with_the_same_files(api, repo, push) -> None:
    """A branch that is written every hour would otherwise grow without end."""
    push(repo, {"a.txt": b"1"})
    push(repo, {"a.txt": b"2"})
    api.super_squash_history(repo, commit_message="all in one")
    assert [c.title for c in api.list_repo_commits(repo)] == ["all in one"]
    assert api.list_repo_files(repo) == [".gitattributes", "a.txt"]


def test_pull_requests_and_conversions_are_squashed_too(api, repo, push) -> None:
    """Programs that convert data keep one commit on refs/convert/…, whatever they wrote before."""
    pull = api.create_pull_request(repo, title="p").git_reference
    api.create_branch(repo, branch="refs/convert/parquet")
    for ref in (pull, "refs/convert/parquet"):
        push(repo, {"a.txt": b"1"}, revision=ref)
        push(repo, {"a.txt": b"2"}, revision=ref)
        api.super_squash_history(repo, branch=ref, commit_message="one")
        assert [c.title for c in api.list_repo_commits(repo, revision=ref)] == ["one"]
        assert api.file_exists(repo, "a.txt", revision=ref)
    assert [c.ref for c in api.list_repo_refs(repo).converts] == ["refs/convert/parquet"]
    assert not api.file_exists(repo, "a.txt")
