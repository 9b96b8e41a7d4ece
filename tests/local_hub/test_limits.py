"""Rate limits as the unmodified client meets them: it reads the headers, waits, and succeeds, or says until when."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers

from hub_fusion.local_hub import LocalHub, add_user, limits, serve

from .conftest import safetensors, send


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[LocalHub]:
    """A Hub of its own, without limits so far."""
    with serve(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def api(limited: LocalHub) -> HfApi:
    """alice, with one repository of two files."""
    client = HfApi(endpoint=limited.url, token=add_user(limited.root, "alice"))
    client.create_repo("alice/m")
    client.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="alice/m")
    client.upload_file(path_or_fileobj=safetensors(), path_in_repo="m.safetensors", repo_id="alice/m")
    return client


def took(call: Callable[[], object]) -> float:
    """Seconds."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_answers_tell_what_is_left_and_when_it_begins_anew(limited, api) -> None:
    """True numbers, for each caller and bucket by itself, as the client's own parser reads them."""
    limited.limits.set({"api": "3/100", "resolvers": "2/50"})
    for left in (2, 1, 0, 0):
        answer = send(limited.url, "GET", "/api/models/alice/m", token=api.token)
        found = parse_ratelimit_headers(answer.headers)
        assert found is not None and (found.resource_type, found.remaining) == ("api", left)
        assert (found.limit, found.window_seconds) == (3, 100) and 90 <= found.reset_in_seconds <= 100
    assert answer.status == 429 and "retry-after" not in answer.headers
    assert "3 api requests" in answer.json["error"] and answer.headers["x-error-message"] == answer.json["error"]
    files = send(limited.url, "GET", "/alice/m/resolve/main/config.json", token=api.token)
    assert files.status == 200 and files.headers["ratelimit"].startswith('"resolvers";r=1;t=')
    other = send(limited.url, "GET", "/api/models", token=add_user(limited.root, "bob"))
    assert other.status == 200 and ";r=2;" in other.headers["ratelimit"]


def test_callers_without_a_valid_token_share_their_address(limited, api) -> None:
    """Or whoever invents tokens would have no limit."""
    limited.limits.set({"api": "2/100"})
    seen = [send(limited.url, "GET", "/api/models", token=token).status for token in (None, "hf_a", "hf_b", None)]
    assert seen == [200, 401, 429, 429]
    assert send(limited.url, "GET", "/api/models", token=api.token).status == 200


def test_the_client_waits_for_the_window_and_goes_on(limited, api, tmp_path) -> None:
    """Lists, downloads and uploads: no error, only time, one second more than the header says."""
    limited.limits.set({"api": "1/1"})
    assert [m.id for m in api.list_models()] == ["alice/m"]
    assert took(lambda: list(api.list_models())) > 0.9

    limited.limits.set({"resolvers": "3/1"})

    def snapshot() -> None:
        place = {"cache_dir": tmp_path, "endpoint": limited.url, "token": api.token, "max_workers": 1}
        folder = snapshot_download("alice/m", revision="main", **place)
        assert (Path(folder) / "m.safetensors").read_bytes() == safetensors()

    assert took(snapshot) > 0.9

    limited.limits.set({"api": "4/1"})
    for _ in range(4):
        send(limited.url, "GET", "/api/models", token=api.token)
    upload = lambda: api.upload_file(  # noqa: E731
        path_or_fileobj=safetensors(7.0), path_in_repo="n.safetensors", repo_id="alice/m"
    )
    assert took(upload) > 0.9
    limited.limits.set({})
    assert api.file_exists("alice/m", "n.safetensors")


def test_what_the_client_does_not_try_again_names_the_reset(limited, api) -> None:
    """model_info raises at once, with the time in words."""
    limited.limits.set({"api": "1/200"})
    api.model_info("alice/m")
    with pytest.raises(HfHubHTTPError, match=r"(?s)'api' rate limit.*Retry after (200|199) seconds \(0/1 requests"):
        api.model_info("alice/m")


def test_a_refused_upload_is_read_to_its_end(limited, api) -> None:
    """So that the next request on the connection is understood."""
    limited.limits.set({"api": "1/100"})
    send(limited.url, "GET", "/api/models", token=api.token)
    refused = send(limited.url, "POST", "/api/models/alice/m/commit/main", b"x" * 3_000_000, token=api.token)
    assert refused.status == 429


def test_callers_are_forgotten_oldest_first(monkeypatch) -> None:
    """Memory is bounded whoever calls: of many callers the last ones are known."""
    monkeypatch.setattr(limits, "MAX_CALLERS", 10)
    counting = limits.Limits({"api": "2/1000"})
    for number in range(1000):
        assert counting.take("api", f"caller {number}").remaining == 1
    assert counting.take("api", "caller 999").remaining == 0 and counting.take("api", "caller 0").remaining == 1


@pytest.mark.parametrize("rates", [{"apis": "1/1"}, {"api": "1"}, {"api": "0/5"}, {"api": "5/0"}, {"api": "-1/5"}])
def test_limits_that_make_no_sense_are_refused(rates, tmp_path) -> None:
    """With the right spelling in the words."""
    with pytest.raises(ValueError, match=r"resolvers|REQUESTS/SECONDS"):
        serve(tmp_path, limits=rates)
