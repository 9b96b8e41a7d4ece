"""The dashboard's benchmark runs at its small size; the lineages that it makes are those of a watcher."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hub_fusion.records import Generation, Index, Status

FOLDER = Path(__file__).parents[2] / "benchmarks" / "dashboard"


@pytest.fixture(scope="module")
def lineages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lineages", FOLDER / "lineages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_made_lineage_is_one_that_a_watcher_publishes(lineages: ModuleType) -> None:
    """Every file is a record of its kind, generations follow each other, and the same seed gives the same files."""
    files = dict(lineages.lineage(6, 4))
    index = Index.from_json(files["fusion/index.json"])
    assert [e.generation for e in index.generations] == list(range(7))
    assert [e.status for e in index.entries].count("rejected") == 1
    for number in range(1, 7):
        record = Generation.from_json(files[f"fusion/gen-{number}.json"])
        assert (record.generation, record.parent_generation, len(record.contributions)) == (number, number - 1, 4)
        assert record.analysis is not None
        assert len(record.analysis.cosines) == 4
    assert len(Status.from_json(files["fusion/status.json"]).queue) == 5
    again = dict(lineages.lineage(6, 4))
    assert {path: text for path, text in again.items() if "gen-" in path} == {
        path: text for path, text in files.items() if "gen-" in path
    }


@pytest.mark.slow
def test_its_last_line_has_what_a_visitor_waits_for() -> None:
    """Every page was ready, with the Hub and without; or there is no browser, which it says."""
    done = subprocess.run([sys.executable, str(FOLDER / "load.py"), "--size", "small"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert set(found) == {
        "start_seconds", "ready_seconds_median", "ready_seconds_p95", "hub_dead_ready_seconds", "rss_mb"}  # fmt: skip
    assert 0 < found["ready_seconds_median"] <= found["ready_seconds_p95"]
    assert found["rss_mb"] > 0
