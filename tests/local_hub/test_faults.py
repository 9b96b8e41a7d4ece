"""Faults on purpose, as the unmodified client meets them and, where it hides them, as raw requests do."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from hub_fusion.local_hub import LocalHub, add_user, serve
from hub_fusion.local_hub.app import TOPICS
from hub_fusion.local_hub.fault_rules import ROUTES, Rule, read

from .conftest import Answer, safetensors, send

CONTENT = b"0123456789abcdef" * 6400  # larger than what is sent in one write, and not for Xet


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[LocalHub]:
    """A Hub of its own, without faults so far."""
    with serve(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def api(faulty: LocalHub) -> HfApi:
    """alice, with one repository of one file."""
    client = HfApi(endpoint=faulty.url, token=add_user(faulty.root, "alice"))
    client.create_repo("alice/m")
    client.upload_file(path_or_fileobj=CONTENT, path_in_repo="a.txt", repo_id="alice/m")
    return client


def hits(hub: LocalHub) -> list[tuple[str, str, int | None]]:
    """(kind, when, status) of what was injected."""
    return [(hit.kind, hit.when, hit.status) for hit in hub.faults.log]


def add(api: HfApi, path: str, content: bytes = b"x") -> str:
    """A commit by the call that sends it once only."""
    operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
    return str(api.create_commit("alice/m", [operation], commit_message=path).oid)


def titles(api: HfApi) -> list[str]:
    """Of main, newest first."""
    return [commit.title for commit in api.list_repo_commits("alice/m")]


def get(hub: LocalHub, path: str, **headers: str) -> Answer:
    return send(hub.url, "GET", path, **headers)


@pytest.mark.parametrize("kind", [500, 502, 503, 504, 429])
def test_the_client_tries_a_list_again_and_succeeds(kind, faulty, api) -> None:
    """It waits one second after a 5xx or a 429 that names no time."""
    faulty.faults.set([{"route": "list", "kind": kind, "times": 1}])
    assert [m.id for m in api.list_models()] == ["alice/m"]
    assert hits(faulty) == [(str(kind), "before", None)]


def test_what_the_client_does_not_try_again_raises(faulty, api) -> None:
    """model_info and create_commit among others; the server's words arrive."""
    faulty.faults.set([{"route": "info", "kind": 503}, {"route": "commit", "kind": 500}])
    with pytest.raises(HfHubHTTPError, match="on purpose: rule 0 answers 503"):
        api.model_info("alice/m")
    with pytest.raises(HfHubHTTPError, match="rule 1 answers 500"):
        add(api, "b.txt")
    faulty.faults.set(None)
    assert "b.txt" not in titles(api)


@pytest.mark.parametrize(("told", "header"), [({"reset": 0}, "ratelimit"), ({"retry_after": 0}, "retry-after")])
def test_a_429_names_its_time_as_it_is_told_to(told, header, faulty, api) -> None:
    """The client obeys either header, and adds a second."""
    faulty.faults.set([{"route": "list", "kind": 429, "times": 2} | told])
    answer = get(faulty, "/api/models")
    assert answer.status == 429 and "0" in answer.headers[header]
    assert answer.headers["ratelimit"] == ('"api";r=0;t=0' if "reset" in told else '"api";r=999;t=120')
    began = time.monotonic()
    assert list(api.list_models()) and 0.9 < time.monotonic() - began < 8


def test_a_drop_before_loses_the_request_a_drop_after_only_its_answer(faulty, api) -> None:
    """What was dropped after the commit is committed, what was dropped before is not."""
    for when, there in (("before", False), ("after", True)):
        faulty.faults.set([{"route": "commit", "kind": "drop", "when": when, "times": 1}])
        with pytest.raises(httpx.TransportError):
            add(api, when)
        assert (when in titles(api)) is there
    assert hits(faulty) == [("drop", "before", None), ("drop", "after", 200)]
    assert api.file_exists("alice/m", "after") and not api.file_exists("alice/m", "before")


