"""Every route of the Hub with paths, queries and bodies that Hypothesis makes up.

Whatever is asked: no answer is a crash (500), none holds what lies outside of the Hub's folder, nothing appears there,
and the server goes on.
"""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub_fusion.local_hub import LocalHub, add_user, serve
from hub_fusion.local_hub.app import TOPICS
from hub_fusion.local_hub.call import Route

from .conftest import send

ROUTES = [route for topic in TOPICS for route in topic.ROUTES]
KINDS = {"{kind:hub_kind}": ("models", "datasets", "spaces"), "{kind:hub_spaces}": ("spaces",)}

nasty = st.sampled_from(
    [
        "..", ".", "", "%2e%2e", "%252e%252e", "..%2f..%2foutside.txt", "..%252f..%252foutside.txt",
        "..%5c..%5coutside.txt", "%2e%2e%5coutside.txt", "%c0%ae%c0%ae%c0%afoutside.txt", "%e0%80%ae%e0%80%ae",
        "%ef%bc%8e%ef%bc%8e%ef%bc%8foutside.txt", "%u002e%u002e", "%00", "outside.txt%00.txt", "%ff%fe", "%ed%a0%80",
        "%f4%90%80%80", "file:%2f%2f%2fetc%2fpasswd", "%2fetc%2fpasswd", "~", "con", "a%0d%0ab",
        "%e2%80%ae", "%f0%9f%99%82",
        "refs%2Fpr%2F1", "refs%2Fheads%2F..%2F..", "HEAD", "0" * 40, "f" * 64, "-1", "9" * 30,
        "a" * 3000, "*", "%25", "%",
    ]
)  # fmt: skip
part = nasty | st.text(max_size=20).map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe=""))
numbers = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, 2**64, 10**400, -1, 0, 1e308])
words = st.text(max_size=20) | st.sampled_from(
    ["..", "../../outside.txt", "\0", "\ud800", "alice/m", "alice/n", "main", "refs/pr/1", "model", "dataset",
     "x" * 5000, "0" * 64, "base64", "eA==", "2020-01-01", "a.safetensors", "a\\b", "upload", "basic", "multipart",
     "private"]
)  # fmt: skip
scalars = st.none() | st.booleans() | numbers | words
KEYS = """
    name organization type visibility private gated fromRepo toRepo files path size sample tag message content repoType
    operation objects oid paths startingPoint status user target sdk key value header file lfsFile deletedFile copyFile
    summary description parentCommit algo encoding srcRevision srcPath title comment watched domains secret url pull
    uploadId parts etag partNumber repository expand recursive hardware flavor sleepTimeSeconds transfers disabled
"""
keys = st.sampled_from(KEYS.split()) | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=20
)
objects = st.dictionaries(keys, values, max_size=8)
lines = st.lists(
    st.fixed_dictionaries({"key": st.sampled_from(["header", "file", "lfsFile", "deletedFile", "x"]) | words,
                           "value": objects}), max_size=5
).map(lambda found: b"\n".join(json.dumps(line).encode() for line in found))  # fmt: skip
bodies = (
    (objects | values).map(lambda value: json.dumps(value).encode())
    | lines
    | st.binary(max_size=200)
    | st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b'{"name": NaN}', b'{"name": 1e999}', b'{"name": "\xff"}',
                       b'{"size": ' + b"9" * 10_000 + b"}", b'\xef\xbb\xbf{"name": "x"}', b'"\\ud800"', b"\x00" * 1000])
)  # fmt: skip
QUERY_KEYS = """
    limit cursor p expand expand[] filter search sort direction full recursive author oid num_parameters type status q
    gated blobs download length create_pr config
"""
queries = st.lists(
    st.tuples(
        st.sampled_from(QUERY_KEYS.split()),
        part | st.integers().map(str),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{key}={value}" for key, value in pairs))
ranges = st.sampled_from(
    ["bytes=0-0", "bytes=-1", "bytes=-0", "bytes=5-2", "bytes=0-1,3-4", "bytes=" + "0-1," * 5000 + "0-1", "bytes=--1",
     "bytes=0-" + "9" * 40, "bytes=" + "9" * 5000 + "-", "items=0-1", "bytes", "", "bytes=a-b", "bytes=\u00b2-"]
)  # fmt: skip
types = st.sampled_from(
    ["application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""]
)


class Own(NamedTuple):
    """A Hub of its own inside a folder with a file that no answer may hold."""

    hub: LocalHub
    token: str
    folder: Path
    marker: bytes


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """Two levels below the file, for paths that go up twice."""
    folder, marker = tmp_path_factory.mktemp("fuzz"), secrets.token_hex(16).encode()
    (folder / "outside.txt").write_bytes(marker)
    (folder / "a").mkdir()
    token = add_user(folder / "a" / "hub", "alice")
    with serve(folder / "a" / "hub") as hub:
        yield Own(hub, token, folder, marker)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Route, str, bytes, dict[str, str]]:
    """(route, path with query, body, headers)."""
    route = draw(st.sampled_from(ROUTES))
    path = route.path
    for name, kinds in KINDS.items():
        path = path.replace(name, draw(st.sampled_from(kinds)))
    if draw(st.integers(0, 3)):
        path = path.replace("{ns}/{name}", "alice/m")
    while "{" in path:
        before, _, rest = path.partition("{")
        inside, _, rest = rest.partition("}")
        count = 3 if inside.endswith(":path") else 1
        path = before + "/".join(draw(st.lists(part, min_size=1, max_size=count))) + rest
    query = draw(queries)
    headers = {"Content_Type": draw(types), "Range": draw(ranges)}
    return route, path + (f"?{query}" if query else ""), draw(bodies), headers


def ask(own: Own, asked: tuple[Route, str, bytes, dict[str, str]], *, signed_in: bool) -> None:
    route, path, body, headers = asked
    for sent in headers:
        headers[sent] = headers[sent].encode().decode("latin-1")
    send(own.hub.url, "POST", "/api/repos/create", {"name": "m"}, token=own.token)  # it may have been deleted
    answer = send(own.hub.url, route.method, path, body, token=own.token if signed_in else None, **headers)
    if answer.status >= 500:
        assert answer.status == 501 and answer.json["error"], (answer, asked)
    assert own.marker not in answer.body and b"root:x:" not in answer.body
    if answer.status >= 400 and route.method != "HEAD":
        assert answer.json["error"] or answer.status == 416, answer


def check_outside(own: Own) -> None:
    found = {path.name for folder in (own.folder, own.folder / "a") for path in folder.iterdir()}
    assert found == {"outside.txt", "a", "hub"} and (own.folder / "outside.txt").read_bytes() == own.marker
    inside = {path.name for path in (own.folder / "a" / "hub").iterdir()}
    assert inside <= {"hub.sqlite3", "hub.sqlite3-wal", "hub.sqlite3-shm", "blobs", "tmp", "parts", "xorbs"}
    assert send(own.hub.url, "GET", "/api/whoami-v2", token=own.token).json["name"] == "alice"


quietly = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@settings(max_examples=500, deadline=None, suppress_health_check=quietly, derandomize=True)
@given(asked=requests(), signed_in=st.sampled_from([True, True, True, False]))
def test_no_request_crashes_the_server_or_leaves_its_folder(own, asked, signed_in) -> None:
    """The same requests every time; the long form makes up new ones."""
    ask(own, asked, signed_in=signed_in)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=quietly)
@given(asked=requests(), signed_in=st.sampled_from([True, True, True, False]))
def test_no_request_at_all_crashes_the_server_or_leaves_its_folder(own, asked, signed_in) -> None:
    """Some minutes of it."""
    ask(own, asked, signed_in=signed_in)


def test_after_all_that_nothing_has_appeared_outside(own) -> None:
    """Runs last: the tests above share the Hub."""
    check_outside(own)
    from hub_fusion.local_hub.fsck import check

    assert check(own.hub.root).clean
