"""The life of a request for access: asked, listed, accepted, refused, put back, withdrawn."""

import secrets
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from hub_fusion.local_hub import LocalHub, add_user, db
from hub_fusion.local_hub.schema import PARTICULARS

PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


def status_of(act) -> int:
    """The status a call is refused with."""
    with pytest.raises(HfHubHTTPError) as caught:
        act()
    return caught.value.response.status_code


@pytest.fixture
def gated(alice: HfApi):
    """A maker of gated repositories of alice's with one file."""

    def make(repo_type: str = "model", gated: str = "manual", card: str = "") -> str:
        sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
        name = alice.create_repo(f"alice/g-{secrets.token_hex(4)}", repo_type=repo_type, **sdk).repo_id
        for path, text in {"a.txt": "x", **({"README.md": card} if card else {})}.items():
            alice.upload_file(path_or_fileobj=text.encode(), path_in_repo=path, repo_id=name, repo_type=repo_type)
        alice.update_repo_settings(name, gated=gated, repo_type=repo_type)
        return name

    return make


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_request_goes_through_all_its_states(alice, bob, raw, gated, kind, tmp_path) -> None:
    """Each list shows it while it is in that state, and files come down in one state only."""
    name = gated(kind)

    def lists() -> list[int]:
        listers = (
            alice.list_pending_access_requests,
            alice.list_accepted_access_requests,
            alice.list_rejected_access_requests,
        )
        return [len(list(lister(name, repo_type=kind))) for lister in listers]

    def refusal() -> str:
        with pytest.raises(GatedRepoError) as caught:
            bob.auth_check(name, repo_type=kind)
        assert caught.value.response.status_code == 403
        with pytest.raises(GatedRepoError):
            bob.hf_hub_download(name, "a.txt", repo_type=kind, cache_dir=tmp_path / secrets.token_hex(4))
        return str(caught.value.server_message)

    def readable() -> bool:
        bob.auth_check(name, repo_type=kind)
        return bool(bob.hf_hub_download(name, "a.txt", repo_type=kind, cache_dir=tmp_path / secrets.token_hex(4)))

    assert lists() == [0, 0, 0] and "not in the authorized list" in refusal()
    asked = raw("POST", f"/{PREFIX[kind]}{name}/ask-access", token=bob.token)
    assert (asked.status, asked.json) == (303, {"status": "pending"})
    assert lists() == [1, 0, 0] and "awaiting a review" in refusal()
    request = next(iter(alice.list_pending_access_requests(name, repo_type=kind)))
    assert (request.username, request.fullname, request.email, request.status) == ("bob", "bob", None, "pending")
    assert datetime.now(UTC) - request.timestamp < timedelta(minutes=1) and request.fields is None
    alice.accept_access_request(name, request_id=request.request_id, repo_type=kind)
    assert lists() == [0, 1, 0] and readable()
    alice.cancel_access_request(name, "bob", repo_type=kind)
    assert lists() == [1, 0, 0] and refusal()
    alice.reject_access_request(name, "bob", repo_type=kind, rejection_reason="no")
    assert lists() == [0, 0, 1] and "rejected" in refusal()
    assert raw("POST", f"/{PREFIX[kind]}{name}/ask-access", token=bob.token).json == {"status": "rejected"}
    alice.grant_access(name, "bob", repo_type=kind)
    assert lists() == [0, 1, 0] and readable()
    assert next(iter(alice.list_accepted_access_requests(name, repo_type=kind))).timestamp == request.timestamp
    alice.update_repo_settings(name, gated=False, repo_type=kind)
    assert status_of(lambda: list(alice.list_pending_access_requests(name, repo_type=kind))) == 400


def test_a_state_it_is_in_already_and_users_that_are_not_there_are_refused(alice, bob, gated, repo) -> None:
    """With the statuses that the client's documentation names for each case."""
    name = gated()
    assert status_of(lambda: alice.grant_access(name, "never-was")) == 404
    assert status_of(lambda: alice.accept_access_request(name, "bob")) == 404
    assert status_of(lambda: alice.accept_access_request(name, request_id="0" * 24)) == 404
    alice.grant_access(name, "bob")
    assert status_of(lambda: alice.grant_access(name, "bob")) == 400
    assert status_of(lambda: alice.accept_access_request(name, "bob")) == 404
    alice.reject_access_request(name, "bob", rejection_reason=None)
    assert status_of(lambda: alice.reject_access_request(name, "bob", rejection_reason="no")) == 404
    alice.cancel_access_request(name, "bob")
    assert status_of(lambda: alice.cancel_access_request(name, "bob")) == 404
    assert status_of(lambda: alice.reject_access_request(name, "bob", rejection_reason="n" * 201)) == 400
    assert status_of(lambda: alice.grant_access(repo, "bob")) == 400  # not gated
    assert status_of(lambda: bob.grant_access(name, "bob")) == 403
    assert status_of(lambda: list(bob.list_pending_access_requests(name))) == 403