def test_a_5xx_or_silence_after_a_commit_leaves_it_committed(faulty, api) -> None:
    """A gateway that gave up waiting: 504, or nothing at all for a while."""
    faulty.faults.set([{"route": "commit", "kind": 504, "when": "after", "times": 1}])
    with pytest.raises(HfHubHTTPError, match="504"):
        add(api, "gateway")
    faulty.faults.set([{"route": "commit", "kind": "timeout", "when": "after", "seconds": 0.3}])
    with pytest.raises(httpx.TransportError):
        add(api, "silence")
    assert titles(api)[:2] == ["silence", "gateway"]
    assert hits(faulty) == [("504", "after", 200), ("timeout", "after", 200)]


def test_a_refused_request_that_is_dropped_is_logged_as_refused(faulty, api) -> None:
    """The log tells what the answer would have been."""
    faulty.faults.set([{"route": "tag", "kind": "drop", "when": "after", "times": 1}])
    with pytest.raises(httpx.TransportError):
        api.create_tag("alice/m", tag="v1", revision="nowhere")
    assert hits(faulty) == [("drop", "after", 404)]


def test_silence_ends_with_a_closed_connection(faulty, api) -> None:
    """No byte for so long; others are served meanwhile, and stopping does not wait for it."""
    faulty.faults.set([{"route": "info", "kind": "timeout", "seconds": 0.5, "times": 1}])
    began = time.monotonic()
    with pytest.raises(http.client.RemoteDisconnected):
        get(faulty, "/api/models/alice/m")
    assert 0.45 < time.monotonic() - began < 10
    faulty.faults.set([{"route": "info", "kind": "timeout", "seconds": 500}])
    with socket.create_connection(("127.0.0.1", faulty.port), timeout=20) as silent:
        silent.sendall(b"GET /api/models/alice/m HTTP/1.1\r\nHost: x\r\n\r\n")
        assert get(faulty, "/api/models").status == 200
        faulty.stop()
        assert silent.recv(100) == b""


def test_a_slow_body_arrives_in_trickles_and_whole(faulty, api) -> None:
    """So many bytes a second."""
    faulty.faults.set([{"route": "resolve", "kind": "slow", "bytes_per_s": 200_000}])
    began = time.monotonic()
    assert get(faulty, "/alice/m/resolve/main/a.txt").body == CONTENT
    assert time.monotonic() - began > len(CONTENT) / 200_000 * 0.8


