"""Uploads in parts and reads through Xet, where somebody does not keep to the protocol."""

import hashlib
import os
import secrets

import pytest

from hub_fusion.local_hub import multipart
from hub_fusion.local_hub.fsck import check


@pytest.fixture
def upload(hub, raw, alice, repo, monkeypatch):
    """(content, the action of a batch answer) for a file of three parts."""
    monkeypatch.setattr(multipart, "ABOVE", 1000)
    monkeypatch.setattr(multipart, "PART_BYTES", 1000)
    content = os.urandom(2500)
    oid = hashlib.sha256(content).hexdigest()
    body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [{"oid": oid, "size": 2500}]}
    answer = raw("POST", f"/{repo}.git/info/lfs/objects/batch", body, token=alice.token).json
    assert answer["transfer"] == "multipart"
    return content, answer["objects"][0]["actions"]["upload"]


def path(hub, url: str) -> str:
    return url.removeprefix(hub.url)


def test_parts_arrive_in_any_order_and_twice(hub, raw, upload) -> None:
    """A part is sent again when its answer was lost; the completion may be, too."""
    content, action = upload
    etags = {}
    for number in (3, 1, 2, 1):
        part = content[(number - 1) * 1000 : number * 1000]
        answer = raw("PUT", path(hub, action["header"][f"{number:05d}"]), part)
        etags[number] = answer.headers["etag"]
    parts = {"parts": [{"partNumber": n, "etag": etags[n]} for n in (1, 2, 3)]}
    for _ in range(2):
        assert raw("POST", path(hub, action["href"]), parts).status == 200
    assert check(hub.root).clean


def test_what_is_missing_forged_or_wrong_is_refused(hub, raw, upload) -> None:
    """And nothing of it is kept."""
    content, action = upload
    first, second, third = (path(hub, action["header"][f"{n:05d}"]) for n in (1, 2, 3))
    assert raw("PUT", first.replace("ticket=", "ticket=x"), b"").status == 403
    assert raw("PUT", first, content[:999]).status == 400 and raw("PUT", first, content[:1001]).status == 400
    assert raw("PUT", first.replace("/1?", "/4?"), b"x").status == 400
    etags = [raw("PUT", url, b"x" * size).headers["etag"] for url, size in ((first, 1000), (second, 1000))]
    parts = [{"partNumber": n + 1, "etag": etag} for n, etag in enumerate(etags)]
    assert raw("POST", path(hub, action["href"]), {"parts": parts}).status == 400  # the third is missing
    parts.append({"partNumber": 3, "etag": raw("PUT", third, b"x" * 500).headers["etag"]})
    refused = raw("POST", path(hub, action["href"]), {"parts": parts})
    assert refused.status == 400 and "was announced" in refused.json["error"]
    assert not any((hub.root / "parts").iterdir()) and check(hub.root).clean
    for odd in ([1, "x", None], 5, [{"partNumber": [], "etag": {}}], None):
        assert raw("POST", path(hub, action["href"]), {"parts": odd}).status == 400


def test_a_read_token_opens_its_repository_only(hub, raw, alice, bob, nobody, repo) -> None:
    """A hash is not a permission, and who may not see a repository gets no token for it."""
    content = secrets.token_bytes(400_000)
    hidden = alice.create_repo(f"alice/p-{secrets.token_hex(4)}", private=True).repo_id
    alice.upload_file(path_or_fileobj=content, path_in_repo="m.bin", repo_id=hidden)
    sha256 = hashlib.sha256(content).hexdigest()
    assert raw("GET", f"/api/models/{hidden}/xet-read-token/main", token=bob.token).status == 404
    opened = raw("GET", f"/api/models/{repo}/xet-read-token/main").json
    inside = raw("GET", f"/api/models/{hidden}/xet-read-token/main", token=alice.token).json
    url = f"{path(hub, inside['casUrl'])}/v1/reconstructions/{sha256}"
    assert raw("GET", url, token=opened["accessToken"]).status == 404
    assert raw("GET", url, token="forged").status == raw("GET", url).status == 401
    plan = raw("GET", url, token=inside["accessToken"], Range="bytes=200000-300000").json
    assert plan["offset_into_first_range"] == 200_000 - 131_072
    assert sum(term["unpacked_length"] for term in plan["terms"]) >= 100_001 + plan["offset_into_first_range"]
    ((fetch,),) = plan["fetch_info"].values()
    asked = f"bytes={fetch['url_range']['start']}-{fetch['url_range']['end']}"
    framed = raw("GET", path(hub, fetch["url"]), Range=asked)
    assert framed.status == 206 and framed.body[8 : 8 + 100] == content[131_072 : 131_072 + 100]
    assert raw("GET", path(hub, fetch["url"]).replace("data/0", "data/9")).status == 404
    assert raw("GET", path(hub, fetch["url"]) + "x").status == 403
    assert raw("GET", url, token=inside["accessToken"], Range="bytes=400000-").status == 416
