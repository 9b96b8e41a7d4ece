"""People and organisations as others see them, and what people like."""

import secrets

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hub_fusion.local_hub import add_member, add_user


@pytest.fixture
def team(hub, alice):
    """An organisation with alice and a reader of it; (name, the reader's client)."""
    org, reader = f"org-{secrets.token_hex(4)}", f"reader-{secrets.token_hex(4)}"
    add_user(hub.root, org, org=True, fullname="The Team")
    token = add_user(hub.root, reader, fullname="R. Eader")
    add_member(hub.root, org, "alice")
    add_member(hub.root, org, reader, role="read")
    return org, HfApi(endpoint=hub.url, token=token)


def test_overviews_count_what_the_caller_may_see(alice, bob, nobody, team) -> None:
    """A private repository does not exist for others, not even as a number."""
    org, reader = team
    alice.create_repo(f"{org}/m")
    alice.create_repo(f"{org}/secret", private=True)
    alice.create_repo(f"{org}/d", repo_type="dataset")
    alice.create_discussion(f"{org}/m", title="t")
    for api, models in ((nobody, 1), (bob, 1), (reader, 2)):
        shown = api.get_organization_overview(org.upper())
        assert (shown.name, shown.fullname, shown.num_users) == (org, "The Team", 2)
        assert (shown.num_models, shown.num_datasets, shown.num_spaces) == (models, 1, 0)
    members = {member.username: member.fullname for member in nobody.list_organization_members(org)}
    assert members == {"alice": "alice", reader.whoami()["name"]: "R. Eader"}
    person = nobody.get_user_overview("alice")
    assert person.user_type == "user" and org in [found.name for found in person.orgs]
    assert person.num_discussions >= 1
    for calls in (nobody.list_user_followers, nobody.list_user_following):
        assert list(calls("alice")) == []
    assert list(nobody.list_organization_followers(org)) == []


def test_who_is_not_there_or_of_the_other_kind_is_not_found(nobody, team) -> None:
    """An organisation is not a person."""
    org, _ = team
    for ask, name in (
        (nobody.get_user_overview, org),
        (nobody.get_user_overview, "no-such-user"),
        (nobody.get_organization_overview, "alice"),
        (lambda name: list(nobody.list_organization_members(name)), "alice"),
        (lambda name: list(nobody.list_user_followers(name)), org),
        (nobody.list_liked_repos, "no-such-user"),
    ):
        with pytest.raises(HfHubHTTPError, match="does not exist") as caught:
            ask(name)
        assert caught.value.response.status_code == 404


def test_likes_are_counted_listed_and_taken_back(alice, bob, nobody, raw, repo) -> None:
    """The client can only take back: people like on the Hub's pages, here by the same request."""
    private = alice.create_repo(f"alice/p-{secrets.token_hex(4)}", private=True).repo_id
    for api in (alice, bob, bob):
        assert raw("POST", f"/api/models/{repo}/like", token=api.token).status == 200
    assert raw("POST", f"/api/models/{private}/like", token=alice.token).status == 200
    assert raw("POST", f"/api/models/{private}/like", token=bob.token).status == 404
    assert raw("POST", f"/api/models/{repo}/like").status == 401
    assert nobody.model_info(repo).likes == 2
    assert [user.username for user in nobody.list_repo_likers(repo)] == ["bob", "alice"]
    assert private in alice.list_liked_repos().models and private not in nobody.list_liked_repos("alice").models
    assert next(iter(nobody.list_models(sort="likes", author="alice"))).likes >= 1
    bob.unlike(repo)
    bob.unlike(repo)
    assert nobody.model_info(repo).likes == 1 and repo not in nobody.list_liked_repos("bob").models
    with pytest.raises(RepositoryNotFoundError):
        bob.unlike("missing")
    with pytest.raises(HfHubHTTPError):
        nobody.unlike(repo)


def test_an_avatar_is_an_image_whatever_the_name(raw, alice) -> None:
    """Pages of Spaces show it."""
    url = alice.whoami()["avatarUrl"]
    answer = raw("GET", url[url.index("/avatars") :])
    assert answer.headers["content-type"].startswith("image/svg+xml") and b">A</text>" in answer.body
    assert b"<script" not in raw("GET", "/avatars/%3Cscript%3E.svg").body
