"""Discussions and pull requests, of models, datasets and Spaces."""

import secrets
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from hub_fusion.local_hub import LocalHub, add_user

from .conftest import safetensors


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


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_discussion_from_its_title_to_its_end(alice, bob, kind) -> None:
    """Everyone who sees the repository may take part."""
    name = new_repo(alice, kind)
    at = {"repo_id": name, "repo_type": kind}
    opened = bob.create_discussion(title=" What <licence>? ", description="It does not say.", **at)
    assert (opened.num, opened.title, opened.author, opened.status) == (1, "What <licence>?", "bob", "open")
    assert opened.url.startswith(f"{alice.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}/discussions/1")
    assert opened.events[0].content == "It does not say." and opened.diff is None
    said = alice.comment_discussion(discussion_num=1, comment="**MIT** & <b>", **at)
    assert said.rendered == "<p>**MIT** &amp; &lt;b&gt;</p>"
    edited = alice.edit_discussion_comment(discussion_num=1, comment_id=said.id, new_content="MIT", **at)
    assert (edited.content, edited.edited, edited.number_of_edits, edited.last_edited_by) == ("MIT", True, 1, "alice")
    renamed = bob.rename_discussion(discussion_num=1, new_title="Licence", **at)
    assert (renamed.old_title, renamed.new_title) == ("What <licence>?", "Licence")
    closed = alice.change_discussion_status(discussion_num=1, new_status="closed", comment="Thanks", **at)
    assert closed.new_status == "closed"
    details = bob.get_discussion_details(discussion_num=1, **at)
    assert [event.type for event in details.events] == [
        "comment",
        "comment",
        "title-change",
        "comment",
        "status-change",
    ]
    assert (details.title, details.status, details.repo_type, details.repo_id) == ("Licence", "closed", kind, name)
    assert bob.create_discussion(title="Another", **at).num == 2


def test_discussions_are_listed_newest_first_in_pages_and_by_kind(alice, bob, repo) -> None:
    """The client pages by itself; open includes drafts, closed includes merged."""
    for n in range(53):
        (bob if n % 10 else alice).create_discussion(repo, title=f"number {n}")
    draft = alice.create_pull_request(repo, title="a draft")
    alice.change_discussion_status(repo, 1, "closed")

    def nums(**query: str) -> list[int]:
        return [found.num for found in alice.get_repo_discussions(repo, **query)]

    assert nums() == list(range(54, 0, -1))
    assert nums(discussion_type="pull_request") == [draft.num] and len(nums(discussion_type="discussion")) == 53
    assert nums(discussion_status="closed") == [1] and draft.num in nums(discussion_status="open")
    assert nums(author="alice") == [54, 51, 41, 31, 21, 11, 1] and nums(author="unknown") == []


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


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_stranger_proposes_and_the_owner_merges(alice, bob, kind, tmp_path) -> None:
    """The files are readable at refs/pr/N before, and on main after: one commit that credits both."""
    name = new_repo(alice, kind)
    at: dict[str, Any] = {"repo_id": name, "repo_type": kind}
    alice.create_commit(**at, operations=[add("a.txt", b"one\ntwo\n"), add("old.txt", b"x")], commit_message="start")
    before = alice.repo_info(**at).sha
    operations = [add("a.txt", b"one\n2\n"), add("w.safetensors", safetensors(3.0)), CommitOperationDelete("old.txt")]
    proposed = bob.create_commit(
        **at, operations=operations, commit_message="Better", commit_description="why", create_pr=True
    )
    assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")
    assert alice.repo_info(**at).sha == before and alice.repo_info(**at, revision="refs/pr/1").sha == proposed.oid
    card = ["README.md"] if kind == "space" else []
    assert alice.list_repo_files(**at, revision="refs/pr/1") == [".gitattributes", *card, "a.txt", "w.safetensors"]
    path = alice.hf_hub_download(**at, filename="w.safetensors", revision="refs/pr/1", cache_dir=tmp_path / "1")
    assert Path(path).read_bytes() == safetensors(3.0)
    folder = snapshot_download(**at, revision="refs/pr/1", cache_dir=tmp_path / "2", endpoint=alice.endpoint)
    assert (Path(folder) / "a.txt").read_bytes() == b"one\n2\n"
    refs = alice.list_repo_refs(**at, include_pull_requests=True)
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", proposed.oid)]
    assert alice.list_repo_refs(**at).pull_requests is None

    more = bob.upload_file(
        path_or_fileobj=b"b", path_in_repo="b.txt", **at, revision="refs/pr/1", commit_message="More"
    )
    details = alice.get_discussion_details(name, 1, repo_type=kind)
    assert (details.status, details.target_branch, details.conflicting_files) == ("open", "refs/heads/main", [])
    assert [(e.summary, e.oid) for e in details.events if e.type == "commit"] == [
        ("Better", proposed.oid),
        ("More", more.oid),
    ]
    assert "-two\n+2\n" in details.diff and "deleted file mode 100644\n" in details.diff
    assert "+oid sha256:" in details.diff and "diff --git a/b.txt b/b.txt\nnew file mode 100644\n" in details.diff

    assert status_of(lambda: bob.merge_pull_request(name, 1, repo_type=kind)) == 403
    alice.upload_file(path_or_fileobj=b"meanwhile", path_in_repo="c.txt", **at)
    alice.merge_pull_request(name, 1, comment="Thank you", repo_type=kind)
    merged = alice.get_discussion_details(name, 1, repo_type=kind)
    assert merged.status == "merged" and merged.merge_commit_oid == alice.repo_info(**at).sha
    assert alice.list_repo_files(**at) == [".gitattributes", *card, "a.txt", "b.txt", "c.txt", "w.safetensors"]
    head = alice.list_repo_commits(**at)[0]
    assert (head.title, head.authors) == ("Better (#1)", ["alice", "bob"])
    assert "-two\n+2\n" in merged.diff and "c.txt" not in merged.diff
    assert alice.revision_exists(**at, revision="refs/pr/1")
    assert status_of(lambda: alice.merge_pull_request(name, 1, repo_type=kind)) == 400
    assert status_of(lambda: alice.change_discussion_status(name, 1, "open", repo_type=kind)) == 400
    assert status_of(lambda: bob.upload_file(path_or_fileobj=b"z", path_in_repo="z", **at, revision="refs/pr/1")) == 403


