"""Byte ranges from servers that redirect, break off, let addresses expire or send too much."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hub_fusion.errors import HubUnreachable
from hub_fusion.hub import Hub

BODY = bytes(range(256)) * 40


class Trouble(ThreadingHTTPServer):
    """A server of one file, on the Hub's path and at an address of its own; it notes every request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []  # path, token
        self.mode = "plain"
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's mode says."""

    server: Trouble

    def do_GET(self) -> None:
        """The file, or a redirect to it."""
        self.server.seen.append((self.path, self.headers.get("authorization")))
        mode, direct = self.server.mode, self.path.startswith("/direct")
        if mode in ("redirect", "expires", "elsewhere") and not direct:
            host = "localhost" if mode == "elsewhere" else "127.0.0.1"
            number = len(self.server.seen)
            self.send_response(302)
            self.send_header("Location", f"http://{host}:{self.server.server_port}/direct/{number}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if mode == "expires" and direct and sum(path == self.path for path, _ in self.server.seen) > 1:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = (int(n) for n in self.headers["range"].removeprefix("bytes=").split("-"))
        if mode == "other" or (mode == "other once" and len(self.server.seen) == 1):
            first, last = first + 5, last + 5
        if mode == "short":
            last -= 1
        part = BODY[first : last + 1]
        self.send_response(206)
        if mode != "silent":
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(part) + (100 if mode == "more" else 0)))
        self.end_headers()
        if mode == "breaks" and len(part) > 1000:
            self.wfile.write(part[:1000])
            self.close_connection = True
            return
        self.wfile.write(part + (b"x" * 100 if mode == "more" else b""))

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def trouble() -> Iterator[Trouble]:
    """The server, listening."""
    server = Trouble()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("mode", ["plain", "redirect", "expires", "elsewhere", "breaks", "more", "other once"])
def test_the_bytes_arrive_whatever_happens(trouble: Trouble, mode: str) -> None:
    """Several ranges one after another: the second uses the address that the first was sent to."""
    trouble.mode = mode
    hub = Hub(f"http://127.0.0.1:{trouble.server_port}", "hf_secret")
    for start, stop in ((0, 3000), (3000, 9000), (9000, len(BODY))):
        assert hub.read_range("acme/base", "model.safetensors", "a" * 40, start, stop) == BODY[start:stop]
    if mode in ("redirect", "elsewhere"):
        assert [path.startswith("/direct") for path, _ in trouble.seen] == [False, True, True, True]


@pytest.mark.parametrize("mode", ["other", "short", "silent"])
def test_other_bytes_than_asked_for_are_refused(trouble: Trouble, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that mixes up ranges would put one tensor's bytes into another; the answer itself says which they are."""
    trouble.mode = mode
    monkeypatch.setattr("hub_fusion.hub.calls.RETRIES", 1)
    hub = Hub(f"http://127.0.0.1:{trouble.server_port}", "hf_secret")
    with pytest.raises(HubUnreachable, match=r"where bytes 1000-1999 of acme/base/model.safetensors were asked for"):
        hub.read_range("acme/base", "model.safetensors", "a" * 40, 1000, 2000)
    assert len(trouble.seen) == 2


def test_the_last_range_may_end_with_the_file(trouble: Trouble) -> None:
    """Headers are asked for by a fixed number of bytes, which a file may not have."""
    hub = Hub(f"http://127.0.0.1:{trouble.server_port}", "hf_secret")
    found = hub.read_range("acme/base", "model.safetensors", "a" * 40, len(BODY) - 10, len(BODY) + 1000)
    assert found == BODY[-10:]


def test_the_token_goes_to_the_hub_alone(trouble: Trouble) -> None:
    """Also where the address of another host is used directly."""
    trouble.mode = "elsewhere"
    hub = Hub(f"http://127.0.0.1:{trouble.server_port}", "hf_secret")
    for start in (0, 1000):
        hub.read_range("acme/base", "model.safetensors", "a" * 40, start, start + 1000)
    assert [token is not None for _, token in trouble.seen] == [True, False, False]