def test_a_cut_body_is_shorter_than_its_length_says_and_the_client_goes_on_where_it_ended(
    faulty, api, tmp_path
) -> None:
    """Raw it is an incomplete read; the client asks for the rest by range, and a cut list is asked for again."""
    faulty.faults.set([{"route": "resolve", "kind": "cut", "times": 1}])
    with pytest.raises(http.client.IncompleteRead) as raised:
        get(faulty, "/alice/m/resolve/main/a.txt")
    assert raised.value.partial == CONTENT[: len(CONTENT) // 2]
    faulty.faults.set([{"route": "GET /*/*/resolve/**", "kind": "cut", "bytes": 1000, "times": 2}])
    place = hf_hub_download("alice/m", "a.txt", endpoint=faulty.url, token=api.token, cache_dir=tmp_path)
    assert Path(place).read_bytes() == CONTENT
    faulty.faults.set([{"route": "list", "kind": "cut", "times": 1}])
    assert [m.id for m in api.list_models()] == ["alice/m"]
    assert [kind for kind, _, _ in hits(faulty)] == ["cut"] * 4


def test_a_412_on_a_commit_is_the_hubs(faulty, api) -> None:
    """As if somebody else had been first; nothing is committed."""
    faulty.faults.set([{"route": "commit", "kind": 412, "times": 1}])
    with pytest.raises(HfHubHTTPError, match="The branch was updated") as raised:
        add(api, "b.txt")
    assert raised.value.response.status_code == 412 and "b.txt" not in titles(api)
    assert add(api, "b.txt") and "b.txt" in titles(api)


def test_stale_answers_are_those_of_before(faulty, api) -> None:
    """A tag, a revision and a repository just made are not visible yet; writes and other routes are of the present."""
    before = api.model_info("alice/m").sha
    faulty.faults.set([{"route": route, "kind": "stale", "seconds": 600} for route in ("info", "refs", "list")])
    after = add(api, "b.txt")
    api.create_tag("alice/m", tag="v1")
    api.create_repo("alice/new")
    assert api.model_info("alice/m").sha == before != after
    assert (
        api.list_repo_refs("alice/m").tags == [] and api.list_repo_refs("alice/m").branches[0].target_commit == before
    )
    assert [m.id for m in api.list_models()] == ["alice/m"]
    assert titles(api)[0] == "b.txt" and api.list_repo_files("alice/m", revision="v1")
    faulty.faults.set(None)
    assert api.model_info("alice/m").sha == after and [t.name for t in api.list_repo_refs("alice/m").tags] == ["v1"]
    assert {m.id for m in api.list_models()} == {"alice/m", "alice/new"}


def test_stale_answers_catch_up_after_so_many_seconds(faulty, api) -> None:
    """Each state is shown for as long as it was the present one, late."""
    faulty.faults.set([{"route": "info", "kind": "stale", "seconds": 0.6}])
    shas = [add(api, name) for name in ("b", "c")]
    assert api.model_info("alice/m").sha not in shas
    deadline, seen = time.monotonic() + 20, []
    while (sha := str(api.model_info("alice/m").sha)) != shas[1] and time.monotonic() < deadline:
        seen.append(sha)
        time.sleep(0.02)
    assert sha == shas[1] and len(set(seen) - set(shas)) == 1


def test_many_changes_leave_a_bounded_number_of_past_states(faulty, api) -> None:
    """Each is an open connection."""
    from hub_fusion.local_hub.past import MAX_STATES

    faulty.faults.set([{"route": "info", "kind": "stale", "seconds": 600}])
    for number in range(MAX_STATES + 10):
        api.create_tag("alice/m", tag=f"t{number}")
    assert len(faulty.faults.past._states) == MAX_STATES
    assert api.model_info("alice/m").id == "alice/m"
    faulty.faults.set(None)
    assert faulty.faults.past._states == []


def test_tags_of_cards_lag_behind_their_commits(faulty, api) -> None:
    """The repository is listed, but not by the filter for its base model until later."""
    faulty.faults.set([{"route": "list", "kind": "tag-lag", "seconds": 1.0}])
    card = b"---\nbase_model: acme/base\nbase_model_relation: finetune\n---\n"
    add(api, "README.md", card)
    children = lambda: [m.id for m in api.list_models(filter="base_model:finetune:acme/base")]  # noqa: E731
    assert children() == [] and [m.id for m in api.list_models()] == ["alice/m"]
    deadline = time.monotonic() + 20
    while not children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() == ["alice/m"]


def test_counts_say_which_requests_are_hit(faulty, api) -> None:
    """`after` lets some pass, `times` ends it; other routes are not counted."""
    faulty.faults.set([{"route": "GET /api/models/*/m", "kind": 503, "after": 2, "times": 2}])
    seen = []
    for _ in range(6):
        get(faulty, "/api/models")
        seen.append(get(faulty, "/api/models/alice/m").status)
    assert seen == [200, 200, 503, 503, 200, 200]


def test_a_seed_gives_the_same_faults_again(faulty, api) -> None:
    """And another seed others; a rate is a rate."""

    def statuses(seed: int) -> list[int]:
        faulty.faults.set({"seed": seed, "rules": [{"route": "info", "kind": 500, "rate": 0.3}]})
        return [get(faulty, "/api/models/alice/m").status for _ in range(100)]

    first = statuses(1)
    assert first == statuses(1) != statuses(2)
    assert 15 <= first.count(500) <= 45  # five standard deviations of a binomial


def test_every_name_of_a_route_is_one_of_the_hubs_routes() -> None:
    """No rule can wait for requests that never come; and a name means what it says."""
    routes = [(r.method, r.path.replace("{kind:hub_kind}", "models")) for topic in TOPICS for r in topic.ROUTES]
    for name in ROUTES:
        assert any(Rule(name, "drop").matches(method, path) for method, path in routes), name
    named = {name for name in ROUTES if Rule(name, "drop").matches("POST", "/api/models/a/b/commit/main")}
    assert named == {"any", "commit"}
    assert not Rule("resolve", "drop").matches("GET", "/api/models/a/b/tree/main/x/resolve/y")


GOOD = {"route": "info", "kind": 503}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"rules": [GOOD | {"tims": 1}]}, "rule 0: 503 takes no 'tims'; it takes route, kind, when, rate, after"),
        ({"rules": [GOOD], "sed": 1}, "unknown key 'sed'; known are rules, seed"),
        ({"rules": [GOOD], "seed": "x"}, "seed must be a whole number"),
        ({"rule": []}, "expected a list of rules"),
        ("drop", "expected a list of rules"),
        ([GOOD, "drop"], "rule 1: must be a mapping"),
        ([{"route": "info", "kind": "explode"}], "kind 'explode' is not one of 500 to 599, 429, 412, timeout, drop"),
        ([{"route": "info"}], "kind None is not one of"),
        ([{"kind": "drop"}], "route None is neither one of any, whoami"),
        ([{"route": "FETCH /x", "kind": "drop"}], "neither one of"),
        ([GOOD | {"rate": 2}], "rate is a probability"),
        ([GOOD | {"rate": float("nan")}], "rate must be a number of at least 0"),
        ([GOOD | {"times": True}], "times must be a number"),
        ([GOOD | {"when": "later"}], "when must be before or after"),
        ([{"route": "info", "kind": "cut", "when": "after"}], "cut cannot come after"),
        ([{"route": "info", "kind": 412}], "412 is for commit, not for info"),
        ([{"route": "commit", "kind": "stale"}], "stale is for list, info"),
        ([{"route": "info", "kind": "tag-lag"}], "tag-lag is for list, not for info"),
        ([{"route": "list", "kind": "slow", "bytes_per_s": 0}], "bytes_per_s must be a number of at least 1"),
    ],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused_with_all_that_is_wrong(spec, words) -> None:
    """A typing error must not become a test without faults."""
    with pytest.raises(ValueError, match="The faults: ") as raised:
        read(spec)
    assert words in str(raised.value)


