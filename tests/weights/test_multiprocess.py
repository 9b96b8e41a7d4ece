"""Several processes of ``accelerate launch`` write the very bytes that one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file

from hub_fusion.local_hub import add_user, serve
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse
from hub_fusion.weights.local import plan_local

from .tiny import model, save_folder, saved, started_from, trained

PROJECT = Path(__file__).parents[2]


def started(folder: Path, *program: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """A program in several processes on this machine's CPU; whoever waits for ever is ended after 120 seconds."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
              "--main_process_port", "0", *program]  # fmt: skip
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "HF_HOME": str(folder / "hf"),
    }  # fmt: skip
    return subprocess.run(launch, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def launched(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``hub-fusion fuse`` in two processes."""
    return started(folder, "-m", "hub_fusion", "fuse", *arguments, "--json")


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


FAULTY = """
import sys
from hub_fusion.errors import HubUnreachable
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.names import MismatchError


def early(rank, compute):
    if compute.rank == rank:
        raise HubUnreachable(f"unreachable for {rank}")
    return sum(compute.gather(compute.rank))


def late(rank, compute):
    found = compute.gather(compute.rank)
    if compute.rank == rank:
        raise MismatchError("code", f"misfit for {rank}")
    return found


def disk(rank, compute):
    with compute.alike():
        if compute.rank == rank:
            open("/nowhere/at/all")
    raise AssertionError("nobody gets here")


def fine(rank, compute):
    return compute.gather((compute.rank, rank))


if __name__ == "__main__":
    compute = Compute()
    if not compute.is_main:
        compute.serve()
        sys.exit()
    for work in (early, late, disk):
        for rank in (0, 1, 2):
            try:
                compute.together(work, rank)
            except Exception as error:
                print(work.__name__, type(error).__name__, getattr(error, "code", None), error)
            assert compute.together(fine, rank) == [(0, rank), (1, rank), (2, rank)]
    compute.close()
"""


def test_a_fault_of_any_process_at_any_point_is_raised_by_all(tmp_path: Path) -> None:
    """Whoever waits for its answer is told, and all of them do the next piece of work together as if nothing was."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    done = started(tmp_path, "faulty.py", processes=3)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = [f"early HubUnreachable None unreachable for {rank}" for rank in range(3)]
    expected += [f"late MismatchError code misfit for {rank}" for rank in range(3)]
    expected += ["disk FileNotFoundError None [Errno 2] No such file or directory: '/nowhere/at/all'"] * 3
    assert done.stdout.splitlines() == expected


def test_a_method_that_fails_in_one_process_ends_all_with_its_sentence(tmp_path: Path) -> None:
    """RegMean's equations of one layer have no solution, and one process alone has that layer."""
    random = torch.Generator().manual_seed(0)
    shapes = {"body.a.weight": (9, 7), "body.b.weight": (5, 4)}
    base = save_folder(tmp_path / "base", {n: torch.randn(s, generator=random) for n, s in shapes.items()})
    folders = []
    for i in range(2):
        made = {n: torch.randn(s, generator=random) for n, s in shapes.items()}
        folders.append(save_folder(tmp_path / f"f{i}", made))
        inputs = torch.eye(7)[:1]  # one token says nothing of the six other inputs
        found = {"activations/body.a.weight": inputs.T @ inputs, "activations/body.b.weight": torch.eye(4)}
        (folders[-1] / "fusion").mkdir()
        save_file(found, folders[-1] / "fusion" / "statistics.safetensors")
    arguments = [
        "--method",
        "regmean",
        "--set",
        "ridge=0",
        "--set",
        "alpha=1",
        "--set",
        "normalise=none",
        "--out",
        str(tmp_path / "out"),
    ]
    done = launched(tmp_path, str(base), *map(str, folders), *arguments)
    assert done.returncode == 1
    assert "the Gram matrices of a layer with 7 inputs do not add up" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_what_the_hub_refuses_the_main_process_ends_all(tmp_path: Path) -> None:
    """Configuration and tokenizer are its to fetch, at the very end; a file that is listed and cannot be read."""
    base = saved(model("BertModel"), tmp_path / "base")
    finetune = saved(trained(started_from("BertModel", base)), tmp_path / "f")
    (base / "vocab.txt").write_text("[PAD]")
    token = add_user(tmp_path / "hub", "acme")
    with serve(tmp_path / "hub") as running:
        api = HfApi(running.url, token)
        api.create_repo("acme/base")
        api.upload_folder(repo_id="acme/base", folder_path=base)
        for blob in (tmp_path / "hub").rglob("*"):
            if blob.is_file() and blob.read_bytes() == b"[PAD]":
                blob.unlink()
        done = launched(tmp_path, "acme/base", str(finetune), "--out", str(tmp_path / "out"), "--endpoint", running.url)
    assert done.returncode == 1
    assert "acme/base" in done.stderr
    assert "vocab.txt" in done.stderr


def test_a_fault_of_the_main_process_ends_its_peers(tmp_path: Path) -> None:
    """They wait for a word that it would never say; without an end that would be for days (here: 120 seconds)."""
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
