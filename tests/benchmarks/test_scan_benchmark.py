"""The benchmark of looking through a base's children runs; requests, bytes and verdicts are asserted, no times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "watch"
HEADERS_KB = 20  # of one contribution, with all that is asked about it


def test_a_scan_keeps_to_its_bounds_and_to_the_table(tmp_path: Path) -> None:
    """Each kind of upload at least once, from the command line; the last line is the result."""
    command = [sys.executable, FOLDER / "scan.py", "--repos", "80", "--save", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"repos", "first_scan", "second_poll", "wrong_verdicts"}
    assert found["repos"] >= 80 and found["wrong_verdicts"] == 0
    first, second = found["first_scan"], found["second_poll"]
    assert 0 < first["metadata_bytes"] <= 2000 * found["repos"] and first["let_pass"] >= 20
    assert first["bytes"] - first["metadata_bytes"] <= 1000 * HEADERS_KB * first["let_pass"]
    assert 0 < second["requests"] <= 2 and first["requests"] > second["requests"]
    assert json.loads((tmp_path / "scan.json").read_text())["first_scan"] == first


@pytest.mark.parametrize("name", ["kinds", "seed"])
def test_what_the_watch_benchmarks_share_does_nothing_as_a_script(name: str) -> None:
    """`make bench` runs every file with ``--size small``."""
    command = [sys.executable, FOLDER / f"{name}.py", "--size", "small"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
