"""Refusals as the client must be able to tell them apart: status, code, words."""

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .conftest import status_of


def test_each_kind_of_missing_has_its_code(wire, api, repo) -> None:
    """Over http the client goes by the code alone."""
    for path, code in {
        f"/api/models/{repo}-no": "RepoNotFound",
        f"/api/models/{repo}/revision/no": "RevisionNotFound",
        f"/api/models/{repo}/tree/no": "RevisionNotFound",
        f"/{repo}/resolve/no/a.txt": "RevisionNotFound",
        f"/{repo}/resolve/main/no.txt": "EntryNotFound",
        f"/{repo}-no/resolve/main/a.txt": "RepoNotFound",
    }.items():
        answer = wire("GET", path)
        assert answer.status in (401, 404) and answer.headers["x-error-code"] == code, path
        assert answer.headers["x-error-message"].isascii()
    assert wire("GET", f"/{repo}/resolve/main/no.txt").headers["x-repo-commit"] == api.model_info(repo).sha


def test_each_refusal_is_the_clients_own_exception(api, repo, push) -> None:
    """Which programs catch."""
    push(repo, {"a.txt": b"a"})
    with pytest.raises(RepositoryNotFoundError):
        api.list_repo_commits(f"{repo}-no")
    with pytest.raises(RevisionNotFoundError):
        api.list_repo_commits(repo, revision="no")
    with pytest.raises(RevisionNotFoundError):
        list(api.list_repo_tree(repo, revision="no"))
    with pytest.raises(RevisionNotFoundError):
        api.get_paths_info(repo, "a.txt", revision="0" * 40)
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(repo, "no"))
    with pytest.raises(RepositoryNotFoundError):
        push(f"{repo}-no", {"a.txt": b"a"})
    with pytest.raises(BadRequestError):
        api.create_tag(repo, tag="bad..name")
    with pytest.raises(RepositoryNotFoundError):
        api.get_discussion_details(f"{repo}-no", 1)
    assert status_of(lambda: api.get_discussion_details(repo, 99)) == 404


def test_statuses_that_programs_decide_by(api, other, public, push) -> None:
    """409 for what is there already, 412 for a stale parent, 403 for what is another's, 416 beyond the end."""
    first = api.model_info(public).sha
    push(public, {"a.txt": b"a"})
    assert status_of(lambda: api.create_repo(public)) == 409
    assert status_of(lambda: push(public, {"a.txt": b"b"}, parent_commit=first)) == 412
    add = [CommitOperationAdd("a.txt", b"c")]
    assert status_of(lambda: other.create_commit(public, add, commit_message="c")) == 403
    api.update_repo_settings(public, gated="manual")
    with pytest.raises(GatedRepoError) as caught:
        other.auth_check(public)
    assert caught.value.response.status_code == 403


def test_every_answer_has_an_id_and_what_is_left_of_the_rate(wire, repo) -> None:
    """The client puts the one into its messages and waits by the other."""
    for path in ("/api/models?limit=1", f"/{repo}/resolve/main/none", f"/api/models/{repo}-none"):
        headers = wire("GET", path).headers
        assert headers["x-request-id"] and ";r=" in headers["ratelimit"] and ";q=" in headers["ratelimit-policy"]


def test_the_server_says_what_was_wrong(api, repo) -> None:
    """The message reaches the user through the exception."""
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_tag(repo, tag="bad..name")
    assert caught.value.server_message and len(str(caught.value)) > len(caught.value.server_message)
