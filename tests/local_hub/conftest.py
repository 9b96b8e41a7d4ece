"""One Hub for all tests here, two users, and the real client."""

import http.client
import json
import os
import secrets
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi

from hub_fusion.local_hub import LocalHub, add_user, serve

PROJECT = Path(__file__).parents[2]


class Answer(NamedTuple):
    """What came back over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def safetensors(fill: float = 1.0, *, rows: int = 2, name: str = "w") -> bytes:
    """A small but real file: one float32 tensor of shape (rows, 4)."""
    header = json.dumps({name: {"dtype": "F32", "shape": [rows, 4], "data_offsets": [0, rows * 16]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + struct.pack(f"<{rows * 4}f", *[fill] * (rows * 4))


def send(
    url: str,
    method: str,
    path: str,
    body: bytes | dict[str, Any] | list[Any] | None = None,
    *,
    token: str | None = None,
    **headers: str,
) -> Answer:
    """One raw request, for what the client never sends. Header names are written with underscores."""
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        connection.request(method, path, body=body, headers=sent)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def found_on_disk(root: Path, text: str) -> str:
    """The files below a folder that hold a text.

    Read by another process: to open and close a database's file in the process that has it open as a database gives up
    the locks on it (https://www.sqlite.org/howtocorrupt.html, section 2.2), and the next process breaks it.
    """
    done = subprocess.run(["grep", "-rlaF", "-e", text, str(root)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --endpoint only what is written from the client's side runs."""
    if config.getoption("--endpoint"):
        here = Path(__file__).parent
        reason = "looks inside a local Hub; --endpoint names another"
        for item in items:
            if item.path.is_relative_to(here) and not item.path.is_relative_to(here / "conformance"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A running Hub. The Xet cache goes to a folder of its own, if nobody in this process has opened one before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_XET_CACHE", str(tmp_path_factory.mktemp("xet")))
        with serve(tmp_path_factory.mktemp("hub")) as running:
            yield running


@pytest.fixture(scope="session")
def alice(hub: LocalHub) -> HfApi:
    """A user with a write token."""
    return HfApi(endpoint=hub.url, token=add_user(hub.root, "alice"))


@pytest.fixture(scope="session")
def bob(hub: LocalHub) -> HfApi:
    """Another user with a write token."""
    return HfApi(endpoint=hub.url, token=add_user(hub.root, "bob"))


@pytest.fixture(scope="session")
def nobody(hub: LocalHub) -> HfApi:
    """A caller without a token."""
    return HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def repo(alice: HfApi) -> str:
    """A new model repository of alice's."""
    return str(alice.create_repo(f"alice/m-{secrets.token_hex(4)}").repo_id)


@pytest.fixture
def raw(hub: LocalHub) -> Callable[..., Answer]:
    """`send` to the running Hub."""
    return lambda *args, **kwargs: send(hub.url, *args, **kwargs)


def environment(url: str, folder: Path, **more: str) -> dict[str, str]:
    """Nothing but HF_ENDPOINT, a home, what finds the programs, and `more`."""
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    keep |= {"HF_ENDPOINT": url, "HF_HOME": str(folder / "hf"), "HOME": str(folder)}
    return keep | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **more}


def run_python(script: str, url: str, folder: Path, **env: str) -> str:
    """Run a script in a process in which nothing but HF_ENDPOINT (and a home) is set; returns what it prints."""
    env = environment(url, folder, **env)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture
def python(tmp_path: Path, hub: LocalHub) -> Callable[..., str]:
    """`run_python` against the running Hub."""
    return lambda script, **env: run_python(script, hub.url, tmp_path, **env)
