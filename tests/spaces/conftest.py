"""A golden lineage to spoil, a Hub, and the dashboard as a process.

No ``__init__.py`` here: pytest would import this folder as a package called ``spaces``, which gradio looks for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dashboards import Dashboard, Files, Start, read_golden
from huggingface_hub import HfApi

from hub_fusion.cli.space import free_port
from hub_fusion.local_hub import LocalHub, add_user, serve


@pytest.fixture
def golden() -> Files:
    """A fresh copy of the golden lineage."""
    return read_golden()


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A Hub with nothing on it but accounts."""
    with serve(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session")
def acme(hub: LocalHub) -> HfApi:
    """The maintainer."""
    return HfApi(endpoint=hub.url, token=add_user(hub.root, "acme"))


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start ``hub-fusion space serve`` and wait until it answers."""

    @contextmanager
    def run(base: str, endpoint: str) -> Iterator[Dashboard]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        home = tmp_path_factory.mktemp("home")
        environment = keep | {"HOME": str(home), "OMP_NUM_THREADS": "1", "HF_TOKEN": "hf_never_sent"}
        command = [str(Path(sys.executable).with_name("hub-fusion")), "space", "serve", base, "--endpoint", endpoint]
        said = home / "said.txt"
        began = time.monotonic()
        with said.open("w") as out, subprocess.Popen(
            [*command, "--port", str(port)], env=environment, cwd=home, stdout=out, stderr=subprocess.STDOUT
        ) as process:  # fmt: skip
            try:
                while True:
                    assert process.poll() is None, said.read_text()
                    assert time.monotonic() - began < 120, said.read_text()
                    try:
                        urllib.request.urlopen(url, timeout=10).close()
                        break
                    except OSError:
                        time.sleep(0.05)
                yield Dashboard(url, time.monotonic() - began)
            finally:
                process.terminate()
                process.wait(20)
            with pytest.raises(OSError):
                urllib.request.urlopen(url, timeout=1).close()
        assert "Traceback" not in said.read_text(), said.read_text()

    return run
