"""What a token may do: read, write, or what its fine-grained permissions name."""

import secrets

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hub_fusion.local_hub import LocalHub, add_member, add_user


@pytest.fixture
def fine(hub: LocalHub):
    """A maker of fine-grained tokens of alice's."""

    def make(permissions: dict[str, list[str]], **more: object) -> HfApi:
        token = add_user(hub.root, "alice", role="fineGrained", permissions=permissions, **more)
        return HfApi(endpoint=hub.url, token=token)

    return make


def write(api: HfApi, repo: str) -> str:
    """Commit a file; the new head."""
    return str(api.upload_file(path_or_fileobj=secrets.token_bytes(8), path_in_repo="a.txt", repo_id=repo).oid)


def status_of(act) -> int:
    """The status a call is refused with."""
    with pytest.raises(HfHubHTTPError) as caught:
        act()
    return caught.value.response.status_code


def test_a_token_for_one_repository_writes_there_and_nowhere_else(alice, repo, fine) -> None:
    """Nor does it make, rename or delete repositories of the account."""
    other = alice.create_repo(f"{repo}-other").repo_id
    api = fine({repo: ["repo.write"]})
    assert write(api, repo) == alice.model_info(repo).sha
    assert status_of(lambda: write(api, other)) == 403
    assert status_of(lambda: api.create_repo(f"{repo}-new")) == 403
    assert status_of(lambda: api.delete_repo(other)) == 403
    api.create_tag(repo, tag="t")
    alice.move_repo(repo, f"{repo}-moved")
    assert write(api, f"{repo}-moved")  # the permission is for the repository, whatever its name


def test_a_token_for_an_account_writes_to_all_it_owns(hub, alice, repo, fine) -> None:
    """Permissions on an organisation reach no further than the user's role in it."""
    add_user(hub.root, "guild", org=True)
    add_member(hub.root, "guild", "alice", role="read")
    assert write(fine({"alice": ["repo.write"]}), repo)
    assert status_of(lambda: fine({"guild": ["repo.write"]}).create_repo("guild/x")) == 403
    assert status_of(lambda: write(fine({"guild": ["repo.write"]}), repo)) == 403
    assert status_of(lambda: write(fine({"alice": ["repo.content.read"]}), repo)) == 403


def test_permissions_that_mean_nothing_are_refused_when_the_token_is_made(hub, repo) -> None:
    """A misspelt permission would otherwise show as a 403 much later."""
    for permissions, message in (
        ({repo: ["repo.rite"]}, "unknown permissions repo.rite"),
        ({"alice/never-was": ["repo.write"]}, "neither an account nor a repository"),
        (None, "permissions belong to"),
    ):
        with pytest.raises(ValueError, match=message):
            add_user(hub.root, "alice", role="fineGrained", permissions=permissions)
    with pytest.raises(ValueError, match="permissions belong to"):
        add_user(hub.root, "alice", permissions={})


def test_children_follow_their_base_when_it_is_renamed(alice, bob, repo) -> None:
    """Tags, filters and counts name the base as it is called now; asking by the old name finds them still."""
    child, late = (f"bob/{repo.partition('/')[2]}-{part}" for part in ("child", "late"))
    card = f"---\nbase_model: {repo}\n---\n".encode()

    def add(name: str) -> None:
        bob.create_repo(name)
        bob.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=name)

    add(child)
    alice.move_repo(repo, f"{repo}-2")
    add(late)
    alice.move_repo(f"{repo}-2", f"{repo}-3")
    now = f"{repo}-3"
    for name in (repo, now):
        found = list(bob.list_models(filter=f"base_model:finetune:{name}"))
        assert {model.id for model in found} == {child, late}
        assert all(f"base_model:finetune:{now}" in model.tags for model in found)
        assert all(f"base_model:{repo}" not in model.tags for model in found)
    info = bob.model_info(child, expand=["baseModels", "tags"])
    assert info.base_models["models"][0]["id"] == now and f"base_model:{now}" in info.tags
    assert bob.model_info(now, expand=["childrenModelCount"]).children_model_count == {"finetune": 2}
    bob.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=child)
    assert child in {model.id for model in bob.list_models(filter=f"base_model:{now}")}
