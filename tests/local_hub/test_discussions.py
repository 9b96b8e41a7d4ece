"""Discussions and pull requests, of models, datasets and Spaces."""

import secrets
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hub_fusion.local_hub import LocalHub, add_user


def add(path: str, content: bytes) -> CommitOperationAdd:
    """An operation of a commit."""
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


def new_repo(api: HfApi, kind: str) -> str:
    """A new repository of alice's."""
    sdk = "gradio" if kind == "space" else None
    return str(api.create_repo(f"alice/d-{secrets.token_hex(4)}", repo_type=kind, space_sdk=sdk).repo_id)


def put(api: HfApi, repo: str, path: str, content: bytes, **more: Any):
    """One file in one commit."""
    return api.create_commit(repo, [add(path, content)], commit_message=f"Add {path}", **more)


def status_of(act) -> int:
    """The status a call is refused with."""
    with pytest.raises(HfHubHTTPError) as caught:
        act()
    return caught.value.response.status_code


def test_only_authors_edit_and_only_owners_tidy_up(hub, alice, bob, nobody, repo) -> None:
    """A comment is its author's; titles and statuses are the author's and the repository's."""
    reader = HfApi(endpoint=hub.url, token=add_user(hub.root, "bob", role="read"))
    carl = HfApi(endpoint=hub.url, token=add_user(hub.root, "carl"))
    bob.create_discussion(repo, title="t", description="by bob")
    first = alice.get_discussion_details(repo, 1).events[0].id
    assert status_of(lambda: alice.edit_discussion_comment(repo, 1, first, "by alice")) == 403
    assert status_of(lambda: carl.rename_discussion(repo, 1, "mine")) == 403
    assert status_of(lambda: carl.change_discussion_status(repo, 1, "closed")) == 403
    for api, status in ((reader, 403), (nobody, 401)):
        assert status_of(lambda api=api: api.comment_discussion(repo, 1, "hello")) == status
        assert status_of(lambda api=api: api.create_discussion(repo, title="hello")) == status
    with pytest.warns(UserWarning, match="irreversible"):
        assert status_of(lambda: carl.hide_discussion_comment(repo, 1, first)) == 403
    with pytest.warns(UserWarning, match="irreversible"):
        hidden = alice.hide_discussion_comment(repo, 1, first)
    assert hidden.hidden and "by bob" not in str(alice.get_discussion_details(repo, 1).events)
    assert status_of(lambda: bob.edit_discussion_comment(repo, 1, first, "again")) == 403
    assert status_of(lambda: bob.edit_discussion_comment(repo, 1, "f" * 24, "x")) == 404
    assert status_of(lambda: bob.get_discussion_details(repo, 99)) == 404
    alice.update_repo_settings(repo, visibility="private")
    with pytest.raises(RepositoryNotFoundError):
        bob.get_discussion_details(repo, 1)


def test_discussions_can_be_switched_off(alice, bob, repo, raw) -> None:
    """As in the settings of a repository on the Hub: nothing new, and no pull requests either."""
    url = f"/api/models/{repo}/settings"
    assert raw("PUT", url, {"discussionsDisabled": True}, token=alice.token).json["discussionsDisabled"] is True
    assert status_of(lambda: bob.create_discussion(repo, title="t")) == 403
    assert status_of(lambda: put(bob, repo, "a.txt", b"a", create_pr=True)) == 403
    raw("PUT", url, {"discussionsDisabled": False}, token=alice.token)
    assert bob.create_discussion(repo, title="t").num == 1
    assert raw("PUT", url, {"discussionsDisabled": "no"}, token=alice.token).status == 400


def test_strangers_cannot_push_to_another_ones_pull_request(hub, alice, bob, repo) -> None:
    """Its author and the repository's owner can."""
    carl = HfApi(endpoint=hub.url, token=add_user(hub.root, "carl"))
    put(bob, repo, "a.txt", b"a", create_pr=True)
    assert status_of(lambda: put(carl, repo, "b.txt", b"b", revision="refs/pr/1")) == 403
    put(alice, repo, "b.txt", b"b", revision="refs/pr/1")
    assert alice.list_repo_files(repo, revision="refs/pr/1") == [".gitattributes", "a.txt", "b.txt"]
    for act in (
        lambda: bob.create_branch(repo, branch="mine"),
        lambda: bob.create_tag(repo, tag="t", revision="refs/pr/1"),
        lambda: put(bob, repo, "c.txt", b"c"),
    ):
        assert status_of(act) == 403
    assert status_of(lambda: alice.create_branch(repo, branch="refs/pr/9")) == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", {"title": 7}),
        ("", {"title": "t", "description": ["x"]}),
        ("", {"title": " "}),
        ("", {"title": "x" * 301}),
        ("/1/comment", {"comment": "  "}),
        ("/1/comment", {}),
        ("/1/comment", {"comment": "x" * 70_000}),
        ("/1/title", {"title": None}),
        ("/1/status", {"status": "merged"}),
        ("/1/status", {"status": []}),
        ("/1/merge", {}),
    ],
)
def test_discussions_refuse_what_means_nothing(alice, repo, raw, path, body) -> None:
    """With a sentence, and nothing is written."""
    alice.create_discussion(repo, title="t")
    assert raw("POST", f"/api/models/{repo}/discussions{path}", body, token=alice.token).status == 400
    assert len(alice.get_discussion_details(repo, 1).events) == 1
    for num in ("0", "-1", "x", "9" * 40, "%C2%B2"):
        assert raw("GET", f"/api/models/{repo}/discussions/{num}").status == 404


def test_a_restarted_hub_has_its_discussions_still(tmp_path) -> None:
    """They are kept with everything else."""
    from hub_fusion.local_hub import serve

    token = add_user(tmp_path, "alice")
    with serve(tmp_path) as hub:
        api = HfApi(endpoint=hub.url, token=token)
        api.create_repo("alice/m")
        put(api, "alice/m", "a.txt", b"a", create_pr=True)
    with serve(tmp_path) as hub:
        assert isinstance(hub, LocalHub)
        details = HfApi(endpoint=hub.url, token=token).get_discussion_details("alice/m", 1)
        assert [event.type for event in details.events] == ["comment", "commit"]


def test_a_status_that_is_no_text_is_refused(alice, repo, raw) -> None:
    """As any other that is none."""
    num = alice.create_discussion(repo, "t", description="d").num
    path = f"/api/models/{repo}/discussions/{num}/status"
    for status in (["open"], {"open": 1}, None, "ajar"):
        assert raw("POST", path, {"status": status}, token=alice.token).status == 400
