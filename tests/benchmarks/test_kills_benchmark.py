"""The benchmark of kills with few of them: the watcher's lineage is whole, and the last line says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "watch" / "kills.py"


@pytest.mark.slow
def test_a_watcher_killed_five_times_under_faults_publishes_one_generation() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--size", "small"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] == sum(figures["kills_by_stage"].values()) == 5 and figures["faults"] > 0
    whole = {"generations": 1, "duplicates": 0, "gaps": 0, "reproduced": 1}
    assert {name: figures[name] for name in whole} == whole
