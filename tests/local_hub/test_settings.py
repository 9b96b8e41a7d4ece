"""Settings of repositories, and what each role in an organisation may do."""

import secrets

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hub_fusion.local_hub import LocalHub, add_member, add_user


def status_of(act) -> int:
    """The status a call is refused with."""
    with pytest.raises(HfHubHTTPError) as caught:
        act()
    return caught.value.response.status_code


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_repository_is_in_the_lists_of_strangers_while_it_is_public(alice, nobody, kind) -> None:
    """Flipped both ways."""
    sdk = {"space_sdk": "static"} if kind == "space" else {}
    name = alice.create_repo(f"alice/v-{secrets.token_hex(4)}", repo_type=kind, **sdk).repo_id
    lister = getattr(nobody, f"list_{kind}s")

    def listed() -> bool:
        return name in [item.id for item in lister(author="alice")]

    assert listed()
    alice.update_repo_settings(name, private=True, repo_type=kind)
    assert not listed() and name in [item.id for item in getattr(alice, f"list_{kind}s")(author="alice")]
    assert not nobody.repo_exists(name, repo_type=kind)
    alice.update_repo_settings(name, visibility="public", repo_type=kind)
    assert listed() and nobody.repo_exists(name, repo_type=kind)


def test_the_files_of_a_protected_space_are_its_owners(alice, nobody, raw) -> None:
    """What is public of such a Space is its running app, and none runs here."""
    name = alice.create_repo(
        f"alice/s-{secrets.token_hex(4)}", repo_type="space", space_sdk="gradio", visibility="protected"
    ).repo_id
    assert alice.space_info(name).private is True
    with pytest.raises(RepositoryNotFoundError):
        nobody.space_info(name)
    path = f"/api/spaces/{name}/settings"
    assert raw("PUT", path, {"discussionsDisabled": False}, token=alice.token).json["visibility"] == "protected"
    alice.update_repo_settings(name, visibility="public", repo_type="space")
    assert nobody.space_info(name).private is False
    refused = raw("PUT", f"/api/models/{name}/settings", {"visibility": "protected"}, token=alice.token)
    assert refused.status == 400 and "Spaces" in refused.json["error"]


def test_a_setting_that_is_null_changes_nothing(alice, nobody, raw) -> None:
    """A private repository does not become public by a value that was left empty, or is no boolean."""
    name = alice.create_repo(f"alice/p-{secrets.token_hex(4)}", private=True).repo_id
    path = f"/api/models/{name}/settings"
    empty = {"visibility": None, "private": None, "gated": None, "discussionsDisabled": None}
    assert raw("PUT", path, empty, token=alice.token).json["visibility"] == "private"
    for wrong in ("yes", 0, [], "false"):
        assert raw("PUT", path, {"private": wrong}, token=alice.token).status == 400
        assert raw("POST", "/api/repos/create", {"name": "x", "private": wrong}, token=alice.token).status == 400
    assert not nobody.repo_exists(name)


def test_notifications_are_checked_and_given_back(alice, repo, raw) -> None:
    """No mail is sent from here, so there is nothing to keep."""
    path = f"/api/models/{repo}/settings"
    right = {"gated": "manual", "gatedNotificationsMode": "bulk", "gatedNotificationsEmail": "a@example.com"}
    assert raw("PUT", path, right, token=alice.token).json.items() >= right.items()
    for wrong in ({"gatedNotificationsMode": "daily"}, {"gatedNotificationsEmail": "a"}, {"gated": "yes"}):
        assert raw("PUT", path, wrong, token=alice.token).status == 400


@pytest.mark.parametrize(
    "wrong", [{"type": ["model"]}, {"type": {"a": 1}}, {"visibility": ["public"]}, {"visibility": 7}]
)
def test_kinds_and_visibilities_that_are_no_texts_are_refused(alice, repo, raw, wrong) -> None:
    """In every request that has them."""
    body = {"name": "x", "fromRepo": repo, "toRepo": f"{repo}-b", "repository": f"{repo}-c"}
    for method, path in (
        ("POST", "/api/repos/create"),
        ("POST", "/api/repos/move"),
        ("PUT", f"/api/models/{repo}/settings"),
        ("POST", f"/api/models/{repo}/duplicate"),
    ):
        read = "/models/" not in path if "type" in wrong else not path.endswith("move")
        assert not read or raw(method, path, body | wrong, token=alice.token).status == 400


@pytest.fixture
def guild(hub: LocalHub):
    """An organisation: (its name, a maker of members by role)."""
    name = f"guild-{secrets.token_hex(4)}"
    add_user(hub.root, name, org=True)

    def member(role: str) -> HfApi:
        user = f"{role}-{secrets.token_hex(4)}"
        api = HfApi(endpoint=hub.url, token=add_user(hub.root, user))
        add_member(hub.root, name, user, role=role)
        return api

    return name, member


def test_roles_in_an_organisation(guild) -> None:
    """A reader looks, a contributor changes what it made, writers and admins change all; whoami tells the role."""
    org, member = guild
    members = {role: member(role) for role in ("read", "contributor", "write", "admin")}
    for role, api in members.items():
        assert [(o["name"], o["roleInOrg"]) for o in api.whoami()["orgs"]] == [(org, role)]
    theirs = members["write"].create_repo(f"{org}/theirs", private=True).repo_id
    mine = members["contributor"].create_repo(f"{org}/mine", private=True).repo_id
    assert status_of(lambda: members["read"].create_repo(f"{org}/x")) == 403
    for repo, may in ((theirs, ("write", "admin")), (mine, ("contributor", "write", "admin"))):
        for role, api in members.items():
            assert api.model_info(repo).private
            if role in may:
                api.create_tag(repo, tag=f"by-{role}")
                api.auth_check(repo, write=True)
            else:
                assert status_of(lambda api=api, repo=repo: api.create_tag(repo, tag="no")) == 403
                assert status_of(lambda api=api, repo=repo: api.auth_check(repo, write=True)) == 403
    assert status_of(lambda: members["contributor"].delete_repo(theirs)) == 403
    members["contributor"].delete_repo(mine)
    members["admin"].delete_repo(theirs)


def test_a_role_that_is_none_is_refused(hub: LocalHub, guild) -> None:
    """Rather than kept and never matched."""
    with pytest.raises(ValueError, match="admin, not 'owner'"):
        add_member(hub.root, guild[0], "alice", role="owner")
