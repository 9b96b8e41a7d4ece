"""The world of tests/contributions, one for all contributors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from contributions.conftest import server
from contributions.world import World

from hub_fusion.local_hub import LocalHub

__all__ = ["server"]
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(server: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A base with generations 0 and 1."""
    return World.new(server, tmp_path_factory.mktemp("world"))


@pytest.fixture
def python(tmp_path: Path, server: LocalHub) -> Callable[..., str]:
    """Run a script in a process of its own that knows the Hub by HF_ENDPOINT; returns what it prints."""

    def run(script: str, *arguments: str, token: str = "") -> str:
        environment = os.environ | {
            "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": token, "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(PROJECT), "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip
        command = [sys.executable, "-W", "error::SyntaxWarning", "-c", script, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    return run