def test_the_form_of_the_card_must_be_filled_in(alice, bob, raw, gated) -> None:
    """The answers are the owner's to read; what the card does not ask for is not kept."""
    name = gated(card="---\nextra_gated_fields:\n  Company: text\n  I agree: checkbox\n---\n")
    path = f"/{name}/ask-access"
    refused = raw("POST", path, urlencode({"Company": "ACME"}).encode(), token=bob.token)
    assert refused.status == 400 and "I agree" in refused.json["error"]
    form = {"Company": "ACME", "I agree": "on", "hobby": "chess"}
    assert raw("POST", path, urlencode(form).encode(), token=bob.token).status == 303
    assert raw("POST", path, form, token=bob.token, Content_Type="application/json").status == 303
    (request,) = alice.list_pending_access_requests(name)
    assert request.fields == {"Company": "ACME", "I agree": "on"}


def test_a_request_can_be_withdrawn_while_it_is_pending(alice, bob, raw, gated) -> None:
    """By its maker."""
    name = gated()
    path = f"/api/models/{name}/user-access-request/cancel"
    assert raw("POST", path, token=bob.token).status == 404
    raw("POST", f"/{name}/ask-access", token=bob.token)
    assert raw("POST", path, token=bob.token).status == 200
    assert not list(alice.list_pending_access_requests(name))
    assert raw("POST", path).status == raw("POST", f"/{name}/ask-access").status == 401


def test_requests_are_listed_in_pages(hub: LocalHub, alice, raw, gated) -> None:
    """The client follows the Link header."""
    name = gated()
    users = [f"asker-{number}" for number in range(5)]
    for user in users:
        add_user(hub.root, user, fullname=user.title())
        alice.grant_access(name, user)
    path, seen = f"/api/models/{name}/user-access-request/accepted?limit=2", []
    while path:
        page = raw("GET", path, token=alice.token)
        seen += [item["user"]["user"] for item in page.json]
        assert all(item["user"]["fullname"] == item["user"]["user"].title() for item in page.json)
        path = page.headers.get("link", "").partition(hub.url)[2].partition(">")[0]
    assert seen == users
    for wrong in ("limit=0", "limit=x", "limit=1001", "cursor=-1", "limit=²"):
        assert raw("GET", f"/api/models/{name}/user-access-request/accepted?{wrong.replace('²', '%C2%B2')}",
                   token=alice.token).status == 400  # fmt: skip


def test_a_token_may_be_for_reading_requests_alone(hub: LocalHub, alice, bob, raw, gated) -> None:
    """`repo.access.read` lists them; a plain read token does not. An organisation cannot ask."""
    name = gated()
    raw("POST", f"/{name}/ask-access", token=bob.token)
    reader = add_user(hub.root, "alice", role="fineGrained", permissions={name: ["repo.access.read"]})
    other = add_user(hub.root, "alice", role="fineGrained", permissions={name: ["repo.content.read"]})
    plain = add_user(hub.root, "alice", role="read")
    api = HfApi(endpoint=hub.url, token=reader)
    assert [request.username for request in api.list_pending_access_requests(name)] == ["bob"]
    assert status_of(lambda: api.accept_access_request(name, "bob")) == 403
    path = f"/api/models/{name}/user-access-request/pending"
    assert [raw("GET", path, token=token).status for token in (other, plain, bob.token)] == [403, 403, 403]
    org = add_user(hub.root, f"org-{secrets.token_hex(4)}", org=True)
    assert raw("POST", f"/{name}/ask-access", token=org).status == 403


def test_requests_go_with_their_repository(alice, gated) -> None:
    """Along when it is renamed; gone when it is deleted, so that a new one of the same name starts afresh."""
    name = gated()
    alice.grant_access(name, "bob")
    alice.move_repo(name, f"{name}-b")
    assert len(list(alice.list_accepted_access_requests(f"{name}-b"))) == 1
    alice.delete_repo(f"{name}-b")
    alice.create_repo(f"{name}-b")
    alice.update_repo_settings(f"{name}-b", gated="manual")
    assert not list(alice.list_accepted_access_requests(f"{name}-b"))


def test_requests_in_an_older_file_are_kept_and_can_be_named(tmp_path) -> None:
    """They get an id when the file is brought up to date."""
    at = db.MIGRATIONS.index(PARTICULARS)
    with closing(sqlite3.connect(tmp_path / "hub.sqlite3")) as con:
        for step in (db.SCHEMA, *db.MIGRATIONS[:at]):
            con.executescript(step)
        con.execute(f"PRAGMA user_version={at}")
        con.execute("INSERT INTO accounts (hex, name, key, kind, created) VALUES ('a1', 'alice', 'alice', 'user', 0)")
        con.execute(
            "INSERT INTO repos (hex, kind, full_name, key, owner, created, modified, head, tree)"
            " VALUES ('b2', 'model', 'alice/m', 'alice/m', 1, 0, 0, '', '')"
        )
        con.execute("INSERT INTO access VALUES (1, 1, 'accepted', 5)")
        con.commit()
    with closing(db.Database(tmp_path / "hub.sqlite3")) as newer, newer.read() as con:
        row = dict(con.execute("SELECT * FROM access").fetchone())
    assert len(row.pop("hex")) == 24
    assert row == {
        "repo": 1,
        "user": 1,
        "status": "accepted",
        "at": 5,
        "reviewed": None,
        "fields": None,
        "reason": None,
    }
