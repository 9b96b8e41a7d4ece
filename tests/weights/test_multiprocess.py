"""Several processes of ``accelerate launch`` write the very bytes that one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse
from hub_fusion.weights.local import plan_local

from .tiny import model, saved, started_from, trained

PROJECT = Path(__file__).parents[2]


def launched(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``hub-fusion fuse`` in two processes on this machine's CPU."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--main_process_port", "0", "-m", "hub_fusion", "fuse", *arguments, "--json"]  # fmt: skip
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "HF_HOME": str(folder / "hf"),
    }  # fmt: skip
    return subprocess.run(launch, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def test_two_processes_write_what_one_writes_and_speak_once(tmp_path: Path) -> None:
    """The main process talks: its peer leaves nothing on stdout."""
    base = saved(model("BertForMaskedLM"), tmp_path / "base")
    folders = [saved(trained(started_from("BertForMaskedLM", base), seed=i), tmp_path / f"f{i}") for i in range(3)]
    alone = fuse(plan_local(base, folders, tmp_path / "one", weights=[1, 2, 3]), Compute())
    done = launched(tmp_path, str(base), *map(str, folders), "--weights", "1,2,3", "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)  # one object and nothing else
    assert (said["processes"], said["device"]) == (2, "cpu")
    assert said["files"] == alone.files
    assert said["weights_sha256"] == alone.weights_sha256
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == (
        tmp_path / "one" / "model.safetensors"
    ).read_bytes()


def test_a_fault_of_the_main_process_ends_its_peers(tmp_path: Path) -> None:
    """They wait at a barrier that it will never reach; without an end that would be for days (here: 120 seconds)."""
    base = saved(model("BertModel"), tmp_path / "base")
    done = launched(
        tmp_path, str(base), str(saved(trained(model("BertModel")), tmp_path / "f")), "--out", "/proc/nowhere/x"
    )
    assert done.returncode != 0
    assert "/proc/nowhere" in done.stderr


def test_a_plan_travels_between_processes(tmp_path: Path) -> None:
    """It is pickled on its way to the peers."""
    import pickle

    plan = FusePlan(tmp_path, tmp_path / "out", (Source("a", tmp_path, tmp_path),), options={"density": 0.1})
    assert pickle.loads(pickle.dumps(plan)) == plan
