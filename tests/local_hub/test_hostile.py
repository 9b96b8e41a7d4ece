"""Requests no client sends: all of them get an answer below 500, and none of them changes anything."""

import base64
import contextlib
import hashlib
import json
import random
import socket
import struct
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.local_hub import attributes, xet_format
from hub_fusion.local_hub.app import TOPICS

from .conftest import safetensors, send

BAD_PATHS = [
    "../a",
    "a/../../b",
    "/etc/passwd",
    "a//b",
    "./a",
    "a/.",
    "..\\a",
    "\\a",
    "a\0b",
    "a\nb",
    ".git/config",
    "x/.GIT/config",
    "",
    "/",
    "a" * 256,
    "/".join(["a" * 200] * 6),
    "\ud800",
    None,
    7,
    ["a"],
]


def commit(raw, api, repo, *lines: object, header: object = None) -> int:
    """The status of a commit made of these lines."""
    parts = [{"key": "header", "value": header or {"summary": "s"}}, *lines]
    body = "\n".join(json.dumps(part) for part in parts).encode()
    return raw("POST", f"/api/models/{repo}/commit/main", body, token=api.token).status


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_could_leave_the_folder_is_refused(alice, repo, raw, path) -> None:
    """Paths are only strings here, but those who download would write them to their disks."""
    line = {"key": "file", "value": {"path": path, "content": "eA==", "encoding": "base64"}}
    assert commit(raw, alice, repo, line) == 422
    body = {"files": [{"path": path, "size": 1, "sample": "eA=="}]}
    assert raw("POST", f"/api/models/{repo}/preupload/main", body, token=alice.token).status == 422
    if isinstance(path, str):
        where = quote(path.encode("utf-8", "surrogatepass"))
        for prefix in (f"/{repo}/resolve/main/", f"/api/models/{repo}/tree/main/"):
            assert raw("GET", prefix + where).status in (200, 400, 404)
    assert alice.list_repo_files(repo) == [".gitattributes"]


def test_no_request_path_reaches_the_file_system(hub, repo, raw) -> None:
    """Neither encoded nor plain dots lead out of the repository."""
    paths = ["../../../../etc/passwd", "..%2F..%2F..%2Fetc%2Fpasswd", "%2e%2e/%2e%2e/hub.sqlite3", "hub.sqlite3"]
    paths += ["%252e%252e%252fhub.sqlite3", "..%5c..%5chub.sqlite3", "hub.sqlite3%00.txt", "%u002e%u002e/hub.sqlite3"]
    paths += ["%ef%bc%8e%ef%bc%8e%ef%bc%8fhub.sqlite3", "....//....//hub.sqlite3", "..;/hub.sqlite3", "~/hub.sqlite3"]
    for path in paths:
        for prefix in (f"/{repo}/resolve/main/", f"/{repo}/raw/main/", f"/api/models/{repo}/safetensors-metadata/"):
            answer = raw("GET", prefix + path)
            assert answer.status == 404 and b"root:" not in answer.body and b"SQLite" not in answer.body


@pytest.mark.parametrize(
    "wrong", ["%c0%ae%c0%ae%c0%afhub.sqlite3", "%e0%80%ae", "%ed%a0%80", "%f4%90%80%80", "%ff", "%80"]
)
def test_a_path_that_is_not_utf8_is_refused(wrong, repo, raw) -> None:
    """Overlong forms, surrogates and half characters, wherever a name stands in a path."""
    for path in (f"/{repo}/resolve/main/{wrong}", f"/{repo}/resolve/{wrong}/a", f"/api/models/alice/{wrong}"):
        assert raw("GET", path).status == 400


