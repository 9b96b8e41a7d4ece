"""Where the conformance suite runs: on a local Hub in a thread, or on any Hub that is served elsewhere.

``pytest tests/local_hub --endpoint URL --token TOKEN [--other-token TOKEN] [--read-token TOKEN]`` runs it on another
Hub; ``HUB_FUSION_LIVE_ENDPOINT=URL HF_TOKEN=TOKEN pytest tests/local_hub/conformance -m live`` does the same. It makes
repositories named hub-fusion-conformance-… under the token's account, private ones wherever nobody else has to see
them, and deletes each after its test. What is asserted here is what the client relies on, not how a server works.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError

from hub_fusion.local_hub import LocalHub, add_user

from ..conftest import Answer, run_python

PREFIX = "hub-fusion-conformance-"
LAG_S = 120.0


class Place(NamedTuple):
    """A Hub and an account on it. `live`: somebody else's machine, to be spared; `hub`: the local one, if it is."""

    api: HfApi
    account: str
    live: bool
    other: HfApi | None
    reader: HfApi | None
    hub: LocalHub | None

    @property
    def url(self) -> str:
        """The endpoint."""
        return str(self.api.endpoint)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With --endpoint there; else here, and there too where the environment names a Hub."""
    if "place" in metafunc.fixturenames:
        places = ["given"] if metafunc.config.getoption("--endpoint") else ["local", _live()]
        metafunc.parametrize("place", places, indirect=True, scope="module")


def _live() -> Any:
    return pytest.param("live", marks=pytest.mark.live)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> Place:
    """The local Hub, or the one that the options or the environment name."""
    if request.param == "local":
        hub: LocalHub = request.getfixturevalue("hub")
        url, root = hub.url, hub.root
        tokens: list[str | None] = [
            add_user(root, "carla"),
            add_user(root, "dora"),
            add_user(root, "carla", role="read"),
        ]
        return _place(url, tokens, hub)
    option = request.config.getoption
    if request.param == "given":
        url = option("--endpoint")
        tokens = [option("--token") or os.environ.get("HF_TOKEN"), option("--other-token"), option("--read-token")]
        if not tokens[0]:
            pytest.skip("needs --token, or a write token in HF_TOKEN")
    else:
        url = os.environ.get("HUB_FUSION_LIVE_ENDPOINT", "")
        tokens = [os.environ.get(name) for name in ("HF_TOKEN", "HUB_FUSION_LIVE_OTHER_TOKEN")] + [None]
        if not url or not tokens[0]:
            pytest.skip("needs HUB_FUSION_LIVE_ENDPOINT and a write token in HF_TOKEN")
    return _place(url.rstrip("/"), tokens, None)


def _place(url: str, tokens: list[str | None], hub: LocalHub | None) -> Place:
    api, other, reader = (HfApi(endpoint=url, token=token) if token else None for token in tokens)
    assert api is not None
    try:
        account = api.whoami()["name"]
    except (httpx2.HTTPError, HfHubHTTPError) as error:
        pytest.exit(f"{url} does not know the first token, or cannot be reached: {error}", 4)
    live = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
    return Place(api, account, live, other, reader, hub)


@pytest.fixture
def only_here(place: Place) -> None:
    """For what costs money, or what only a person can do, on another's Hub."""
    if place.hub is None:
        pytest.skip("only on a local Hub: it costs money elsewhere, or is done by hand there")


@pytest.fixture
def api(place: Place) -> HfApi:
    """The account that owns what is made here."""
    return place.api


@pytest.fixture
def other(place: Place) -> HfApi:
    """Another account."""
    if place.other is None:
        pytest.skip("needs another account: --other-token")
    return place.other


@pytest.fixture
def reader(place: Place) -> HfApi:
    """The first account with a token that may only read."""
    if place.reader is None:
        pytest.skip("needs a token of the first account that may only read: --read-token")
    return place.reader


@pytest.fixture
def nobody(place: Place) -> HfApi:
    """A caller without a token."""
    return HfApi(endpoint=place.url, token=False)


@pytest.fixture
def fine(place: Place, only_here: None) -> Callable[..., HfApi]:
    """Make a fine-grained token of the first account; elsewhere only a person can, in the settings."""
    assert place.hub is not None
    root = place.hub.root

    def make(permissions: dict[str, list[str]], **more: Any) -> HfApi:
        token = add_user(root, place.account, role="fineGrained", permissions=permissions, **more)
        return HfApi(endpoint=place.url, token=token)

    return make


@pytest.fixture
def new_name(place: Place) -> Callable[[], str]:
    """Names that no repository has had."""
    return lambda: f"{place.account}/{PREFIX}{secrets.token_hex(4)}"


@pytest.fixture
def new_repo(place: Place, new_name: Callable[[], str]) -> Iterator[Callable[..., str]]:
    """Make repositories, private unless asked otherwise; they are gone after the test."""
    made: list[tuple[str, str]] = []

    def make(repo_type: str = "model", *, private: bool = True, **options: Any) -> str:
        name = new_name()
        made.append((name, repo_type))
        if repo_type == "space":
            options.setdefault("space_sdk", "static")
        return str(place.api.create_repo(name, repo_type=repo_type, private=private, **options).repo_id)

    yield make
    for name, repo_type in made:
        place.api.delete_repo(name, repo_type=repo_type, missing_ok=True)


@pytest.fixture
def repo(new_repo: Callable[..., str]) -> str:
    """An empty private model repository."""
    return new_repo()


@pytest.fixture
def public(new_repo: Callable[..., str]) -> str:
    """An empty model repository that everybody sees."""
    return new_repo(private=False)


@pytest.fixture
def push(place: Place) -> Callable[..., Any]:
    """Commit files given as {path: bytes}; returns the commit's oid."""

    def push(repo: str, files: dict[str, bytes], message: str = "files", api: HfApi = place.api, **options: Any) -> str:
        add = [CommitOperationAdd(path, content) for path, content in files.items()]
        return str(api.create_commit(repo, add, commit_message=message, **options).oid)

    return push


@pytest.fixture
def wire(place: Place) -> Callable[..., Answer]:
    """One request as it goes over the wire, by the first account unless `token` says otherwise; follows redirects."""

    def wire(method: str, path: str, body: Any = None, *, token: str | bool = True, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {place.api.token if token is True else token}"
        content = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        url = path if path.startswith("http") else place.url + path
        got = get_session().request(method, url, headers=sent, follow_redirects=True, **content)
        return Answer(got.status_code, {name.lower(): value for name, value in got.headers.items()}, got.content)

    return wire


@pytest.fixture
def soon(place: Place) -> Callable[[Callable[[], Any]], Any]:
    """What a call returns once it is true: at once, except where an index may lag behind the commits."""

    def soon(call: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + (LAG_S if place.live else 0)
        while not (found := call()) and time.monotonic() < deadline:
            time.sleep(5)
        assert found
        return found

    return soon


@pytest.fixture
def python(place: Place, tmp_path: Path) -> Callable[..., str]:
    """Run a script in a process in which nothing but HF_ENDPOINT, HF_TOKEN and a home is set."""
    return lambda script, **env: run_python(script, place.url, tmp_path, HF_TOKEN=str(place.api.token), **env)


def status_of(act: Callable[[], Any]) -> int:
    """The status a call is refused with."""
    with pytest.raises(HfHubHTTPError) as caught:
        act()
    return int(caught.value.response.status_code)


@pytest.fixture(params=["xet", "plain"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which the client may have been set up."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "plain")
    return str(request.param)
