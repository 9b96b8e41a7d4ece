"""Gated repositories: who is let in."""

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError


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
