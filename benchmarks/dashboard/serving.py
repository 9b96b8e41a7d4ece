"""The dashboard as a Space runs it: its folder with a snapshot, in a process of its own. Does nothing as a script."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

SPACE = Path(__file__).parents[2] / "spaces" / "dashboard"


@dataclass(frozen=True)
class Served:
    """A running dashboard: where, in how many seconds after its process it answered, and that process."""

    url: str
    start_s: float
    process: subprocess.Popen[bytes]

    def peak_mb(self) -> float:
        """The most memory that it has held, in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def write_space(folder: Path, base: str, files: dict[str, str]) -> Path:
    """The Space's folder as it is deployed, with these files of the base as its snapshot."""
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__", "snapshot"))
    about = json.dumps({"base": base, "read_at": datetime.now(UTC).isoformat()})
    for path, text in {**files, "snapshot.json": about}.items():
        (target := folder / "snapshot" / path).parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return folder


@contextmanager
def serving(folder: Path, base: str, endpoint: str) -> Iterator[Served]:
    """Run the Space; the process is gone afterwards. Raises RuntimeError with what it said if it ends or is silent."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment = kept | {"HOME": str(folder.parent), "HUB_FUSION_BASE": base, "HF_ENDPOINT": endpoint,
                          "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}  # fmt: skip
    said, url = folder.parent / f"said-{port}.txt", f"http://127.0.0.1:{port}"
    began = time.perf_counter()
    with said.open("wb") as out, subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT
    ) as process:  # fmt: skip
        try:
            while True:
                if process.poll() is not None or time.perf_counter() - began > 180:
                    raise RuntimeError(f"the dashboard does not answer: {said.read_text()}")
                try:
                    urllib.request.urlopen(url, timeout=30).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield Served(url, time.perf_counter() - began, process)
        finally:
            process.terminate()
            process.wait(30)
