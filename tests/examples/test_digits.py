"""The page's table is the one that the committed results give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "digits"


def test_the_table_on_the_page_is_made_from_the_committed_results() -> None:
    done = subprocess.run([sys.executable, FOLDER / "run.py", "--table"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = done.stdout.strip()
    assert table.startswith("| | | gen-1") and table in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_every_variant_has_its_changes_after_one_three_and_six_generations() -> None:
    found = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))["found"]
    for variants in found.values():
        for runs in variants.values():
            models = {c["model"] for c in runs[0]["changes"] if c["protocol"] == "fewshot"}
            assert {"gen-1", "gen-3", "gen-6"} <= models
