"""A delivery of the Hub's webhooks ends a watcher's pause; nothing else that arrives at its address does anything."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from hub_fusion import webhook
from hub_fusion.errors import RecipeError
from hub_fusion.watch import watch
from hub_fusion.webhook import Receiver

from .world import AUTHORS, BASE, LATER, World

SECRET = "of the webhook"


@pytest.fixture
def receiver() -> Receiver:
    return Receiver(BASE, SECRET)


@pytest.fixture
def url(receiver: Receiver) -> Iterator[str]:
    with receiver.listening("127.0.0.1:0") as url:
        yield url


def delivery(repo: str = BASE, scope: str = "discussion", **more: Any) -> bytes:
    told = {"event": {"action": "create", "scope": scope}, "repo": {"type": "model", "name": repo}}
    return json.dumps(told | more).encode()


def post(url: str, body: bytes, secret: str | None = SECRET, **headers: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("POST", "/", body, ({"X-Webhook-Secret": secret} if secret is not None else {}) | headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_delivery_with_the_secret_is_news_once(receiver: Receiver, url: str) -> None:
    """The Hub sends at least once, and whoever recorded a delivery may send it again."""
    assert post(url, delivery()) == 200 and receiver.news.is_set()
    receiver.news.clear()
    assert post(url, delivery()) == 200 and not receiver.news.is_set()
    assert post(url, delivery(n=2)) == 200 and receiver.news.is_set()


@pytest.mark.parametrize(("secret", "status"), [(None, 401), ("", 403), ("another", 403), (SECRET + "é", 403)])
def test_without_the_secret_nothing_happens(receiver: Receiver, url: str, secret: str | None, status: int) -> None:
    assert post(url, delivery(), secret) == status and not receiver.news.is_set()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"\xff",
        b"[" * 100_000,
        b'{"repo": [], "event": {}}',
        delivery(repo=5),
        delivery(scope=None),
    ],  # type: ignore[arg-type]
    ids=range(9),
)
def test_what_is_no_delivery_is_an_error_and_no_news(receiver: Receiver, url: str, body: bytes) -> None:
    assert post(url, body) == 400 and not receiver.news.is_set()


def test_what_the_watcher_does_to_its_own_base_wakes_nobody(receiver: Receiver, url: str) -> None:
    """Commits, tags, settings, its own comments; news of others' repositories and new discussions do."""
    for scope in ("repo", "repo.content", "repo.config", "discussion.comment"):
        assert post(url, delivery(BASE.upper(), scope)) == 200 and not receiver.news.is_set()
    assert post(url, delivery("ann/finetune", "repo.content")) == 200 and receiver.news.is_set()


def test_bodies_and_waits_are_bounded(receiver: Receiver, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of a terabyte is refused by its length, one that never comes is hung up on."""
    assert post(url, b"", **{"content-length": str(10**12)}) == 413
    assert post(url, b"", **{"content-length": "x"}) == 411
    monkeypatch.setattr(webhook, "PATIENCE_S", 0.3)
    address = urlsplit(url)
    for sent in (b"POST / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"):
        with socket.create_connection((address.hostname, address.port), timeout=5) as slow:  # type: ignore[arg-type]
            slow.sendall(sent)
            assert slow.recv(1000) == b""
    assert post(url, delivery()) == 200


@pytest.mark.parametrize("address", ["", "8000", "host:", "localhost:99999", "localhost:x", "192.0.2.1:0"])
def test_an_address_that_is_none_is_told(receiver: Receiver, address: str) -> None:
    with pytest.raises(RecipeError), receiver.listening(address):
        pass


def test_without_a_secret_nobody_listens() -> None:
    with pytest.raises(RecipeError, match="HUB_FUSION_WEBHOOK_SECRET"):
        Receiver(BASE, "")


def test_the_hubs_own_webhook_wakes_a_watcher_that_would_sleep_for_an_hour(ready: World, receiver: Receiver) -> None:
    """It waits for a sixth contribution; its author announces it, and is answered at once."""
    recipe = ready.recipe(round={"min_contributions": len(AUTHORS) + 1})
    outcomes: list[Any] = []

    def work() -> None:
        watch(recipe, ready.maintainer, ready.compute, work=ready.work, interval=3600, tell=outcomes.append,
              receiver=receiver)  # fmt: skip

    with receiver.listening("127.0.0.1:0") as url:
        ready.maintainer.api.create_webhook(
            url=url, watched=[{"type": "model", "name": BASE}], domains=["repo", "discussion"], secret=SECRET
        )
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        _until(lambda: [o.status for o in outcomes] == ["waiting"])
        ready.contribute(LATER, seed=9)
        number = ready.client(LATER).api.create_discussion(BASE, f"hub-fusion: {LATER}/finetune").num
        _until(lambda: any(o.status == "published" for o in outcomes))
        details = ready.maintainer.api.get_discussion_details
        _until(lambda: any("gen-1" in getattr(e, "content", "") for e in details(BASE, number).events))
    looks = len(outcomes)
    assert looks <= 4, "its own commits and comments did not wake it"


def _until(done: Any) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)
