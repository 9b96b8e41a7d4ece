"""Repositories: made, found, renamed, deleted, shown and hidden."""

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from .conftest import status_of


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_repository_is_made_once_moved_and_deleted(api, new_repo, kind) -> None:
    """It begins with one commit; a second one of its name is refused; the old name leads to the new one."""
    repo = new_repo(kind)
    options = {"repo_type": kind, **({"space_sdk": "static"} if kind == "space" else {})}
    assert api.create_repo(repo, exist_ok=True, **options).repo_id == repo
    with pytest.raises(HfHubHTTPError, match="already created") as caught:
        api.create_repo(repo, **options)
    assert caught.value.response.status_code == 409
    info = api.repo_info(repo, repo_type=kind)
    assert info.id == repo and info.private and len(info.sha) == 40
    card = ["README.md"] if kind == "space" else []
    assert api.list_repo_files(repo, repo_type=kind) == [".gitattributes", *card]
    (first,) = api.list_repo_commits(repo, repo_type=kind)
    assert (first.title, first.commit_id) == ("initial commit", info.sha)
    with pytest.raises(HfHubHTTPError, match=f"A {kind} repository called .* already exists") as caught:
        api.move_repo(repo, new_repo(kind), repo_type=kind)
    assert caught.value.response.status_code == 409
    api.move_repo(repo, f"{repo}-moved", repo_type=kind)
    try:
        assert api.repo_info(repo, repo_type=kind).id == f"{repo}-moved"
    finally:
        api.delete_repo(f"{repo}-moved", repo_type=kind)
    assert not api.repo_exists(repo, repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(f"{repo}-moved", repo_type=kind)
    api.delete_repo(f"{repo}-moved", repo_type=kind, missing_ok=True)


def test_a_renamed_repository_answers_under_both_names(api, repo, push, tmp_path) -> None:
    """Finetunes go on naming their base by the name it had."""
    push(repo, {"a.txt": b"hello"})
    new = f"{repo}-new"
    api.move_repo(repo, new)
    try:
        assert api.model_info(repo, revision="main", files_metadata=True).id == new
        assert Path(api.hf_hub_download(repo, "a.txt", cache_dir=tmp_path)).read_text() == "hello"
        api.upload_file(path_or_fileobj=b"more\0", path_in_repo="b.bin", repo_id=repo)
        assert api.file_exists(new, "b.bin")
    finally:
        api.delete_repo(new)


def test_a_deleted_repository_is_gone_and_its_name_free(api, repo, push) -> None:
    """Nothing of the old repository shows in a new one of the same name."""
    push(repo, {"a.txt": b"hello"})
    api.create_tag(repo, tag="v1")
    api.delete_repo(repo)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(repo)
    api.create_repo(repo, private=True)
    assert api.list_repo_files(repo) == [".gitattributes"] and api.list_repo_refs(repo).tags == []


def test_ids_are_found_in_any_case(api, repo) -> None:
    """The Hub compares ids without case and answers with the name as it was created."""
    owner, _, name = repo.partition("/")
    assert api.model_info(f"{owner.capitalize()}/{name.upper()}").id == repo


@pytest.mark.parametrize("name", ["bad--name", "dots..", "-x", "x.git", "a" * 97, "sp ace", "ünï"])
def test_names_that_cannot_be_are_refused(wire, name) -> None:
    """The client checks names too; other programs do not."""
    assert wire("POST", "/api/repos/create", {"name": name}).status == 400


def test_a_private_repository_does_not_exist_for_others(api, other, nobody, repo, push, tmp_path) -> None:
    """Every route answers as for a name that was never used, so that nothing can be learnt by asking."""
    push(repo, {"a.txt": b"secret"})
    asks: list[Callable[[HfApi, str], object]] = [
        lambda api, name: api.model_info(name),
        lambda api, name: api.list_repo_refs(name),
        lambda api, name: api.list_repo_commits(name),
        lambda api, name: list(api.list_repo_tree(name)),
        lambda api, name: api.get_paths_info(name, "a.txt"),
        lambda api, name: api.hf_hub_download(name, "a.txt", cache_dir=tmp_path),
        lambda api, name: api.upload_file(path_or_fileobj=b"x", path_in_repo="b.txt", repo_id=name),
        lambda api, name: api.create_tag(name, tag="t"),
        lambda api, name: api.create_discussion(name, title="t"),
        lambda api, name: api.delete_repo(name),
        lambda api, name: api.auth_check(name),
    ]
    owner = repo.partition("/")[0]
    for caller in (other, nobody):
        for ask in asks:
            texts = []
            for name in (repo, f"{owner}/never-was"):
                with pytest.raises(RepositoryNotFoundError) as caught:
                    ask(caller, name)
                texts.append((caught.value.response.status_code, caught.value.server_message))
            assert texts[0] == texts[1]
        assert repo not in [model.id for model in caller.list_models(author=owner)]
    assert api.hf_hub_download(repo, "a.txt", cache_dir=tmp_path) and api.auth_check(repo) is None


def test_visibility_and_gates_are_settings(api, nobody, repo, soon) -> None:
    """Changed, and changed back."""
    api.update_repo_settings(repo, visibility="public", gated="auto")
    assert soon(lambda: nobody.repo_exists(repo)) and nobody.model_info(repo).gated == "auto"
    assert soon(lambda: repo in [m.id for m in nobody.list_models(gated=True, author=repo.partition("/")[0])])
    api.update_repo_settings(repo, gated=False, visibility="private")
    assert not nobody.repo_exists(repo)
    assert api.model_info(repo).gated is False and api.model_info(repo).private


def test_only_the_owner_writes(api, other, nobody, reader, public) -> None:
    """Neither another account, nor a token that may only read, nor nobody."""
    for caller in (other, reader, nobody):
        for act in (
            lambda caller=caller: caller.create_repo(f"{public}-theirs"),
            lambda caller=caller: caller.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=public),
            lambda caller=caller: caller.create_tag(public, tag="t"),
            lambda caller=caller: caller.create_branch(public, branch="b"),
            lambda caller=caller: caller.delete_repo(public),
            lambda caller=caller: caller.update_repo_settings(public, visibility="private"),
            lambda caller=caller: caller.move_repo(public, f"{public}-moved"),
            lambda caller=caller: caller.super_squash_history(public),
        ):
            assert status_of(act) in (401, 403)
    assert api.list_repo_files(public) == [".gitattributes"] and not api.model_info(public).private


def test_an_account_lists_what_it_owns_with_its_storage(api, repo, push) -> None:
    """What `hf repos ls` shows."""
    push(repo, {"m.bin": b"\0" * 1000})
    mine = {item.id: item for item in api.list_user_repos()}
    assert mine[repo].type == "model" and mine[repo].visibility == "private" and mine[repo].storage >= 1000
    assert mine[repo].updated_at >= api.model_info(repo).created_at
