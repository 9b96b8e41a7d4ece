"""Libraries and the command line as their users run them: unmodified, with HF_ENDPOINT, HF_TOKEN and a home."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hub_fusion.local_hub import LocalHub

from ..conftest import environment, run_python

# No other machine can be found by its name, and which were looked for is noted. Xet's own connections come not by here.
WATCH = """
import socket
asked, ask = [], socket.getaddrinfo
def look(host, *args, **more):
    if host not in ("127.0.0.1", "localhost"):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "this machine is alone")
    return ask(host, *args, **more)
socket.getaddrinfo = look
"""


@pytest.fixture
def script(hub: LocalHub, alice: HfApi, tmp_path: Path) -> Callable[..., list[str]]:
    """Run Python as alice; the lines that it prints. It fails if another machine than those in `may_ask` was asked."""

    def run(source: str, may_ask: Sequence[str] = ()) -> list[str]:
        whole = f"{WATCH}\n{source}\nassert set(asked) <= set({list(may_ask)}), asked"
        return run_python(whole, hub.url, tmp_path, HF_TOKEN=str(alice.token)).splitlines()

    return run


@pytest.fixture
def hf(hub: LocalHub, alice: HfApi, tmp_path: Path) -> Callable[..., str]:
    """Run the `hf` command as alice in an empty folder; what it prints. `code`: the exit code to expect."""

    def run(*arguments: str, code: int = 0, **env: str) -> str:
        env = environment(hub.url, tmp_path, **({"HF_TOKEN": str(alice.token)} | env))
        done = subprocess.run(
            [str(Path(sys.executable).parent / "hf"), *arguments],
            env={name: value for name, value in env.items() if value},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + (done.stderr if code else "")

    return run
