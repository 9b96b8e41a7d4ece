"""Collections: made, filled, ordered, found, and private ones kept from others."""

import secrets

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hub_fusion.local_hub import add_member, add_user


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


@pytest.fixture
def shelf(alice):
    """A new collection of alice's."""
    return alice.create_collection(f"Généra-tions & more {secrets.token_hex(4)}", description="what came before")


def test_a_collection_keeps_its_key_when_its_title_changes(hub, alice, nobody, shelf) -> None:
    """Links to the old slug lead to the collection still."""
    assert shelf.slug.startswith("alice/genera-tions-more-") and shelf.url == f"{hub.url}/collections/{shelf.slug}"
    assert (shelf.items, shelf.private, shelf.description, shelf.owner["name"]) == (
        [],
        False,
        "what came before",
        "alice",
    )
    changed = alice.update_collection_metadata(shelf.slug, title="Ω", theme="pink", position=3, description="now")
    assert (changed.title, changed.theme, changed.position, changed.description) == ("Ω", "pink", 3, "now")
    assert changed.slug == f"alice/{shelf.slug.rpartition('-')[2]}" and changed.last_updated > shelf.last_updated
    assert nobody.get_collection(shelf.slug).slug == nobody.get_collection(changed.slug).slug == changed.slug
    alice.delete_collection(changed.slug)
    with pytest.raises(HfHubHTTPError) as caught:
        alice.delete_collection(changed.slug)
    assert status(caught) == 404
    alice.delete_collection(changed.slug, missing_ok=True)


def test_items_are_added_noted_moved_and_taken_out(alice, nobody, repo, shelf) -> None:
    """In the order of their positions, each once."""
    data = alice.create_repo(repo, repo_type="dataset").repo_id
    other = alice.create_collection(f"other {secrets.token_hex(4)}")
    alice.add_collection_item(shelf.slug, repo, "model", note="the first")
    alice.add_collection_item(shelf.slug, data, "dataset")
    full = alice.add_collection_item(shelf.slug, other.slug, "collection")
    shown = [(item.item_id, item.item_type, item.note, item.position) for item in full.items]
    assert shown == [(repo, "model", "the first", 0), (data, "dataset", None, 1), (other.slug, "collection", None, 2)]
    with pytest.raises(HfHubHTTPError) as caught:
        alice.add_collection_item(shelf.slug, repo, "model")
    assert status(caught) == 409
    assert len(alice.add_collection_item(shelf.slug, repo, "model", exists_ok=True).items) == 3
    alice.update_collection_item(shelf.slug, full.items[0].item_object_id, note="last", position=2)
    moved = nobody.get_collection(shelf.slug).items
    assert [(item.item_type, item.position) for item in moved] == [("dataset", 0), ("collection", 1), ("model", 2)]
    assert moved[2].note == "last"
    for _ in range(2):
        alice.delete_collection_item(shelf.slug, moved[0].item_object_id, missing_ok=True)
    with pytest.raises(HfHubHTTPError):
        alice.delete_collection_item(shelf.slug, moved[0].item_object_id)
    alice.delete_repo(repo)
    alice.delete_collection(other.slug)
    assert nobody.get_collection(shelf.slug).items == []


def test_collections_are_found_by_owner_and_item_in_pages(alice, bob, nobody, repo) -> None:
    """The latest change first; a list shows the first items only."""
    made = [api.create_collection(f"c-{n} {secrets.token_hex(4)}").slug for n, api in enumerate((alice, bob, alice))]
    repos = [repo, *(alice.create_repo(f"{repo}-{n}").repo_id for n in range(5))]
    for slug, api in zip(made, (alice, bob, alice), strict=True):
        for name in repos:
            api.add_collection_item(slug, name, "model")
    found = list(nobody.list_collections(item=f"models/{repo.upper()}", limit=2))
    assert [one.slug for one in found] == made[:0:-1] and [len(one.items) for one in found] == [4, 4]
    assert [one.slug for one in nobody.list_collections(item=f"models/{repo}", owner="bob")] == [made[1]]
    assert list(nobody.list_collections(item=f"datasets/{repo}")) == []
    assert {one.slug for one in nobody.list_collections(owner=["alice", "bob"], sort="upvotes")} >= set(made)


