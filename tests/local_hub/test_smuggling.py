"""Bytes that are not the HTTP they pretend to be: one answer at most, a closed connection, nothing carried out."""

import json
import secrets
import socket

import pytest

from .conftest import send

HOST = b"Host: x\r\n"


def talk(hub, data: bytes) -> bytes:
    """Everything the server says to these bytes until it hangs up, as it must."""
    with socket.create_connection(("127.0.0.1", hub.port), timeout=20) as connection:
        said = b""
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                said += piece
        except ConnectionError:  # it hung up while we were talking
            pass
        return said


def smuggled(hub, alice, name: str) -> bool:
    """Whether the request within the request was carried out."""
    return send(hub.url, "GET", f"/api/models/alice/{name}", token=alice.token).status == 200


def request(name: str, token: str) -> bytes:
    """One that would show, if it were taken for a request of its own."""
    body = json.dumps({"name": name}).encode()
    head = b"POST /api/repos/create HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token.encode()
    return head + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"),
        (b"Content-Length: 5, 6\r\n", b"hello"),
        (b"Content-Length: -1\r\n", b""),
        (b"Content-Length: 1e3\r\n", b""),
        (b"Content-Length: 0x5\r\n", b"hello"),
        (b"Content-Length: " + b"9" * 30 + b"\r\n", b"hello"),
        (b"Transfer-Encoding: gzip\r\n", b"hello"),
        (b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\nhello\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"-5\r\nhello\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"+5\r\nhello\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhelloXX0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"f" * 30 + b"\r\nhello"),
        (b"Transfer-Encoding: chunked\r\n", b"5;" + b"a" * 2_000_000 + b"\r\nhello\r\n0\r\n\r\n"),
        (b"X-Folded: a\r\n b\r\n\tc\r\nContent-Length: 0\r\nContent-Length: 1\r\n", b""),
        (b"X\0: a\r\n", b""),
        (b"X: a\0b\r\n", b""),
        (b"X: a\rb\r\n", b""),
        (b"no colon\r\n", b""),
        (b": no name\r\n", b""),
        (b"X y: space in a name\r\n", b""),
        (b"Host: other\r\n", b""),
    ],
)  # fmt: skip
def test_a_request_that_could_be_read_in_two_ways_is_refused_and_ends_the_connection(headers, body, hub, alice) -> None:
    """What follows it on the connection is not taken for a request, by us or by a proxy before us."""
    name = f"s-{secrets.token_hex(4)}"
    said = talk(
        hub, b"POST /api/repos/create HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body + request(name, alice.token)
    )
    assert said == b"" or (said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")) and said.count(b"HTTP/1.1 ") == 1)
    assert not smuggled(hub, alice, name)
    assert send(hub.url, "GET", "/api/health").status == 200


def test_with_both_lengths_the_chunks_count(hub, alice) -> None:
    """As RFC 9112 (6.1) has it: the length is ignored, so the inner request is part of the chunks, whatever it says."""
    name = f"s-{secrets.token_hex(4)}"
    inner = request(name, alice.token)
    head = b"POST /api/validate-yaml HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    said = talk(hub, head + b"Connection: close\r\n\r\n%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 4") and said.count(b"HTTP/1.1 ") == 1 and not smuggled(hub, alice, name)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /api/health",
        b"GET /api/health HTTP/x",
        b"GET  /api/health HTTP/1.1",
        b"GET /api/he alth HTTP/1.1",
        b"G\0T /api/health HTTP/1.1",
        b"GET /api/h\xc3\xa9alth HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"",
        b"PRI * HTTP/2.0",
    ],
)
def test_a_line_that_is_no_request_gets_400_or_no_answer(line, hub) -> None:
    """TLS and HTTP/2 among others."""
    said = talk(hub, line + b"\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert said == b"" or said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ")), said[:200]
    assert send(hub.url, "GET", "/api/health").status == 200


@pytest.mark.parametrize(
    "target", [b"*", b"http://evil.example/api/health", b"//evil/x", b"evil:443", b"?x", b"/%", b"/%zz"]
)
def test_odd_targets_are_not_found(target, hub) -> None:
    """Absolute and authority forms as well: this is no proxy."""
    said = talk(hub, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ")), said[:200]


def test_a_head_that_is_too_long_gets_431(hub) -> None:
    """64 KiB, or what else comes in one read; the words say so."""
    for long in (b"X: " + b"a" * 2_000_000, b"X: a\r\n" * 200_000):
        said = talk(hub, b"GET /api/health HTTP/1.1\r\n" + HOST + long + b"\r\n\r\n")
        assert said == b"" or (said.startswith(b"HTTP/1.1 431 ") and b'{"error"' in said), said[:200]
    said = talk(hub, b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")


def test_header_values_do_not_come_back_as_headers(hub, alice, repo) -> None:
    """Neither the request id nor a name from the path can begin a line of an answer."""
    odd = "a%0d%0aSet-Cookie:%20x%0d%0a%0d%0aHTTP/1.1%20200"
    paths = (
        f"/{repo}/resolve/{odd}/x",
        f"/{repo}/resolve/main/{odd}",
        f"/api/models/alice/{odd}",
        f"/{odd}",
        f"/api/{odd}",
    )
    for path in paths:
        answer = send(hub.url, "GET", path, token=alice.token, X_Request_Id="a b;c")
        assert 400 <= answer.status < 500 and "set-cookie" not in answer.headers
        assert answer.headers["x-request-id"].startswith("Root=")


def test_requests_in_one_piece_are_answered_in_order(hub) -> None:
    """Pipelining is allowed, and each gets its own answer."""
    one = b"GET /api/health HTTP/1.1\r\n" + HOST + b"\r\n"
    two = b"GET /api/models/alice/none HTTP/1.1\r\n" + HOST + b"\r\n"
    said = talk(hub, one + two + one.replace(HOST, HOST + b"Connection: close\r\n"))
    assert [said.split(b"HTTP/1.1 ")[n][:3] for n in (1, 2, 3)] == [b"200", b"404", b"200"]