def test_rules_come_from_a_file_and_the_log_goes_to_one(tmp_path) -> None:
    """YAML or JSON; a file that is neither is named in the error."""
    rules = [{"route": "list", "kind": 502, "times": 1}]
    (tmp_path / "faults.json").write_text(json.dumps({"seed": 3, "rules": rules}))
    (tmp_path / "faults.yaml").write_text("seed: 3\nrules:\n- route: list\n  kind: 502\n  times: 1\n")
    assert read(tmp_path / "faults.json") == read(tmp_path / "faults.yaml") == (3, (Rule("list", "502", times=1),))
    (tmp_path / "bad.yaml").write_text("rules: [")
    for name in ("bad.yaml", "none.yaml"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            serve(tmp_path / "hub", faults=tmp_path / name)


def test_a_large_upload_survives_faults_on_all_its_steps(faulty, api) -> None:
    """The client tries preupload, batch, contents and verification again; what arrives is whole."""
    faulty.faults.set([{"route": route, "kind": 503, "times": 1} for route in ("preupload", "lfs", "xet")])
    content = safetensors(3.0, rows=1000)
    api.upload_file(path_or_fileobj=content, path_in_repo="w.safetensors", repo_id="alice/m")
    assert len(hits(faulty)) >= 2
    assert get(faulty, "/alice/m/resolve/main/w.safetensors").body == content
