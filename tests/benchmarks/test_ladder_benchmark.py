"""The ladder benchmark runs at its small size; what it says of scores is what it should say of scores."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hub_fusion.evaluate.scores import Measurement, summarise

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluate" / "ladder.py"


@pytest.fixture(scope="module")
def ladder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ladder", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(**answers: np.ndarray) -> Measurement:
    """A checkpoint that answered so by these protocols."""
    keyed = {("t", "gate", protocol): matrix for protocol, matrix in answers.items()}
    scores = summarise(keyed, suite="s", weights_sha256="w")
    likely = {key: m for key, m in keyed.items() if key[2] == "logme"}
    return Measurement(scores, {key: m for key, m in keyed.items() if key not in likely}, likely)


def right(count: int, of: int = 200, seeds: int = 3) -> np.ndarray:
    return np.tile((np.arange(of) < count).astype(np.uint8), (seeds, 1))


@pytest.mark.slow
def test_its_last_line_has_every_ladder_and_every_score() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--size", "small"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [ladder["ladder"] for ladder in found["ladders"]] == ["noise", "towards the root"]
    for one in found["ladders"]:
        assert set(one["scores"]) == set(one["judged"]) == {"logme", "probe", "fewshot", "finetune"}
        assert all(len(scores) == len(one["depths"]) == 3 for scores in one["scores"].values())
    assert found["ladders"][0]["scores"]["probe"][0] == found["ladders"][1]["scores"]["probe"][0], "one candidate"


def test_ties_are_ties_and_a_constant_score_orders_nothing(ladder: ModuleType) -> None:
    """Kendall's tau-b of (1, 2, 2, 3) with (1, 2, 3, 4): five pairs agree, one is tied, so 5 / √(5·6)."""
    found = ladder.agreement([1, 2, 2, 3], [1, 2, 3, 4])
    assert found["kendall"] == pytest.approx(5 / 30**0.5, abs=1e-3) and found["spearman"] == pytest.approx(
        0.949, abs=1e-3
    )
    assert ladder.agreement([1, 1, 1], [1, 2, 3]) == {"spearman": None, "kendall": None}
    assert ladder.agreement([3, 2, 1], [1, 2, 3]) == {"spearman": -1.0, "kendall": -1.0}


def test_a_drop_is_noticed_where_the_paired_interval_lies_below_zero(ladder: ModuleType) -> None:
    """One answer of 200 may be chance, twenty are not; a rise is no drop."""
    rungs = [
        measured(probe=right(150)),
        measured(probe=right(180)),
        measured(probe=right(149)),
        measured(probe=right(130)),
    ]
    assert ladder.first_noticed(rungs, "probe") == 3
    assert ladder.first_noticed(rungs[:3], "probe") is None