def test_a_link_among_the_files_is_a_file_that_names_its_target(alice, repo, raw, tmp_path) -> None:
    """git's symbolic links have no place here: what is uploaded is content, and what is downloaded a plain file."""
    line = {"key": "file", "value": {"path": "link", "content": "/etc/passwd", "encoding": "utf-8", "mode": "120000"}}
    assert commit(raw, alice, repo, line) == 200
    assert raw("GET", f"/{repo}/resolve/main/link").body == b"/etc/passwd"
    got = Path(alice.hf_hub_download(repo, "link", local_dir=tmp_path))
    assert not got.is_symlink() and got.read_text() == "/etc/passwd"


def test_a_file_cannot_be_a_folder_too(alice, repo, raw) -> None:
    """No file system could hold both."""
    lines = [{"key": "file", "value": {"path": p, "content": "eA==", "encoding": "base64"}} for p in ("a", "a/b")]
    assert commit(raw, alice, repo, *lines) == 422


def test_content_that_is_not_what_was_announced_is_refused(alice, repo, raw, hub) -> None:
    """The hash is checked while the upload arrives; a wrong one leaves nothing that could be committed."""
    content = safetensors(5.0)
    wrong = hashlib.sha256(b"something else").hexdigest()
    for oid, size in ((wrong, len(content)), (hashlib.sha256(content).hexdigest(), len(content) + 1)):
        body = {"operation": "upload", "objects": [{"oid": oid, "size": size}]}
        batch = raw("POST", f"/{repo}.git/info/lfs/objects/batch", body, token=alice.token).json
        url = batch["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.url)
        assert raw("PUT", url, content).status == 400
        verify = raw("POST", f"/{repo}.git/info/lfs/objects/verify", {"oid": oid, "size": size}, token=alice.token)
        assert verify.status == 404
        line = {"key": "lfsFile", "value": {"path": "m.safetensors", "algo": "sha256", "oid": oid, "size": size}}
        assert commit(raw, alice, repo, line) == 400
        assert raw("PUT", url.replace(oid, "0" * 64, 1), content).status == 403
        assert raw("PUT", url + "0", content).status == 403
    assert alice.list_repo_files(repo) == [".gitattributes"]


def test_a_large_file_must_have_the_size_it_says(alice, repo, raw) -> None:
    """Readers plan their memory by it."""
    content = safetensors(6.0)
    alice.upload_file(path_or_fileobj=content, path_in_repo="m.safetensors", repo_id=repo)
    oid = hashlib.sha256(content).hexdigest()
    line = {"key": "lfsFile", "value": {"path": "n.safetensors", "algo": "sha256", "oid": oid, "size": 1}}
    assert commit(raw, alice, repo, line) == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"key": "header"}',
        b'{"key": "header", "value": 7}',
        b'{"key": "header", "value": {}}\n{"key": "nonsense", "value": {}}',
        b'{"key": "header", "value": {}}\n'
        b'{"key": "file", "value": {"path": "a", "content": "%%", "encoding": "base64"}}',
        b'{"key": "header", "value": {}}\n{"key": "file", "value": {"path": "a"}}',
        b'{"key": "header", "value": {}}\n{"key": "lfsFile", "value": {"path": "a", "oid": "../../x"}}',
        b'{"key": "header", "value": {}}{"key": "file", "value": {"path": "a", "content": "x"}}',
        *(
            b'{"key": "header", "value": {}}\n{"key": "lfsFile", "value": {"path": "a", "oid": "%s", "size": %s}}'
            % (b"0" * 64, size)
            for size in (b"-1", b"NaN", b"9" * 5000, b"[]")
        ),
        *(
            b'{"key": "header", "value": {}}\n{"key": "file", "value": {"path": "a", "content": %s}}' % content
            for content in (b'"\xff"', b'"\\ud800"', b"[" * 50_000, b"7")
        ),
        b'{"key": "header", "value": {"parentCommit": 7}}\n{"key": "file", "value": {"path": "a", "content": "x"}}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_a_commit_that_is_not_one_is_refused(alice, repo, raw, body) -> None:
    """And the branch stays where it was."""
    answer = raw("POST", f"/api/models/{repo}/commit/main", body, token=alice.token)
    assert 400 <= answer.status < 500 and answer.json["error"]
    assert alice.list_repo_files(repo) == [".gitattributes"]


