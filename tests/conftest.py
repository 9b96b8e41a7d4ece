"""Worlds for the tests of loop, commands and demo: a Hub in a folder, prepared once and copied for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loop.world import World


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/local_hub --endpoint URL --token TOKEN`: the conformance suite on another Hub."""
    group = parser.getgroup("conformance")
    group.addoption("--endpoint", help="run tests/local_hub/conformance on this Hub, not on a local one")
    group.addoption("--token", help="a write token of an account there; default: HF_TOKEN")
    group.addoption("--other-token", help="a write token of another account there")
    group.addoption("--read-token", help="a read token of the first account there")


@pytest.fixture(scope="session")
def without_bars() -> None:
    """The client draws its bars whoever is looking; a failed test should be readable."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory, without_bars: None) -> Path:
    """A Hub's folder with a base to which nobody has contributed."""
    from loop.world import prepare

    prepare(store := tmp_path_factory.mktemp("empty") / "store", store.parent, contributions=False)
    return store


@pytest.fixture(scope="session")
def ready_store(tmp_path_factory: pytest.TempPathFactory, without_bars: None) -> Path:
    """A Hub's folder with a base and five contributions."""
    from loop.world import prepare

    prepare(store := tmp_path_factory.mktemp("ready") / "store", store.parent, contributions=True)
    return store


@pytest.fixture
def empty(empty_store: Path, tmp_path: Path) -> Iterator[World]:
    """A world in which nobody has contributed yet."""
    from loop.world import opened

    with opened(empty_store, tmp_path) as world:
        yield world


@pytest.fixture
def ready(ready_store: Path, tmp_path: Path) -> Iterator[World]:
    """A world with five contributions: the next round is due."""
    from loop.world import opened

    with opened(ready_store, tmp_path) as world:
        yield world


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A held-out task."""
    from loop.world import write_task

    return write_task(tmp_path_factory.mktemp("tasks") / "quadrants")
