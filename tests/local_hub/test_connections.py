"""Clients that hold connections open, saying next to nothing: others do not notice."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hub_fusion.local_hub import LocalHub, add_user, connections, serve

from .conftest import send


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalHub]:
    """A Hub of its own, impatient."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections.Connection, "head_timeout_s", 0.5)
        with serve(tmp_path / "hub") as hub:
            yield hub


def open_to(hub: LocalHub) -> socket.socket:
    return socket.create_connection(("127.0.0.1", hub.port), timeout=20)


def is_alive(hub: LocalHub) -> bool:
    return send(hub.url, "GET", "/api/health").status == 200


def test_a_head_must_arrive_in_time_however_it_drips(own) -> None:
    """A byte now and then does not prolong it; nothing at all neither; and not on a connection that was used before."""
    for before in (b"", b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"):
        with open_to(own) as slow:
            if before:
                slow.sendall(before)
                assert slow.recv(65536).startswith(b"HTTP/1.1 200")
            began = time.monotonic()
            try:
                for byte in b"GET /api/health HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"x" * 400:
                    slow.sendall(bytes([byte]))
                    time.sleep(0.05)
            except OSError:
                pass
            else:
                pytest.fail("400 bytes in 20 s, and still connected")
            assert time.monotonic() - began < 10
    with open_to(own) as silent:
        assert silent.recv(1) == b""


def test_slow_clients_do_not_block_others(own) -> None:
    """A hundred bodies that never end take no thread; a hundred quick requests beside them are answered."""
    token = add_user(own.root, "alice")
    head = b"POST /api/repos/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    with ExitStack() as stack:
        slow = [stack.enter_context(open_to(own)) for _ in range(100)]
        for connection in slow:
            connection.sendall(head)
        for number in range(100):
            slow[number].sendall(b" ")
            assert send(own.url, "GET", "/api/whoami-v2", token=token).json["name"] == "alice"


def test_connections_beyond_the_limit_are_told_503_or_closed_and_the_server_recovers(own, monkeypatch) -> None:
    """The number of open ones is bounded; clients try a 503 again."""
    limit = own._parts.server.config.limit_concurrency
    assert limit == connections.MAX_CONNECTIONS <= 1000
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 8)
    own._parts.server.config.limit_concurrency = 8
    head = b"POST /api/repos/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    with ExitStack() as stack:
        kept = [stack.enter_context(open_to(own)) for _ in range(7)]
        for connection in kept:
            connection.sendall(head)
        deadline = time.monotonic() + 20
        while len(own._parts.server.server_state.connections) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        more = [stack.enter_context(open_to(own)) for _ in range(6)]
        answers = []
        for connection in more:
            try:
                connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
                answers.append(connection.recv(65536)[:12])
            except OSError:
                answers.append(b"")
        assert b"HTTP/1.1 503" in answers and b"" in answers and b"HTTP/1.1 200" not in answers
    deadline = time.monotonic() + 20
    while not is_alive(own):
        assert time.monotonic() < deadline
