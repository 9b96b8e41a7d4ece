"""Repositories: made, found, renamed, deleted; refs; who am I."""

import secrets
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from hub_fusion.local_hub import LocalHub, add_member, add_user


def test_whoami_names_the_user_and_the_role_of_the_token(hub: LocalHub, alice: HfApi) -> None:
    """Programs decide by the role whether they may write, before they work for hours."""
    assert alice.whoami()["name"] == "alice"
    reader = HfApi(endpoint=hub.url, token=add_user(hub.root, "alice", role="read"))
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"


def test_a_token_that_nobody_was_given_is_refused_in_the_hubs_words(hub: LocalHub) -> None:
    """The client shows this text; a code would turn it into "repository not found"."""
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as caught:
        HfApi(endpoint=hub.url, token="hf_wrong").model_info("alice/x")
    assert caught.value.response.status_code == 401


def test_create_answers_409_with_the_url_so_that_exist_ok_works(alice: HfApi, repo: str) -> None:
    """The client takes the url from the body of the refusal."""
    with pytest.raises(HfHubHTTPError, match="already created") as caught:
        alice.create_repo(repo)
    assert caught.value.response.status_code == 409
    assert alice.create_repo(repo, exist_ok=True).repo_id == repo
    assert alice.create_repo(repo.upper(), exist_ok=True).repo_id


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_every_kind_begins_with_one_commit_and_gitattributes(alice: HfApi, kind: str) -> None:
    """As on the Hub: a new repository has a head that can be a parent, and a Space a card that says how it is run."""
    name = f"alice/k-{secrets.token_hex(4)}"
    alice.create_repo(name, repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    assert alice.repo_exists(name, repo_type=kind)
    assert [c.title for c in alice.list_repo_commits(name, repo_type=kind)] == ["initial commit"]
    files = alice.list_repo_files(name, repo_type=kind)
    assert files == [".gitattributes", *(["README.md"] if kind == "space" else [])]
    assert kind != "space" or alice.space_info(name).card_data.sdk == "gradio"
    assert alice.repo_info(name, repo_type=kind).sha == alice.list_repo_commits(name, repo_type=kind)[0].commit_id
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=name, repo_type=kind)
    assert alice.file_exists(name, "a.txt", repo_type=kind)
    alice.delete_repo(name, repo_type=kind)
    assert not alice.repo_exists(name, repo_type=kind)


def test_ids_are_found_in_any_case(alice: HfApi, repo: str) -> None:
    """The Hub compares ids without case and answers with the name as it was created."""
    assert alice.model_info(repo.upper().replace("ALICE", "Alice")).id == repo


def test_a_name_without_a_namespace_is_a_missing_repository(alice: HfApi, nobody: HfApi, raw, repo: str) -> None:
    """ "gpt2" names a repository of the Hub's early days; here it is none, not a page that does not exist."""
    assert not alice.repo_exists("gpt2") and not nobody.revision_exists("gpt2", "main")
    assert not alice.file_exists("gpt2", "config.json")
    for act in (alice.list_repo_commits, alice.list_repo_refs, alice.list_repo_files, alice.delete_repo):
        with pytest.raises(RepositoryNotFoundError):
            act("gpt2")
    answer = raw("GET", f"/api/models/{repo}/no-such-thing")
    assert answer.status == 404 and "x-error-code" not in answer.headers


@pytest.mark.parametrize("name", ["bad--name", "dots..", "-x", "x.git", "a" * 97, "sp ace", "ünï"])
def test_names_the_hub_refuses_are_refused(raw, alice: HfApi, name: str) -> None:
    """The client checks names too; other programs do not."""
    assert raw("POST", "/api/repos/create", {"name": name}, token=alice.token).status == 400


def test_nobody_writes_to_another_namespace(hub: LocalHub, alice: HfApi, bob: HfApi, nobody: HfApi, repo: str) -> None:
    """Neither with another user's token, nor with one that may only read, nor without."""
    reader = HfApi(endpoint=hub.url, token=add_user(hub.root, "alice", role="read"))
    for api in (bob, reader, nobody):
        for act in (
            lambda api=api: api.create_repo(f"alice/n-{secrets.token_hex(4)}"),
            lambda api=api: api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo),
            lambda api=api: api.create_tag(repo, tag="t"),
            lambda api=api: api.delete_repo(repo),
            lambda api=api: api.update_repo_settings(repo, visibility="private"),
        ):
            with pytest.raises(HfHubHTTPError) as caught:
                act()
            assert caught.value.response.status_code in (401, 403)
    assert alice.list_repo_files(repo) == [".gitattributes"]


def test_members_write_to_their_organisation(hub: LocalHub, alice: HfApi, bob: HfApi) -> None:
    """An organisation is a namespace shared by its members; others may not write there."""
    add_user(hub.root, "lab", org=True)
    add_member(hub.root, "lab", "alice")
    name = f"lab/m-{secrets.token_hex(4)}"
    alice.create_repo(name, private=True)
    assert alice.model_info(name).private
    assert "lab" in [org["name"] for org in alice.whoami()["orgs"]]
    with pytest.raises(RepositoryNotFoundError):
        bob.model_info(name)
    with pytest.raises(HfHubHTTPError):
        bob.create_repo(f"lab/m-{secrets.token_hex(4)}")


