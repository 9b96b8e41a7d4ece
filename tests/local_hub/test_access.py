"""Who sees what: private and gated repositories."""

import secrets
from collections.abc import Callable

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError


@pytest.fixture
def private(alice: HfApi) -> str:
    """A private repository of alice's with one file."""
    name = str(alice.create_repo(f"alice/p-{secrets.token_hex(4)}", private=True).repo_id)
    alice.upload_file(path_or_fileobj=b"secret", path_in_repo="a.txt", repo_id=name)
    return name


def test_a_private_repository_does_not_exist_for_others(alice, bob, nobody, private, tmp_path) -> None:
    """Every route answers as for a name that was never used, so that nothing can be learnt by asking."""
    asks: list[Callable[[HfApi, str], object]] = [
        lambda api, name: api.model_info(name),
        lambda api, name: api.list_repo_refs(name),
        lambda api, name: api.list_repo_commits(name),
        lambda api, name: list(api.list_repo_tree(name)),
        lambda api, name: api.get_paths_info(name, "a.txt"),
        lambda api, name: api.hf_hub_download(name, "a.txt", cache_dir=tmp_path),
        lambda api, name: api.upload_file(path_or_fileobj=b"x", path_in_repo="b.txt", repo_id=name),
        lambda api, name: api.create_tag(name, tag="t"),
        lambda api, name: api.delete_repo(name),
        lambda api, name: api.auth_check(name),
    ]
    for api in (bob, nobody):
        for ask in asks:
            texts = []
            for name in (private, "alice/never-was"):
                with pytest.raises(RepositoryNotFoundError) as caught:
                    ask(api, name)
                texts.append((caught.value.response.status_code, caught.value.server_message))
            assert texts[0] == texts[1]
        assert private not in [m.id for m in api.list_models(author="alice")]
    assert private in [m.id for m in alice.list_models(author="alice")]
    assert alice.hf_hub_download(private, "a.txt", cache_dir=tmp_path)


def test_visibility_can_be_changed(alice, nobody, private) -> None:
    """And changed back."""
    alice.update_repo_settings(private, visibility="public")
    assert nobody.model_info(private).private is False
    alice.update_repo_settings(private, visibility="private")
    assert not nobody.repo_exists(private)


def test_gated_files_are_for_those_who_were_let_in(alice, bob, nobody, repo, tmp_path) -> None:
    """Metadata stays visible: discovery must see the repository, and say why it is set aside."""
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo)
    alice.update_repo_settings(repo, gated="manual")
    assert nobody.model_info(repo).gated == "manual"
    assert repo in [m.id for m in nobody.list_models(gated=True, author="alice")]
    for api, status in ((bob, 403), (nobody, 401)):
        with pytest.raises(GatedRepoError) as caught:
            api.hf_hub_download(repo, "a.txt", cache_dir=tmp_path / "other")
        known = "you are not in the authorized list" if status == 403 else "authenticate and ask for access"
        assert f"Access to model {repo} is restricted" in str(caught.value) and known in str(caught.value)
        with pytest.raises(GatedRepoError) as caught:
            api.auth_check(repo)
        assert caught.value.response.status_code == status
    assert alice.hf_hub_download(repo, "a.txt", cache_dir=tmp_path / "owner")
    alice.grant_access(repo, "bob")
    assert bob.hf_hub_download(repo, "a.txt", cache_dir=tmp_path / "granted")
    assert [r.username for r in alice.list_accepted_access_requests(repo)] == ["bob"]
    alice.reject_access_request(repo, user="bob", rejection_reason="no")
    with pytest.raises(GatedRepoError):
        bob.hf_hub_download(repo, "a.txt", cache_dir=tmp_path / "late")
    with pytest.raises(HfHubHTTPError):
        bob.grant_access(repo, "bob")


@pytest.mark.parametrize(("gated", "status"), [("auto", "accepted"), ("manual", "pending")])
def test_asking_opens_automatic_gates_only(alice, bob, raw, repo, gated, status) -> None:
    """The answer to a form on the Hub's page; programs cannot open a manual gate."""
    alice.update_repo_settings(repo, gated=gated)
    assert raw("POST", f"/{repo}/ask-access", token=bob.token).json == {"status": status}
    asked = {"accepted": alice.list_accepted_access_requests, "pending": alice.list_pending_access_requests}[status]
    assert [r.username for r in asked(repo)] == ["bob"]