def test_a_draft_is_opened_filled_published_and_merged(alice, bob, repo) -> None:
    """What `upload_folder(create_pr=True)` does: the pull request first, then commits to its ref."""
    draft = bob.create_pull_request(repo, title="a draft")
    assert (draft.status, draft.git_reference) == ("draft", "refs/pr/1")
    assert bob.model_info(repo, revision="refs/pr/1").sha == bob.model_info(repo).sha
    put(bob, repo, "a.txt", b"a", revision="refs/pr/1")
    assert status_of(lambda: alice.merge_pull_request(repo, 1)) == 400
    bob.change_discussion_status(repo, 1, "open")
    alice.merge_pull_request(repo, 1)
    assert alice.file_exists(repo, "a.txt")


def test_upload_folder_opens_a_pull_request(alice, bob, repo, tmp_path) -> None:
    """With the transport the client chooses by itself."""
    (tmp_path / "model.safetensors").write_bytes(safetensors(4.0))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    done = bob.upload_folder(repo_id=repo, folder_path=tmp_path, create_pr=True)
    assert done.pr_revision == "refs/pr/1"
    assert alice.list_repo_files(repo, revision="refs/pr/1") == [".gitattributes", "README.md", "model.safetensors"]
    assert alice.list_repo_files(repo) == [".gitattributes"]


def test_pull_requests_start_at_branches_and_at_their_parent_commit(alice, repo) -> None:
    """Not at commits or names that do not exist; a stale parent is where the change began, not an error."""
    first = alice.model_info(repo).sha
    put(alice, repo, "a.txt", b"a")
    alice.create_branch(repo, branch="dev", revision=first)
    for revision in (first, "missing"):
        with pytest.raises(RevisionNotFoundError):
            put(alice, repo, "x.txt", b"x", create_pr=True, revision=revision)
    assert put(alice, repo, "b.txt", b"b", create_pr=True, revision="dev").pr_num == 1
    alice.merge_pull_request(repo, 1)
    assert alice.file_exists(repo, "b.txt", revision="dev") and not alice.file_exists(repo, "b.txt")
    stale = put(alice, repo, "c.txt", b"c", create_pr=True, parent_commit=first)
    assert alice.list_repo_commits(repo, revision=stale.oid)[1].commit_id == first
    with pytest.raises(RevisionNotFoundError):
        put(alice, repo, "x.txt", b"x", revision="refs/pr/77")


def test_what_both_sides_changed_is_a_conflict(alice, bob, repo) -> None:
    """Merging stops, says which files, and leaves main as it is."""
    put(alice, repo, "a.txt", b"a")
    proposed = put(bob, repo, "a.txt", b"bob's", create_pr=True)
    put(alice, repo, "a.txt", b"alice's")
    head = alice.model_info(repo).sha
    assert alice.get_discussion_details(repo, proposed.pr_num).conflicting_files == ["a.txt"]
    assert status_of(lambda: alice.merge_pull_request(repo, proposed.pr_num)) == 409
    assert alice.model_info(repo).sha == head
    put(bob, repo, "a.txt", b"alice's", revision="refs/pr/1")
    alice.merge_pull_request(repo, proposed.pr_num)
    assert alice.get_discussion_details(repo, 1).status == "merged"


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


def test_a_model_loads_from_a_pull_request(alice, bob, repo, python) -> None:
    """Who reviews a change tries it: `from_pretrained(revision="refs/pr/1")`."""
    put(bob, repo, "config.json", b'{"model_type": "bert", "hidden_size": 48}', create_pr=True)
    load = f"AutoConfig.from_pretrained({repo!r}, revision='refs/pr/1')"
    assert python(f"from transformers import AutoConfig; print({load}.hidden_size)") == "48"


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
