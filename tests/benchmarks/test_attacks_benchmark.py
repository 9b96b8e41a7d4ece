"""The benchmark of attacks runs: what the screen does with each is asserted, and that it wrongs nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "watch"


@pytest.mark.slow  # about 40 s
def test_the_defaults_stop_what_shouts_and_wrong_no_honest_contributor() -> None:
    """On digits, from the command line; every attack has a row, and the last line is the result."""
    command = [sys.executable, FOLDER / "attacks.py", "--size", "small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"size", "cpu_seconds", "digits"}
    found = result["digits"]
    rows = found["attacks"]
    assert len(rows) == 15 and not [name for name, row in rows.items() if "HONEST" in row["defaults"]]
    assert found["poisoned_alone"]["hit"] > 0.9 and found["honest"]["hit"] < 0.1  # or success says nothing
    for name in ("scaled update", "BadMerging-style amplified delta", "copy flood, 15 accounts", "scaled Gram"):
        assert rows[name]["without"]["success"] > rows[name]["with"]["success"] + 0.5
    assert rows["NaN"]["without"]["clean"] is None and rows["NaN"]["with"] == {
        "clean": found["honest"]["clean"], "success": 0.0
    }  # fmt: skip
    refused = {"NaN": "not_finite", "random weights": "not_kin", "forged base claim": "not_kin",
               "noise of an honest length": "noise", "honest change, shuffled": "noise",
               "sign-flipped finetune": "mirrored", "sign-flipped mean, three times as long": "opposed"}  # fmt: skip
    assert {name: rows[name]["defaults"] for name in refused} == {n: f"refused: {c}" for n, c in refused.items()}


@pytest.mark.parametrize(
    "name", ["attack_bases", "attack_kinds", "attack_statistics", "attack_world", "noise_finetunes"]
)
def test_what_the_attacks_are_made_of_does_nothing_as_a_script(name: str) -> None:
    """`make bench` runs every file with ``--size small``."""
    command = [sys.executable, FOLDER / f"{name}.py", "--size", "small"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
