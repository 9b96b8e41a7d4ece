"""The world of tests/contributions, one for all attackers."""

from __future__ import annotations

import pytest
from contributions.conftest import server
from contributions.world import World

from hub_fusion.local_hub import LocalHub

__all__ = ["server"]


@pytest.fixture(scope="module")
def world(server: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A base with generations 0 and 1, which nobody of these can harm."""
    return World.new(server, tmp_path_factory.mktemp("attacked"))