def test_a_body_larger_than_is_taken_gets_413_and_no_memory(hub, alice, repo, raw) -> None:
    """16 MiB of JSON, 96 MiB in one line of a commit; the connection is usable afterwards."""
    import resource

    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before, size = peak_mib(), 300 * 2**20
    address = urlsplit(hub.url)
    asked = {"/api/repos/create": b"413", f"/api/models/{repo}/commit/main": b"413", "/none": b"404"}
    for path, status in asked.items():
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\nContent-Length: {size}"
            connection.sendall(head.encode() + b"\r\n\r\n")
            for _ in range(300):
                connection.sendall(b"x" * 2**20)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            assert answer.split(b" ")[1] == status
            connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert peak_mib() - before < 280  # less than one such body, though a line of a commit is read whole


def test_a_json_body_may_hold_any_number_but_nothing_is_done_by_a_wrong_one(alice, repo, raw) -> None:
    """Huge integers, NaN and infinity; Python's parser takes them all."""
    for number in ("9" * 4000, "9" * 5000, "NaN", "-Infinity", "1e999", "-1", "1.5", "true"):
        files = f'{{"files": [{{"path": "a.txt", "size": {number}, "sample": "eA=="}}]}}'
        answer = raw("POST", f"/api/models/{repo}/preupload/main", files.encode(), token=alice.token)
        assert answer.status in (200, 400, 422)
        objects = f'{{"operation": "upload", "objects": [{{"oid": "{"0" * 64}", "size": {number}}}]}}'
        answer = raw("POST", f"/{repo}.git/info/lfs/objects/batch", objects.encode(), token=alice.token)
        assert answer.status in (400, 413, 422), (number, answer)


def test_every_answer_carries_what_the_client_reads(raw, repo) -> None:
    """Request id and rate limits always; a code and an ASCII sentence with every refusal."""
    for path in ("/api/models", f"/{repo}/resolve/main/none", "/api/models/alice/none", "/nothing/here/at/all"):
        headers = raw("GET", path).headers
        assert headers["x-request-id"] and ";r=" in headers["ratelimit"] and ";q=" in headers["ratelimit-policy"]
    assert raw("GET", f"/{repo}/resolve/main/none").headers["x-error-code"] == "EntryNotFound"
    assert raw("GET", "/api/models/alice/none").headers["x-error-code"] == "RepoNotFound"
    assert raw("GET", f"/api/models/{repo}/revision/none%C3%BC%0A").headers["x-error-message"].isascii()
    assert raw("PATCH", f"/api/models/{repo}").status == 405


def test_an_answer_names_the_request_as_its_caller_does(raw, alice, repo) -> None:
    """The client shows the id of a failed request; both sides find it in their logs."""
    trace = "8753209b-2895-4436-b6c5-243090f80906"
    assert raw("GET", "/api/x", X_Request_Id="custom-id").headers["x-request-id"] == "custom-id"
    assert raw("GET", "/api/x", X_Amzn_Trace_Id=trace).headers["x-request-id"].endswith(f";{trace}")
    for odd in ("a b", "x" * 65, "<script>", "a;b"):
        answer = raw("GET", "/api/x", X_Request_Id=odd, X_Amzn_Trace_Id=odd)
        assert answer.headers["x-request-id"].startswith("Root=1-") and odd not in answer.headers["x-request-id"]
    with pytest.raises(RepositoryNotFoundError) as caught:
        alice.model_info(f"{repo}-none")
    assert caught.value.response.request.headers["x-amzn-trace-id"] in caught.value.request_id


