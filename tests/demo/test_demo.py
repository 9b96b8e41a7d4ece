"""The demo in a short form, as people start it."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from hub_fusion.cli.space import free_port
from hub_fusion.demo.hostile import HOSTILE
from hub_fusion.local_hub import serve

GENERATIONS = 1


def run_demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``hub-fusion demo`` in a process of its own."""
    command = [sys.executable, "-P", "-m", "hub_fusion", "demo", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(cwd / "hf")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo that was kept: its folder and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    done = run_demo("--generations", str(GENERATIONS), "--root", str(folder / "hub"), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "hub", json.loads(done.stdout.splitlines()[-1])


def test_the_demo_publishes_generations_and_says_so_in_one_json_line(demo: tuple[Path, dict[str, Any]]) -> None:
    """The last line is what programs read."""
    found = demo[1]
    assert [g["generation"] for g in found["generations"]] == list(range(GENERATIONS + 1))
    assert [g["tag"] for g in found["generations"]] == [f"gen-{n}" for n in range(GENERATIONS + 1)]
    assert found["generations"][0]["refusals"] == [] == found["generations"][0]["contributions"]
    for generation in found["generations"]:
        for protocol in ("fewshot", "probe"):
            score = generation["scores"][protocol]
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
    assert set(found["controls"]) == {"long_finetune", "random_deltas"}
    assert found["seconds"] > 0


def test_every_hostile_contribution_is_refused_with_its_own_code(demo: tuple[Path, dict[str, Any]]) -> None:
    """Six faults, six codes, each with a reason and a fix; the seven honest ones are all in."""
    for generation in demo[1]["generations"][1:]:
        codes = {r["repo"].partition("/")[0]: r["code"] for r in generation["refusals"]}
        assert codes == {h.name: h.code for h in HOSTILE}
        assert all(r["reason"] and r["fix"] for r in generation["refusals"])
        assert len(generation["contributions"]) == 7
        assert {c["relation"] for c in generation["contributions"]} == {"finetune", "adapter"}


def test_the_base_gets_better_at_digits_nobody_trained_on(demo: tuple[Path, dict[str, Any]]) -> None:
    """One generation lifts few-shot accuracy by 0.05 to 0.07; 0.02 leaves room for another machine's arithmetic."""
    means = [g["scores"]["fewshot"]["mean"] for g in demo[1]["generations"]]
    assert means[-1] > means[0] + 0.02


def test_what_the_demo_left_is_served_again(demo: tuple[Path, dict[str, Any]]) -> None:
    """All tags are there, and a generation loads in a plain process with nothing but HF_ENDPOINT."""
    folder, found = demo
    with serve(folder) as hub:
        refs = HfApi(endpoint=hub.url).list_repo_refs(found["base"])
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        assert tags == {g["tag"]: g["revision"] for g in found["generations"]}
        code = (
            "from transformers import AutoModelForImageClassification as M;"
            f"m = M.from_pretrained({found['base']!r}, revision='gen-1', num_labels=3);"
            "print(m.classifier.out_features)"
        )
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf")}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "3", done.stderr


def test_the_dashboard_shows_what_the_demo_made(demo: tuple[Path, dict[str, Any]]) -> None:
    """`hub-fusion space serve` over the demo's Hub: gen-1 and its contributors are in the first answer."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    folder, found = demo
    port = free_port()
    command = [sys.executable, "-m", "hub_fusion", "space", "serve", found["base"], "--port", str(port)]
    with serve(folder) as hub, (folder / "dashboard.txt").open("w") as said, subprocess.Popen(
        [*command, "--endpoint", hub.url], cwd=folder, stdout=said, stderr=subprocess.STDOUT
    ) as dashboard:  # fmt: skip
        try:
            until = time.monotonic() + 120
            while True:
                assert dashboard.poll() is None, (folder / "dashboard.txt").read_text()
                assert time.monotonic() < until, "the dashboard does not answer"
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=20) as answer:
                        page = answer.read().decode()
                    break
                except OSError:
                    time.sleep(0.1)
        finally:
            dashboard.terminate()
            dashboard.wait(20)
    generation = found["generations"][1]
    assert all(c["repo"] in page for c in generation["contributions"])
    score = generation["scores"]["fewshot"]["mean"]
    assert f"{100 * score:.1f}" in page


def test_a_finished_demo_has_nothing_more_to_do(demo: tuple[Path, dict[str, Any]]) -> None:
    """The Hub is the only truth: a second run finds its generations there and trains nothing."""
    folder, found = demo
    done = run_demo("--generations", str(GENERATIONS), "--root", str(folder), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout.splitlines()[-1])
    assert [g["revision"] for g in again["generations"]] == [g["revision"] for g in found["generations"]]
    assert "train gen-" not in done.stderr
