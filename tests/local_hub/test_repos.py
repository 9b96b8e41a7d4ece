"""Accounts and what they own; organisations; what is not served."""

import secrets
import shutil
import subprocess

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hub_fusion.local_hub import LocalHub, add_member, add_user


def test_a_name_without_a_namespace_is_a_missing_repository(alice: HfApi, nobody: HfApi, raw, repo: str) -> None:
    """ "gpt2" names a repository of the Hub's early days; here it is none, not a page that does not exist."""
    assert not alice.repo_exists("gpt2") and not nobody.revision_exists("gpt2", "main")
    assert not alice.file_exists("gpt2", "config.json")
    for act in (alice.list_repo_commits, alice.list_repo_refs, alice.list_repo_files, alice.delete_repo):
        with pytest.raises(RepositoryNotFoundError):
            act("gpt2")
    answer = raw("GET", f"/api/models/{repo}/no-such-thing")
    assert answer.status == 404 and "x-error-code" not in answer.headers


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


def test_storage_is_shown_to_those_whose_it_is(
    hub: LocalHub, alice: HfApi, bob: HfApi, nobody: HfApi, repo: str
) -> None:
    """Members see their organisation's; the largest comes first and the shares add up."""
    add_user(hub.root, "depot", org=True)
    add_member(hub.root, "depot", "alice", role="read")
    alice.upload_file(path_or_fileobj=b"\0" * 5000, path_in_repo="m.bin", repo_id=repo)
    mine = list(alice.list_user_repos())
    assert next(item for item in mine if item.id == repo).storage >= 5000
    assert [item.storage for item in mine] == sorted((item.storage for item in mine), reverse=True)
    assert abs(sum(item.storage_percent for item in mine) - 100) < 1e-6
    assert list(alice.list_user_repos(namespace="depot")) == []
    for api, status in ((bob, 403), (nobody, 401)):
        with pytest.raises(HfHubHTTPError) as caught:
            list(api.list_user_repos(namespace="depot"))
        assert caught.value.response.status_code == status


@pytest.mark.parametrize("path", ["alice/m", "alice/m.git", "datasets/alice/d"])
def test_git_is_told_that_it_is_not_served(hub: LocalHub, tmp_path, path) -> None:
    """`git clone` prints the server's sentence; a 404 would say that the repository does not exist."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    done = subprocess.run(
        ["git", "clone", f"{hub.url}/{path}", str(tmp_path / "x")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "Git is not served by this Hub" in done.stderr and "hf download" in done.stderr
    assert "not found" not in done.stderr