def test_private_collections_and_items_are_kept_from_others(hub, alice, bob, nobody, repo, shelf) -> None:
    """What a caller may not see does not exist for it, here too; only who writes for the owner changes them."""
    org = f"org-{secrets.token_hex(4)}"
    add_user(hub.root, org, org=True)
    add_member(hub.root, org, "alice")
    add_member(hub.root, org, "bob", role="read")
    hidden = alice.create_collection("hidden", namespace=org, private=True).slug
    assert bob.get_collection(hidden).private
    assert hidden not in [one.slug for one in nobody.list_collections(owner=org)]
    with pytest.raises(HfHubHTTPError) as caught:
        nobody.get_collection(hidden)
    assert status(caught) == 404
    alice.update_repo_settings(repo, private=True)
    alice.add_collection_item(shelf.slug, repo, "model")
    alice.add_collection_item(shelf.slug, hidden, "collection")
    assert [item.item_id for item in bob.get_collection(shelf.slug).items] == [hidden]
    assert nobody.get_collection(shelf.slug).items == []
    reader = HfApi(endpoint=hub.url, token=add_user(hub.root, "alice", role="read"))
    for api, slug in ((bob, hidden), (bob, shelf.slug), (reader, shelf.slug), (nobody, shelf.slug)):
        for act in (
            lambda api=api, slug=slug: api.update_collection_metadata(slug, title="mine"),
            lambda api=api, slug=slug: api.delete_collection(slug),
            lambda api=api, slug=slug: api.add_collection_item(slug, "alice/x", "model"),
        ):
            with pytest.raises(HfHubHTTPError) as caught:
                act()
            assert status(caught) in (401, 403)
    for api in (bob, reader):
        with pytest.raises(HfHubHTTPError) as caught:
            api.create_collection("x", namespace=org)
        assert status(caught) == 403


def test_a_title_is_taken_once_and_wrong_requests_are_refused(alice, raw, repo, shelf) -> None:
    """`exists_ok` takes the slug from the refusal."""
    with pytest.raises(HfHubHTTPError) as caught:
        alice.create_collection(shelf.title)
    assert status(caught) == 409
    assert alice.create_collection(shelf.title, exists_ok=True).slug == shelf.slug
    path = f"/api/collections/{shelf.slug}"
    for method, where, body in (
        ("POST", "/api/collections", {"namespace": "alice"}),
        ("POST", "/api/collections", {"title": ["x"], "namespace": "alice"}),
        ("POST", "/api/collections", {"title": "x" * 300, "namespace": "alice"}),
        ("PATCH", path, {"private": "yes"}),
        ("PATCH", path, {"theme": "grey"}),
        ("PATCH", path, {"position": -1}),
        ("POST", f"{path}/items", {"item": repo}),
        ("POST", f"{path}/items", {"item": {"type": "paper", "id": "2401.00001"}}),
        ("POST", f"{path}/items", {"item": {"type": "collection", "id": shelf.slug}}),
        ("GET", "/api/collections?sort=size", None),
    ):
        assert raw(method, where, body, token=alice.token).status == 400, (method, where, body)
    for kind, name in (("dataset", repo), ("model", "alice/none"), ("collection", f"alice/{'0' * 24}")):
        with pytest.raises(HfHubHTTPError) as caught:
            alice.add_collection_item(shelf.slug, name, kind)
        assert status(caught) == 404


def test_parts_of_the_hub_that_are_not_here_say_so(alice, repo) -> None:
    """A wrong address and a missing part must not look the same."""
    for ask in (
        lambda: alice.create_bucket("b"),
        lambda: list(alice.list_papers(query="x")),
        lambda: list(alice.list_daily_papers()),
        lambda: alice.paper_info("2401.00001"),
        lambda: alice.get_model_tags(),
        lambda: alice.get_dataset_leaderboard(alice.create_repo(repo, repo_type="dataset", exist_ok=True).repo_id),
    ):
        with pytest.raises(HfHubHTTPError, match="not served here") as caught:
            ask()
        assert status(caught) == 501
