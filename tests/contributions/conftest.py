"""One running Hub with a base of two generations, and what it takes to contribute to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_fusion.local_hub import LocalHub, serve

from .world import World


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A running Hub of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_XET_CACHE", str(tmp_path_factory.mktemp("xet")))
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        with serve(tmp_path_factory.mktemp("hub")) as running:
            yield running


@pytest.fixture
def world(server: LocalHub, tmp_path: Path) -> World:
    """A base of its own on the Hub, with generations 0 and 1."""
    return World.new(server, tmp_path)