def test_a_renamed_repository_answers_under_both_names(alice: HfApi, repo: str, tmp_path) -> None:
    """Finetunes go on naming their base by the name it had."""
    alice.upload_file(path_or_fileobj=b"hello", path_in_repo="a.txt", repo_id=repo)
    alice.move_repo(repo, f"{repo}-new")
    assert alice.model_info(repo).id == f"{repo}-new"
    assert alice.model_info(repo, revision="main", files_metadata=True).id == f"{repo}-new"
    path = alice.hf_hub_download(repo, "a.txt", cache_dir=tmp_path)
    assert Path(path).read_text() == "hello"
    alice.upload_file(path_or_fileobj=b"more\0", path_in_repo="b.bin", repo_id=repo)
    assert alice.file_exists(f"{repo}-new", "b.bin")
    with pytest.raises(HfHubHTTPError) as caught:
        alice.move_repo(f"{repo}-new", alice.create_repo(f"{repo}-other").repo_id)
    assert caught.value.response.status_code == 409


def test_a_deleted_repository_is_gone_and_its_name_free(alice: HfApi, repo: str) -> None:
    """Nothing of the old repository shows in a new one of the same name."""
    alice.upload_file(path_or_fileobj=b"hello", path_in_repo="a.txt", repo_id=repo)
    alice.create_tag(repo, tag="v1")
    alice.delete_repo(repo)
    with pytest.raises(RepositoryNotFoundError):
        alice.model_info(repo)
    with pytest.raises(RepositoryNotFoundError):
        alice.delete_repo(repo)
    alice.create_repo(repo)
    assert alice.list_repo_files(repo) == [".gitattributes"]
    assert alice.list_repo_refs(repo).tags == []


def test_tags_do_not_move_and_name_any_revision(alice: HfApi, repo: str) -> None:
    """A generation's tag is a promise: setting it again is a conflict, not a change."""
    first = alice.model_info(repo).sha
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo)
    alice.create_tag(repo, tag="gen-0", revision=first[:8], tag_message="the beginning")
    alice.create_tag(repo, tag="gen-1")
    alice.create_tag(repo, tag="gen-1", exist_ok=True)
    with pytest.raises(HfHubHTTPError) as caught:
        alice.create_tag(repo, tag="gen-0")
    assert caught.value.response.status_code == 409
    assert {t.name: t.target_commit for t in alice.list_repo_refs(repo).tags}["gen-0"] == first
    assert alice.model_info(repo, revision="gen-0").sha == first
    assert alice.model_info(repo, revision="refs/tags/gen-0").sha == first
    alice.delete_tag(repo, tag="gen-0")
    for act in (lambda: alice.delete_tag(repo, tag="gen-0"), lambda: alice.create_tag(repo, tag="t", revision="no")):
        with pytest.raises(RevisionNotFoundError):
            act()
    with pytest.raises(BadRequestError):
        alice.create_tag(repo, tag="bad..name")


def test_branches_grow_apart_from_main(alice: HfApi, repo: str) -> None:
    """A branch with a slash in its name is one revision."""
    first = alice.model_info(repo).sha
    alice.create_branch(repo, branch="fusion/status")
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo, revision="fusion/status")
    assert alice.model_info(repo).sha == first
    assert alice.list_repo_files(repo, revision="fusion/status") == [".gitattributes", "a.txt"]
    assert [b.name for b in alice.list_repo_refs(repo).branches] == ["main", "fusion/status"]
    with pytest.raises(HfHubHTTPError) as caught:
        alice.create_branch(repo, branch="fusion/status")
    assert caught.value.response.status_code == 409
    with pytest.raises(HfHubHTTPError) as caught:
        alice.delete_branch(repo, branch="main")
    assert caught.value.response.status_code == 403
    alice.delete_branch(repo, branch="fusion/status")
    assert not alice.revision_exists(repo, "fusion/status")


def test_squashing_keeps_the_files_and_drops_the_history(alice: HfApi, repo: str) -> None:
    """A branch that is written every hour would otherwise grow without end."""
    for n in range(3):
        alice.upload_file(path_or_fileobj=b"%d" % n, path_in_repo="a.txt", repo_id=repo)
    alice.super_squash_history(repo, commit_message="one")
    assert [c.title for c in alice.list_repo_commits(repo)] == ["one"]
    assert alice.list_repo_files(repo) == [".gitattributes", "a.txt"]


def test_commits_are_listed_newest_first_in_pages(alice: HfApi, repo: str, raw) -> None:
    """The client follows the pages by itself."""
    for n in range(4):
        alice.upload_file(path_or_fileobj=b"%d" % n, path_in_repo="a.txt", repo_id=repo, commit_message=f"c{n}")
    found = alice.list_repo_commits(repo, formatted=True)
    assert [c.title for c in found] == ["c3", "c2", "c1", "c0", "initial commit"]
    assert [c.created_at for c in found] == sorted((c.created_at for c in found), reverse=True)
    page = raw("GET", f"/api/models/{repo}/commits/main?limit=2&p=1")
    assert [c["title"] for c in page.json] == ["c1", "c0"] and "p=2" in page.headers["link"]
