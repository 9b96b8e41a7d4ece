"""Discussions and pull requests, of models, datasets and Spaces."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import RevisionNotFoundError

from ..conftest import safetensors
from .conftest import status_of


def add(path: str, content: bytes) -> CommitOperationAdd:
    """An operation of a commit."""
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


def put(api: HfApi, repo: str, path: str, content: bytes, **more: Any):
    """One file in one commit."""
    return api.create_commit(repo, [add(path, content)], commit_message=f"Add {path}", **more)


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_discussion_from_its_title_to_its_end(place, api, other, new_repo, kind) -> None:
    """Everyone who sees the repository may take part."""
    name = new_repo(kind, private=False)
    at = {"repo_id": name, "repo_type": kind}
    opened = other.create_discussion(title="What <licence>?", description="It does not say.", **at)
    assert (opened.num, opened.title, opened.status) == (1, "What <licence>?", "open")
    assert opened.author == other.whoami()["name"]
    assert opened.url.startswith(f"{api.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}/discussions/1")
    assert opened.events[0].content == "It does not say." and opened.diff is None
    said = api.comment_discussion(discussion_num=1, comment="**MIT** & <b>", **at)
    assert said.content == "**MIT** & <b>" and "MIT" in said.rendered
    edited = api.edit_discussion_comment(discussion_num=1, comment_id=said.id, new_content="MIT", **at)
    assert (edited.content, edited.edited, edited.number_of_edits) == ("MIT", True, 1)
    assert edited.last_edited_by == place.account
    renamed = other.rename_discussion(discussion_num=1, new_title="Licence", **at)
    assert (renamed.old_title, renamed.new_title) == ("What <licence>?", "Licence")
    closed = api.change_discussion_status(discussion_num=1, new_status="closed", comment="Thanks", **at)
    assert closed.new_status == "closed"
    details = other.get_discussion_details(discussion_num=1, **at)
    assert [event.type for event in details.events] == [
        "comment",
        "comment",
        "title-change",
        "comment",
        "status-change",
    ]
    assert (details.title, details.status, details.repo_type, details.repo_id) == ("Licence", "closed", kind, name)
    assert other.create_discussion(title="Another", **at).num == 2


def test_discussions_are_listed_newest_first_in_pages_and_by_kind(place, api, other, public) -> None:
    """The client pages by itself; open includes drafts, closed includes merged."""
    if place.live:
        pytest.skip("too much for somebody else's server")
    repo = public
    for n in range(53):
        (other if n % 10 else api).create_discussion(repo, title=f"number {n}")
    draft = api.create_pull_request(repo, title="a draft")
    api.change_discussion_status(repo, 1, "closed")

    def nums(**query: str) -> list[int]:
        return [found.num for found in api.get_repo_discussions(repo, **query)]

    assert nums() == list(range(54, 0, -1))
    assert nums(discussion_type="pull_request") == [draft.num] and len(nums(discussion_type="discussion")) == 53
    assert nums(discussion_status="closed") == [1] and draft.num in nums(discussion_status="open")
    assert nums(author=place.account) == [54, 51, 41, 31, 21, 11, 1] and nums(author="unknown") == []


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_stranger_proposes_and_the_owner_merges(place, api, other, new_repo, kind, tmp_path) -> None:
    """The files are readable at refs/pr/N before, and on main after: one commit that credits both."""
    name = new_repo(kind, private=False)
    at: dict[str, Any] = {"repo_id": name, "repo_type": kind}
    api.create_commit(**at, operations=[add("a.txt", b"one\ntwo\n"), add("old.txt", b"x")], commit_message="start")
    before = api.repo_info(**at).sha
    operations = [add("a.txt", b"one\n2\n"), add("w.safetensors", safetensors(3.0)), CommitOperationDelete("old.txt")]
    proposed = other.create_commit(
        **at, operations=operations, commit_message="Better", commit_description="why", create_pr=True
    )
    assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")
    assert api.repo_info(**at).sha == before and api.repo_info(**at, revision="refs/pr/1").sha == proposed.oid
    card = ["README.md"] if kind == "space" else []
    assert api.list_repo_files(**at, revision="refs/pr/1") == [".gitattributes", *card, "a.txt", "w.safetensors"]
    path = api.hf_hub_download(**at, filename="w.safetensors", revision="refs/pr/1", cache_dir=tmp_path / "1")
    assert Path(path).read_bytes() == safetensors(3.0)
    folder = snapshot_download(**at, revision="refs/pr/1", cache_dir=tmp_path / "2", endpoint=api.endpoint)
    assert (Path(folder) / "a.txt").read_bytes() == b"one\n2\n"
    refs = api.list_repo_refs(**at, include_pull_requests=True)
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", proposed.oid)]
    assert api.list_repo_refs(**at).pull_requests is None

    more = other.upload_file(
        path_or_fileobj=b"b", path_in_repo="b.txt", **at, revision="refs/pr/1", commit_message="More"
    )
    details = api.get_discussion_details(name, 1, repo_type=kind)
    assert (details.status, details.target_branch, details.conflicting_files) == ("open", "refs/heads/main", [])
    assert [(e.summary, e.oid) for e in details.events if e.type == "commit"] == [
        ("Better", proposed.oid),
        ("More", more.oid),
    ]
    assert "-two\n+2\n" in details.diff and "deleted file mode 100644\n" in details.diff
    assert "+oid sha256:" in details.diff and "diff --git a/b.txt b/b.txt\nnew file mode 100644\n" in details.diff

    assert status_of(lambda: other.merge_pull_request(name, 1, repo_type=kind)) == 403
    api.upload_file(path_or_fileobj=b"meanwhile", path_in_repo="c.txt", **at)
    api.merge_pull_request(name, 1, comment="Thank you", repo_type=kind)
    merged = api.get_discussion_details(name, 1, repo_type=kind)
    assert merged.status == "merged" and merged.merge_commit_oid == api.repo_info(**at).sha
    assert api.list_repo_files(**at) == [".gitattributes", *card, "a.txt", "b.txt", "c.txt", "w.safetensors"]
    head = api.list_repo_commits(**at)[0]
    assert (head.title, head.authors) == ("Better (#1)", [place.account, other.whoami()["name"]])
    assert "-two\n+2\n" in merged.diff and "c.txt" not in merged.diff
    assert api.revision_exists(**at, revision="refs/pr/1")
    assert status_of(lambda: api.merge_pull_request(name, 1, repo_type=kind)) == 400
    assert status_of(lambda: api.change_discussion_status(name, 1, "open", repo_type=kind)) == 400
    assert (
        status_of(lambda: other.upload_file(path_or_fileobj=b"z", path_in_repo="z", **at, revision="refs/pr/1")) == 403
    )


def test_a_draft_is_opened_filled_published_and_merged(api, other, public) -> None:
    """What `upload_folder(create_pr=True)` does: the pull request first, then commits to its ref."""
    repo = public
    draft = other.create_pull_request(repo, title="a draft")
    assert (draft.status, draft.git_reference) == ("draft", "refs/pr/1")
    assert other.model_info(repo, revision="refs/pr/1").sha == other.model_info(repo).sha
    put(other, repo, "a.txt", b"a", revision="refs/pr/1")
    assert status_of(lambda: api.merge_pull_request(repo, 1)) == 400
    other.change_discussion_status(repo, 1, "open")
    api.merge_pull_request(repo, 1)
    assert api.file_exists(repo, "a.txt")


def test_upload_folder_opens_a_pull_request(api, other, public, tmp_path) -> None:
    """With the transport the client chooses by itself."""
    repo = public
    (tmp_path / "model.safetensors").write_bytes(safetensors(4.0))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    done = other.upload_folder(repo_id=repo, folder_path=tmp_path, create_pr=True)
    assert done.pr_revision == "refs/pr/1"
    assert api.list_repo_files(repo, revision="refs/pr/1") == [".gitattributes", "README.md", "model.safetensors"]
    assert api.list_repo_files(repo) == [".gitattributes"]


def test_pull_requests_start_at_branches_and_at_their_parent_commit(api, repo) -> None:
    """Not at commits or names that do not exist; a stale parent is where the change began, not an error."""
    first = api.model_info(repo).sha
    put(api, repo, "a.txt", b"a")
    api.create_branch(repo, branch="dev", revision=first)
    for revision in (first, "missing"):
        with pytest.raises(RevisionNotFoundError):
            put(api, repo, "x.txt", b"x", create_pr=True, revision=revision)
    assert put(api, repo, "b.txt", b"b", create_pr=True, revision="dev").pr_num == 1
    api.merge_pull_request(repo, 1)
    assert api.file_exists(repo, "b.txt", revision="dev") and not api.file_exists(repo, "b.txt")
    stale = put(api, repo, "c.txt", b"c", create_pr=True, parent_commit=first)
    assert api.list_repo_commits(repo, revision=stale.oid)[1].commit_id == first
    with pytest.raises(RevisionNotFoundError):
        put(api, repo, "x.txt", b"x", revision="refs/pr/77")


def test_what_both_sides_changed_is_a_conflict(api, other, public) -> None:
    """Merging stops, says which files, and leaves main as it is."""
    repo = public
    put(api, repo, "a.txt", b"a")
    proposed = put(other, repo, "a.txt", b"bob's", create_pr=True)
    put(api, repo, "a.txt", b"alice's")
    head = api.model_info(repo).sha
    assert api.get_discussion_details(repo, proposed.pr_num).conflicting_files == ["a.txt"]
    assert status_of(lambda: api.merge_pull_request(repo, proposed.pr_num)) == 409
    assert api.model_info(repo).sha == head
    put(other, repo, "a.txt", b"alice's", revision="refs/pr/1")
    api.merge_pull_request(repo, proposed.pr_num)
    assert api.get_discussion_details(repo, 1).status == "merged"


def test_a_model_loads_from_a_pull_request(other, public, python) -> None:
    """Who reviews a change tries it: `from_pretrained(revision="refs/pr/1")`."""
    put(other, public, "config.json", b'{"model_type": "bert", "hidden_size": 48}', create_pr=True)
    load = f"AutoConfig.from_pretrained({public!r}, revision='refs/pr/1')"
    assert python(f"from transformers import AutoConfig; print({load}.hidden_size)") == "48"
