"""A golden lineage to spoil, a Hub, and the dashboard as a process.

No ``__init__.py`` here: pytest would import this folder as a package called ``spaces``, which gradio looks for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsers import CHROMIUM
from dashboards import BASE, Dashboard, Files, Start, read_golden, upload
from huggingface_hub import HfApi
from states import STATES

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


@pytest.fixture(scope="session")
def shown(hub: LocalHub, acme: HfApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """state → the address of a dashboard that shows it; one process serves all, each when it is first asked for."""
    folder = tmp_path_factory.mktemp("shown")
    dead, nothing = "http://127.0.0.1:9", str(folder / "nothing")

    def place(state: str) -> dict[str, str]:
        if state == "dead":
            return {"base": BASE, "endpoint": dead, "snapshot": str(read_golden().write(folder / state))}
        if state == "nowhere":
            return {"base": BASE, "endpoint": dead, "snapshot": nothing}
        if state == "big":  # through the snapshot: as much as a Space starts with
            return {"base": BASE, "endpoint": dead, "snapshot": str(STATES[state]().write(folder / state))}
        base = {"unset": "", "missing": "acme/missing"}.get(state, f"acme/state-{state}")
        if state == "empty":
            acme.create_repo(base)
        elif state in STATES:
            upload(acme, base, STATES[state]())
        return {"base": base, "endpoint": hub.url, "snapshot": nothing}

    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    with (folder / "said.txt").open("w") as said, subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("serve_states.py"))], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=said, text=True, env=keep | {"HOME": str(folder), "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        known: dict[str, str] = {}

        def address(state: str) -> str:
            if state not in known:
                print(json.dumps(place(state) | {"port": free_port()}), file=process.stdin, flush=True)
                known[state] = process.stdout.readline().strip().rstrip("/")
                assert known[state], (folder / "said.txt").read_text()
            return known[state]

        try:
            yield address
        finally:
            process.kill()
    assert "Traceback" not in (text := (folder / "said.txt").read_text()), text


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as browsers:
        chromium = browsers.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()
