"""The fuse benchmarks run: at their smallest size, without the peer, each once.

What is asserted is that they measure and that the results are right, never how long it took.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[2] / "benchmarks" / "fuse"
OPTIONS = {
    "adapters": (), "remote": (), "tiny_tensors": (), "large": ("--methods", "mean"),
    "mergekit": ("--without-mergekit", "--methods", "mean", "--counts", "2"),
}  # fmt: skip
SHARED = {"common", "peer"}
ELSEWHERE = {"gpu", "meaning"}  # need CUDA, and mergekit


@dataclass(frozen=True)
class Done:
    """What a benchmark printed and saved, and the folder with its inputs."""

    printed: str
    tables: dict[str, list[dict[str, Any]]]
    work: Path


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """Run a benchmark by its name; once, however many tests ask."""
    found: dict[str, Done] = {}

    def run(name: str) -> Done:
        if name not in found:
            work = tmp_path_factory.mktemp(name)
            options = ["--size", "tiny", "--runs", "0", "--work", work, "--save", work / "results", *OPTIONS[name]]
            done = subprocess.run(
                [sys.executable, FOLDER / f"{name}.py", *options], capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, done.stderr
            assert "Warning" not in done.stderr
            facts = json.loads((work / "results" / f"{name}.json").read_text())
            assert facts["size"] == "tiny"
            assert facts["versions"]["hub-fusion"]
            found[name] = Done(done.stdout, facts["tables"], work)
        return found[name]

    return run


@pytest.mark.parametrize("name", OPTIONS)
def test_a_benchmark_prints_its_tables_and_its_results_are_right(name: str, benchmark: Callable[[str], Done]) -> None:
    """Every table is Markdown with one line per row; peaks are of something; results are within a bf16 step."""
    done = benchmark(name)
    lines = done.printed.splitlines()
    for title, rows in done.tables.items():
        head = lines.index(title) + 2
        assert [cell.strip() for cell in lines[head].strip("|").split("|")] == list(rows[0])
        assert set(lines[head + 1]) == set("|- ")
        assert all(line.startswith("|") for line in lines[head + 2 : head + 2 + len(rows)])
    rows = [row for table in done.tables.values() for row in table]
    peaks = [value for row in rows for column, value in row.items() if "private" in column and value is not None]
    assert peaks
    assert all(value > 1 for value in peaks)
    verdicts = [row[column] for row in rows for column in ("within one step", "same bytes as from folders")
                if column in row]  # fmt: skip
    assert verdicts
    assert all(verdicts)


def test_every_benchmark_is_tested() -> None:
    """A script is in the table above, is shared by others, or needs what this machine may not have."""
    assert {path.stem for path in FOLDER.glob("*.py")} - ELSEWHERE == {*OPTIONS, *SHARED}


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_benchmarks_share_does_nothing_as_a_script(name: str) -> None:
    """`make bench` runs every file with ``--size small``."""
    command = [sys.executable, FOLDER / f"{name}.py", "--size", "small"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_without_cuda_the_gpu_benchmark_says_so() -> None:
    """One sentence, exit code 0."""
    command = [sys.executable, FOLDER / "gpu.py", "--size", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "needs a CUDA device" in done.stdout


def test_the_models_and_adapters_are_what_transformers_and_peft_load(benchmark: Callable[[str], Done]) -> None:
    """PEFT's own merge of one adapter is base + (α/r)·B·A; nothing is missing or left over."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    place = benchmark("adapters").work / "tiny"
    base, loading = AutoModelForCausalLM.from_pretrained(place / "base", output_loading_info=True, dtype=torch.float32)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    merged = PeftModel.from_pretrained(base, place / "adapter-00").merge_and_unload().state_dict()
    name = "model.layers.1.mlp.down_proj"
    lora = load_file(place / "adapter-00" / "adapter_model.safetensors")
    b, a = (lora[f"base_model.model.{name}.lora_{part}.weight"] for part in "BA")
    before = load_file(place / "base" / "model.safetensors")[f"{name}.weight"].float()
    torch.testing.assert_close(merged[f"{name}.weight"], before + 2 * (b @ a))
