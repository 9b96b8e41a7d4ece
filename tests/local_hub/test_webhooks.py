"""Webhooks: what a receiver that really listens is told, when, and who is not told."""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, WebhookPayload
from huggingface_hub.errors import HfHubHTTPError

from hub_fusion.local_hub import LocalHub, add_user, serve


class Receiver:
    """Keeps what it is sent; answers with the statuses in `answers`, then with 200."""

    def __init__(self) -> None:
        self.got: list[tuple[str | None, dict[str, Any]]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.got.append((self.headers["X-Webhook-Secret"], body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("Location", f"{receiver.url}/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def events(self) -> list[tuple[str, str]]:
        return sorted((body["event"]["scope"], body["event"]["action"]) for _, body in self.got)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A listening receiver."""
    running = Receiver()
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_all_that_happens_to_a_repository_is_told_with_the_secret(alice: HfApi, receiver: Receiver) -> None:
    """Each body is what the client's own receiver parses."""
    name = f"alice/w-{secrets.token_hex(4)}"
    watched = [{"type": "model", "name": name}, {"type": "model", "name": f"{name}-b"}]
    hook = alice.create_webhook(url=receiver.url, watched=watched, secret="s3cret")
    alice.create_repo(name)
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=name)
    alice.create_tag(name, tag="v1")
    thread = alice.create_discussion(name, "t", description="d")
    alice.comment_discussion(name, thread.num, "c")
    alice.move_repo(name, f"{name}-b")
    alice.delete_repo(f"{name}-b")
    wanted = {("repo", "create"), ("repo.content", "update"), ("discussion", "create"), ("repo", "move"),
              ("discussion.comment", "create"), ("repo", "delete")}  # fmt: skip
    until(lambda: wanted <= set(receiver.events()))
    until(lambda: any(ref["ref"] == "refs/tags/v1" for _, b in receiver.got for ref in b.get("updatedRefs", [])))
    for secret, body in receiver.got:
        assert secret == "s3cret" and WebhookPayload(**body).webhook.id == hook.id
    alice.delete_webhook(hook.id)


def test_a_refused_delivery_is_tried_again_and_a_redirect_is_not_followed(hub, alice, bob, repo, receiver, raw) -> None:
    """The record tells tries and status; it can be replayed, by its owner only."""
    receiver.answers = [500, 307]
    hook = alice.create_webhook(url=receiver.url, watched=[{"type": "model", "name": repo}])
    alice.create_tag(repo, tag="v1")
    path = f"/api/settings/webhooks/{hook.id}/deliveries"
    until(lambda: raw("GET", path, token=alice.token).json[0]["status"] == "delivered")
    record = raw("GET", path, token=alice.token).json[0]
    assert (record["attempts"], record["statusCode"], record["error"]) == (3, 200, None) and len(receiver.got) == 3
    assert raw("POST", f"{path}/{record['id']}/replay", token=bob.token).status == 404
    assert raw("POST", f"{path}/{record['id']}/replay", token=alice.token).status == 200
    until(lambda: len(receiver.got) == 4)
    alice.delete_webhook(hook.id)


def test_what_was_not_delivered_is_delivered_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    """The event is on disk with the change."""
    token = add_user(tmp_path, "alice")
    receiver.answers = [500]
    with serve(tmp_path) as hub:
        api = HfApi(endpoint=hub.url, token=token)
        api.create_webhook(url=receiver.url, watched=[{"type": "user", "name": "alice"}])
        api.create_repo("alice/m")
    with serve(tmp_path):
        until(lambda: receiver.events().count(("repo", "create")) == 2)


def test_a_private_repository_is_not_told_to_outsiders(alice: HfApi, bob: HfApi, receiver: Receiver) -> None:
    """Watching the account tells of its public ones."""
    hook = bob.create_webhook(url=receiver.url, watched=[{"type": "user", "name": "alice"}])
    suffix = secrets.token_hex(4)
    alice.create_repo(f"alice/hidden-{suffix}", private=True)
    alice.create_repo(f"alice/shown-{suffix}")
    until(lambda: any("shown" in body["repo"]["name"] for _, body in receiver.got))
    assert not any("hidden" in body["repo"]["name"] for _, body in receiver.got)
    with pytest.raises(HfHubHTTPError):
        alice.get_webhook(hook.id)
    assert hook.id not in [webhook.id for webhook in alice.list_webhooks()]
    bob.delete_webhook(hook.id)


@pytest.mark.parametrize(
    "wrong",
    [{"url": "file:///etc/passwd"}, {"url": "http://"}, {"url": "http://h:99999"}, {"url": "http://h/\r\nX: y"},
     {"url": 7}, {"url": "http://["}, {"watched": []}, {"watched": [{"type": []}]}, {"watched": "x"}, {"domains": [{}]},
     {"domains": []}, {"secret": "a\nb"}, {"secret": "é"}, {"jobSourceId": "j"}],
)  # fmt: skip
def test_a_wrong_webhook_is_refused(hub: LocalHub, alice: HfApi, raw: Any, wrong: dict[str, Any]) -> None:
    """With a sentence, and never a crash."""
    right = {"url": "http://127.0.0.1:9/", "watched": [{"type": "user", "name": "alice"}], "domains": ["repo"]}
    refused = raw("POST", "/api/settings/webhooks", right | wrong, token=alice.token)
    assert refused.status in (400, 501) and refused.json["error"]
    assert raw("POST", "/api/settings/webhooks", right).status == 401