def test_a_refusal_leaves_the_connection_usable(hub) -> None:
    """The body of a refused request is read, so that it is not taken for the next request."""
    address = urlsplit(hub.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        body = b"x" * 300_000
        for path in (b"/nothing", b"/api/repos/create", b"/lfs-storage/abc"):
            method = b"PUT" if path.startswith(b"/lfs") else b"POST"
            head = method + b" " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
            connection.sendall(head + body)
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 4")


def test_random_requests_never_break_the_server(hub, alice, repo) -> None:
    """Every route, with values of every type where it expects others."""
    random.seed(7)
    odd = [None, True, 0, -1, 1e308, "", "x", "../..", "\0", "\ud800", [], {}, [[]], {"a": {"b": []}}, "é" * 300, 2**70]
    words = """
        name organization type visibility private gated fromRepo toRepo files path size sample tag message
        content repoType operation objects oid paths startingPoint status user target sdk
        key value description flavor sleepTimeSeconds seconds enabled volumes variables secrets hardware repository
        requestId rejectionReason command arguments dockerImage spaceId labels environment timeoutSeconds jobSpec
        schedule suspend concurrency jobSourceId watched ports
    """
    keys = words.split()
    parts = [
        "main",
        "refs%2Fpr%2F1",
        "%00",
        "%ff",
        "..",
        "alice",
        "x",
        "%2e%2e%2f",
        "🙂".encode(),
        "a" * 500,
        "0",
        "v1",
    ]
    alice.create_repo("alice/app", repo_type="space", space_sdk="gradio", exist_ok=True)
    routes = [(route.method, route.path) for topic in TOPICS for route in topic.ROUTES]
    for method, path in routes:
        for _ in range(6):
            filled = path.replace("{kind:hub_kind}", "models").replace("{account}", "alice")
            if "{kind:hub_spaces}" in path:
                filled = filled.replace("{kind:hub_spaces}", "spaces").replace("{ns}/{name}", "alice/app")
            filled = filled.replace("{ns}/{name}", repo if random.random() < 0.7 else "alice/none")
            while "{" in filled:
                before, _, rest = filled.partition("{")
                part = random.choice(parts)
                filled = before + (quote(part) if isinstance(part, bytes) else part) + rest.partition("}")[2]
            filled += random.choice(["", "?limit=x&cursor=1&p=-1", "?expand=sha&expand[]=x", "?recursive=1&expand=1"])
            value = {key: random.choice(odd) for key in random.sample(keys, 16)}
            body = random.choice([json.dumps(value).encode(), b"\xff", b"[1]", b"", b"a=b&paths=%ff&paths=x"])
            if path == "/api/repos/delete":
                continue
            token = random.choice([alice.token, None])
            answer = send(hub.url, method, filled, body, token=token, Content_Type="application/json")
            assert answer.status < 500 or (answer.status == 501 and answer.json["error"]), (method, filled, body)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_xorb_or_are_refused(data) -> None:
    """Nothing but BadXet leaves the parsers."""
    for parse in (xet_format.chunk_index, xet_format.parse_shard):
        try:
            found = parse(data)
        except xet_format.BadXet:
            continue
        if parse is xet_format.chunk_index:
            for at in found:
                with contextlib.suppress(xet_format.BadXet):
                    xet_format.decode_chunk(data, at)


def chunk(data: bytes, scheme: int, size: int) -> bytes:
    """A chunk as a xorb holds it."""
    return b"\0" + len(data).to_bytes(3, "little") + bytes([scheme]) + size.to_bytes(3, "little") + data


def test_all_three_chunk_schemes_decode() -> None:
    """Plain, LZ4, and LZ4 of bytes grouped by four, which suits floats: worked example of 6 bytes."""
    import lz4.frame

    plain = b"abcdef"
    grouped = b"ae" + b"bf" + b"c" + b"d"
    xorb = chunk(plain, 0, 6) + chunk(lz4.frame.compress(plain), 1, 6) + chunk(lz4.frame.compress(grouped), 2, 6)
    assert [xet_format.decode_chunk(xorb, at) for at in xet_format.chunk_index(xorb)] == [plain] * 3
    bomb = chunk(lz4.frame.compress(b"\0" * 10_000_000), 1, 100)
    with pytest.raises(xet_format.BadXet):
        xet_format.decode_chunk(bomb, 0)


def test_a_shard_with_a_wrong_hash_is_refused(alice, repo, raw, hub) -> None:
    """The client's word for the sha256 is checked against the chunks; tokens hold for one user's store only."""
    token = raw("GET", f"/api/models/{repo}/xet-write-token/main", token=alice.token)
    cas = token.json["casUrl"].removeprefix(hub.url)
    bearer = token.json["accessToken"]
    name = "ab" * 32
    content = b"some weights"
    for sent in (b"other bytes.", content):  # a broken upload is mended by the next one
        assert raw("POST", f"{cas}/v1/xorbs/default/{name}", chunk(sent, 0, len(sent)), token=bearer).status == 200
    assert raw("POST", f"{cas}/v1/xorbs/default/{'../' * 3}x", b"x", token=bearer).status in (400, 404)
    assert raw("POST", f"{cas}/v1/xorbs/default/{name}", b"garbage", token=bearer).status == 400

    def shard(sha256: bytes, xorb: str = name, end: int = 1) -> bytes:
        def row(hash32: bytes, *numbers: int) -> bytes:
            return hash32 + struct.pack("<4I", *numbers)

        def raw_hash(text: str) -> bytes:
            return struct.pack("<4Q", *(int(text[i : i + 16], 16) for i in range(0, 64, 16)))

        return (
            b"\0" * 48
            + row(b"f" * 32, xet_format.WITH_SHA256, 1, 0, 0)
            + row(raw_hash(xorb), 0, len(content), 0, end)
            + row(raw_hash(sha256.hex()), 0, 0, 0, 0)
            + b"\xff" * 48
        )

    right = hashlib.sha256(content).digest()
    for bad in (shard(b"\1" * 32), shard(right, "cd" * 32), shard(right, end=2), shard(right)[:-60], b""):
        assert raw("POST", f"{cas}/v1/shards", bad, token=bearer).status == 400
    assert raw("POST", f"{cas}/v1/shards", shard(right), token=alice.token).status == 401
    assert raw("POST", f"{cas}0/v1/shards", shard(right), token=bearer).status in (401, 404)
    assert raw("POST", f"{cas}/v1/shards", shard(right), token=bearer).status == 200
    line = {"key": "lfsFile", "value": {"path": "m.bin", "algo": "sha256", "oid": right.hex(), "size": len(content)}}
    assert commit(raw, alice, repo, line) == 200
    assert raw("GET", f"/{repo}/resolve/main/m.bin").body == content


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.bin", "a/b.bin", True),
        ("a/*.bin", "a/b.bin", True),
        ("a/*.bin", "x/a/b.bin", False),
        ("/b.bin", "b.bin", True),
        ("saved/**/*", "saved/x/y", True),
        ("saved/**/*", "saved/x", True),
        ("[ab].txt", "b.txt", True),
        ("[!ab].txt", "b.txt", False),
        ("?", "é", True),
        ("[", "[", True),
        ("a+(b", "a+(b", True),
        ("*" * 2000, "a" * 200, True),
    ],
)
def test_patterns_match_as_in_git(pattern, path, expected) -> None:
    """And a pattern that stars cannot make slow or broken."""
    assert attributes.matches(pattern, path) is expected


def test_inline_content_may_be_base64_or_text(alice, repo, raw) -> None:
    """The encoding is named in each line."""
    lines = [
        {"key": "file", "value": {"path": "a", "content": base64.b64encode(b"\x80").decode(), "encoding": "base64"}},
        {"key": "file", "value": {"path": "b", "content": "é", "encoding": "utf-8"}},
    ]
    assert commit(raw, alice, repo, *lines) == 200
    assert raw("GET", f"/{repo}/resolve/main/a").body == b"\x80"
    assert raw("GET", f"/{repo}/resolve/main/b").body == "é".encode()
