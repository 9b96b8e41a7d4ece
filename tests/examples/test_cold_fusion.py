"""The page can be made again from what is committed, and its summary says what the results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub_fusion.simulate.settings import Simulation

FOLDER = Path(__file__).parents[2] / "examples" / "cold_fusion"
CHANGE = {"accuracy": 0.7, "seeds": 1, "tasks": 1, "median": 0.02, "by_task": {"e": 0.02}}
FOUND = {
    "settings": {"seen": ["a"], "gate": ["d"], "report": ["e"]},
    "steps": [{"step": "fuse", "generation": 1}, {"step": "fuse", "generation": 2}],
    "best": "gen-2",
    "changes": [
        {"model": m, "against": a, "role": r, "protocol": p, "mean": v, "low": v - 0.01, "high": v + 0.01} | CHANGE
        for m, a, r, p, v in [
            ("gen-1", "gen-0", "report", "fewshot", 0.5),
            ("gen-2", "gen-0", "gate", "fewshot", 0.6),
            ("gen-2", "gen-0", "report", "fewshot", 0.02),
            ("gen-2", "gen-0", "report", "probe", -0.01),
            ("gen-2", "one-round", "report", "fewshot", 0.015),
            ("gen-2", "gen-1", "report", "fewshot", 0.4),
            ("one-round", "gen-0", "report", "fewshot", 0.005),
        ]
    ],
}  # fmt: skip


def run(script: str, *options: str) -> str:
    done = subprocess.run([sys.executable, FOLDER / script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_summary_is_of_the_best_generation_on_the_report_tasks(tmp_path: Path) -> None:
    """Neither the gate tasks' gain nor a luckier generation's may be told as the result."""
    (tmp_path / "r.json").write_text(json.dumps(FOUND))
    summary = json.loads(run("summary.py", "--json", "--results", str(tmp_path / "r.json")))
    assert summary == {
        "primary": "fewshot", "root": "all-MiniLM-L6-v2", "seen": ["a"], "unseen": ["d", "e"], "generations": 2,
        "best": "gen-2",
        "gain": {"fewshot": {"mean": 2.0, "low": 1.0, "high": 3.0}, "probe": {"mean": -1.0, "low": -2.0, "high": 0.0}},
        "against": {"one_round": {"fewshot": {"mean": 1.5, "low": 0.5, "high": 2.5}}},
    }  # fmt: skip


def test_figures_are_drawn_for_light_and_dark_pages_and_are_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "r.json").write_text(json.dumps(FOUND))
    for out in ("one", "two"):
        run("figures.py", "--results", str(tmp_path / "r.json"), "--out", str(tmp_path / out))
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["generations-dark.svg", "generations-light.svg", "tasks-dark.svg", "tasks-light.svg"]
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)


def test_the_settings_can_be_read_and_keep_kin_on_one_side() -> None:
    """Sentences that seen and unseen tasks share would be leaked answers."""
    simulation = Simulation.load(FOLDER / "simulation.yaml")
    assert len(simulation.seen) >= 16 and len(simulation.report) >= 8 and simulation.generations >= 10
    for kin in ({"mr", "sst2", "sst5", "subj"}, {"trec_coarse", "trec_fine"}):
        sides = [kin & set(side) for side in (simulation.seen, simulation.gate, simulation.report)]
        assert sum(map(bool, sides)) == 1
