"""Who am I, and what may this token do."""

import secrets

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from .conftest import status_of


def test_whoami_names_the_account_and_the_role_of_the_token(place, api) -> None:
    """Programs decide by the role whether they may write, before they work for hours."""
    me = api.whoami()
    assert me["type"] == "user" and me["name"] == place.account and isinstance(me["orgs"], list)
    token = me["auth"]["accessToken"]
    assert token["displayName"] and token["role"] in ("write", "fineGrained")
    overview = api.get_user_overview(place.account)
    assert overview.username == place.account and overview.num_models is not None


def test_a_read_token_says_so(reader, repo) -> None:
    """It sees what its account sees."""
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"
    assert reader.model_info(repo).private


def test_a_token_that_nobody_was_given_is_refused_in_the_hubs_words(place, public) -> None:
    """The client shows this text; a code would turn it into "repository not found"."""
    wrong = HfApi(endpoint=place.url, token="hf_" + "x" * 34)
    assert status_of(wrong.whoami) == 401
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as caught:
        wrong.model_info(public)
    assert caught.value.response.status_code == 401


def test_whoami_lists_what_a_fine_grained_token_may_do(api, repo, fine) -> None:
    """`hf auth whoami` and programs that check before they work read this object."""
    token = fine({repo: ["repo.write"], "global": ["discussion.write"]}, label="ci").whoami()["auth"]["accessToken"]
    assert (token["displayName"], token["role"]) == ("ci", "fineGrained")
    assert token["fineGrained"]["global"] == ["discussion.write"]
    assert token["fineGrained"]["scoped"] == [
        {
            "entity": {"_id": api.model_info(repo, expand=["sha"]).__dict__["_id"], "type": "model", "name": repo},
            "permissions": ["repo.write"],
        }
    ]


def test_a_token_for_one_repository_writes_there_and_nowhere_else(api, repo, new_repo, fine, push) -> None:
    """Nor does it make, rename or delete repositories of the account."""
    second, scoped = new_repo(), fine({repo: ["repo.write"]})
    assert push(repo, {"a.txt": secrets.token_bytes(4)}, api=scoped) == api.model_info(repo).sha
    assert status_of(lambda: push(second, {"a.txt": b"a"}, api=scoped)) in (403, 404)
    assert status_of(lambda: scoped.create_repo(f"{repo}-new")) == 403
    assert status_of(lambda: scoped.delete_repo(second)) in (403, 404)


def test_private_repositories_show_where_the_token_may_read(place, api, new_repo, fine) -> None:
    """In lists as well as by name."""
    mine, second = new_repo(), new_repo()
    scoped = fine({mine: ["repo.content.read"]})
    assert scoped.model_info(mine).private
    with pytest.raises(RepositoryNotFoundError):
        scoped.model_info(second)
    seen = {model.id for model in scoped.list_models(author=place.account)}
    assert mine in seen and second not in seen
    seen = {model.id for model in fine({place.account: ["repo.content.read"]}).list_models(author=place.account)}
    assert {mine, second} <= seen
    assert not {mine, second} & {model.id for model in fine({}).list_models(author=place.account)}


def test_gated_files_need_a_token_that_may_read_gated_repositories(place, other, fine, tmp_path) -> None:
    """Being let in is the account's; using it is the token's."""
    name = other.create_repo(f"{other.whoami()['name']}/gated-{secrets.token_hex(4)}").repo_id
    try:
        other.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=name)
        other.update_repo_settings(name, gated="manual")
        other.grant_access(name, place.account)
        with pytest.raises(GatedRepoError):
            fine({}).hf_hub_download(name, "a.txt", cache_dir=tmp_path / "1")
        assert fine({}, read_gated=True).hf_hub_download(name, "a.txt", cache_dir=tmp_path / "2")
    finally:
        other.delete_repo(name)
