"""Where the conformance suite runs: on a local Hub in a thread, and on any other Hub that the environment names.

``HUB_FUSION_LIVE_ENDPOINT=https://huggingface.co HF_TOKEN=hf_… pytest tests/local_hub/conformance -m live`` makes
private repositories named hub-fusion-conformance-… under the token's account and deletes each after its test.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from hub_fusion.local_hub import LocalHub, add_user

PREFIX = "hub-fusion-conformance-"


class Place(NamedTuple):
    """A Hub and an account on it."""

    api: HfApi
    account: str
    live: bool


@pytest.fixture(scope="module", params=["local", pytest.param("live", marks=pytest.mark.live)])
def place(request: pytest.FixtureRequest) -> Place:
    """The local Hub, or the live one where both variables are set."""
    if request.param == "live":
        endpoint, token = os.environ.get("HUB_FUSION_LIVE_ENDPOINT"), os.environ.get("HF_TOKEN")
        if not endpoint or not token:
            pytest.skip("needs HUB_FUSION_LIVE_ENDPOINT and a write token in HF_TOKEN")
    else:
        hub: LocalHub = request.getfixturevalue("hub")
        endpoint, token = hub.url, add_user(hub.root, "carla")
    api = HfApi(endpoint=endpoint.rstrip("/"), token=token)
    return Place(api, api.whoami()["name"], request.param == "live")


@pytest.fixture
def new_repo(place: Place) -> Iterator[Callable[..., str]]:
    """Make private repositories; they are gone after the test, under whatever name."""
    made: list[tuple[str, str]] = []

    def make(repo_type: str = "model", **options: object) -> str:
        name = f"{place.account}/{PREFIX}{secrets.token_hex(4)}"
        made.append((name, repo_type))
        return str(place.api.create_repo(name, repo_type=repo_type, private=True, **options).repo_id)  # type: ignore[arg-type]

    yield make
    for name, repo_type in made:
        place.api.delete_repo(name, repo_type=repo_type, missing_ok=True)


@pytest.fixture
def repo(new_repo: Callable[..., str]) -> str:
    """An empty model repository."""
    return new_repo()


@pytest.fixture
def push(place: Place) -> Callable[..., str]:
    """Commit files given as {path: bytes}; returns the commit's oid."""

    def push(repo: str, files: dict[str, bytes], message: str = "files", **options: object) -> str:
        add = [CommitOperationAdd(path, content) for path, content in files.items()]
        return place.api.create_commit(repo, add, commit_message=message, **options).oid  # type: ignore[arg-type]

    return push
