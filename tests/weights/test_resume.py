"""A fuse that was killed goes on where it stopped, and ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hub_fusion.errors import OutputError, WeightsError
from hub_fusion.weights import tensors
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse

from .tiny import save_folder

PROJECT = Path(__file__).parents[2]
SHARD = "model-00001-of-00002.safetensors.partial"


def world(folder: Path, rows: int, layers: int, n: int = 3) -> FusePlan:
    """A sharded base in bfloat16 and its finetunes."""
    source = torch.Generator().manual_seed(0)
    base = {f"body.{i}.weight": torch.randn(rows, 512, generator=source).bfloat16() for i in range(layers)}
    folders = [
        save_folder(folder / f"f{i}", {k: v + (0.01 * torch.randn(v.shape, generator=source)).bfloat16()
                                       for k, v in base.items()}, shards=2)
        for i in range(n)
    ]  # fmt: skip
    start = save_folder(folder / "base", base, shards=2)
    return FusePlan(start, folder / "out", tuple(Source(f.name, f, start) for f in folders), "ties")


class Stop(Exception):
    """What ends a fuse here."""


def interrupt(plan: FusePlan, after: int) -> None:
    """Fuse, and stop when so many bytes have been written."""

    def progress(done: int, total: int) -> None:
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        fuse(plan, Compute(), progress)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks in a small model."""
    monkeypatch.setattr(tensors, "MOST", 4096)
    monkeypatch.setattr(tensors, "LEAST", 4096)


def test_an_interrupted_fuse_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, small_blocks: None) -> None:
    """At any point; what was written is not written again, and nothing of the journal is left."""
    plan = world(tmp_path, 32, 6)
    whole = fuse(replace(plan, out=tmp_path / "whole"), Compute())
    assert whole.bytes_resumed == 0
    for after in (1, whole.bytes_written // 3, whole.bytes_written - 1, whole.bytes_written):
        out = tmp_path / f"out{after}"
        interrupt(replace(plan, out=out), after)
        assert not list(out.glob("*.safetensors"))
        report = fuse(replace(plan, out=out), Compute())
        assert report.files == whole.files
        assert report.bytes_resumed >= min(after, whole.bytes_written) // 2
        left = {p.name for p in out.iterdir()}
        assert left == {p.name for p in (tmp_path / "whole").iterdir()}


def test_another_plan_starts_over(tmp_path: Path, small_blocks: None) -> None:
    """Bytes of another method, or of inputs that have changed since, must not survive in the result."""
    plan = world(tmp_path, 32, 4)
    interrupt(plan, 100_000)
    other = replace(plan, options={"density": 0.5})
    assert fuse(other, Compute()).bytes_resumed == 0
    interrupt(plan, 100_000)
    os.utime(plan.sources[0].folder / "model-00001-of-00002.safetensors", ns=(1, 1))
    assert fuse(plan, Compute()).bytes_resumed == 0


def test_a_torn_journal_and_missing_files_are_survived(tmp_path: Path, small_blocks: None) -> None:
    """The last line may be cut off; a partial file may have been deleted; both cost work, not bytes."""
    plan = world(tmp_path, 32, 4)
    whole = fuse(replace(plan, out=tmp_path / "whole"), Compute())
    interrupt(plan, 100_000)
    log = plan.out / "fusing-0.log"
    log.write_bytes(log.read_bytes()[:-1] + b"7")
    assert fuse(plan, Compute()).files == whole.files
    interrupt(plan, 100_000)
    (plan.out / "model-00002-of-00002.safetensors.partial").unlink()
    report = fuse(plan, Compute())
    assert (report.files, report.bytes_resumed) == (whole.files, 0)


def kill(arguments: list[str], seconds: float) -> bool:
    """Start a fuse and kill it after so long; whether it was still running."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


@pytest.mark.slow
def test_kills_at_random_points_change_nothing(tmp_path: Path) -> None:
    """Ten fuses by SIGKILL at a random moment each, then run to their end: the sha256 of one that was not killed."""
    plan = world(tmp_path, 8192, 12)
    command = [sys.executable, "-m", "hub_fusion", "fuse", str(plan.base), *(str(s.folder) for s in plan.sources),
               "--method", "median", "--json", "--out"]  # fmt: skip  # a slow one
    os.environ.setdefault("PYTHONPATH", str(PROJECT))

    def run(out: str) -> tuple[dict[str, object], float]:
        began = time.monotonic()
        done = subprocess.run([*command, str(tmp_path / out)], capture_output=True, text=True, check=True)
        return json.loads(done.stdout), time.monotonic() - began

    run("warm")
    whole, seconds = run("whole")
    moments = random.Random(0)
    resumed, killed = 0, 0
    for number in range(10):
        out = f"killed{number}"
        killed += kill([*command, str(tmp_path / out)], moments.uniform(seconds / 2, seconds))
        again, _ = run(out)
        assert again["files"] == whole["files"]
        resumed += bool(again["bytes_resumed"])
    print(f"\n{killed} of 10 killed while running ({seconds:.1f} s alone), {resumed} went on from a journal")
    assert killed >= 5
    assert resumed >= 1


def test_a_result_larger_than_the_disk_is_refused_before_it_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour into a large fuse is too late to say so; the free space is the one thing that is made up here."""
    plan = world(tmp_path, 32, 2)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(WeightsError, match=r"the result has 65,536 bytes, .* has 1,000 left"):
        fuse(plan, Compute())
    assert not list(plan.out.iterdir())


def test_headers_that_a_power_cut_lost_are_written_again(tmp_path: Path, small_blocks: None) -> None:
    """The journal vouches for blocks alone; a file without any may hold zeros where its header was."""
    plan = replace(world(tmp_path, 32, 4), residual=True)
    whole = fuse(replace(plan, out=tmp_path / "whole"), Compute())
    interrupt(plan, 100_000)
    for partial in (*plan.out.glob("*.partial"), *plan.out.glob("fusion/*.partial")):
        with partial.open("r+b") as file:
            file.write(bytes(64))
    report = fuse(plan, Compute())
    assert report.bytes_resumed > 0
    assert report.files == whole.files
    for lost in report.residual:
        assert (plan.out / lost).read_bytes() == (tmp_path / "whole" / lost).read_bytes()


def test_a_disk_that_fails_while_the_journal_is_written_ends_the_fuse(tmp_path: Path, small_blocks: None) -> None:
    """Also if it works again a moment later: what was being synced may be lost. What is left is gone on from."""
    plan = world(tmp_path, 32, 6)
    whole = fuse(replace(plan, out=tmp_path / "whole"), Compute())
    interrupt(plan, whole.bytes_written // 3)
    log, aside = plan.out / "fusing-0.log", tmp_path / "aside"
    listed = log.read_bytes()
    (full := tmp_path / "full").symlink_to("/dev/full")
    turn = iter([True])

    def progress(done: int, total: int) -> None:
        if done > total // 2 and next(turn, False):  # one thread, once
            aside.hardlink_to(log)
            full.replace(log)
            time.sleep(1.0)  # the journal's thread looks every half second
            aside.replace(log)

    with pytest.raises(OutputError, match=r"cannot be written to .* \(.*No space left on device.*goes on"):
        fuse(plan, Compute(), progress)
    assert log.read_bytes().startswith(listed)
    report = fuse(plan, Compute())
    assert report.files == whole.files
    assert report.bytes_resumed >= whole.bytes_written // 3
    assert {p.name for p in plan.out.iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def test_a_full_disk_leaves_what_is_done_and_says_so(tmp_path: Path, small_blocks: None) -> None:
    """The limit on a file's size stands in for the disk's: the system refuses to write beyond it."""
    plan = world(tmp_path, 32, 6)
    whole = fuse(replace(plan, out=tmp_path / "whole"), Compute())
    interrupt(plan, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (plan.out.joinpath(SHARD).stat().st_size // 2, hard))
    try:
        with pytest.raises(OutputError, match="File too large"):
            fuse(plan, Compute())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    report = fuse(plan, Compute())
    assert report.files == whole.files
    assert report.bytes_resumed > 0


def test_a_second_fuse_into_the_same_folder_is_refused(tmp_path: Path, small_blocks: None) -> None:
    """They would overwrite each other; the first is not disturbed, and a killed one locks nobody out."""
    plan = world(tmp_path, 32, 4)
    whole = fuse(replace(plan, out=tmp_path / "whole"), Compute())
    other = replace(plan, method="mean")
    refusals: list[str] = []

    def progress(done: int, total: int) -> None:
        if not refusals:
            with pytest.raises(OutputError) as refused:
                fuse(other, Compute())
            refusals.append(str(refused.value))

    assert fuse(plan, Compute(), progress).files == whole.files
    assert {*refusals} == {f"another fuse is writing to {plan.out}: wait for it, or choose another output folder"}
    (plan.out / "fusing.lock").touch()  # what a killed one leaves
    assert fuse(other, Compute()).files != whole.files
    assert not (plan.out / "fusing.lock").exists()


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    """A process that held it and was killed with SIGKILL."""
    plan = world(tmp_path, 32, 2)
    program = ("import sys, time; from pathlib import Path; from hub_fusion.weights.journal import alone\n"
               "with alone(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)")  # fmt: skip
    holder = subprocess.Popen([sys.executable, "-c", program, str(plan.out)], stdout=subprocess.PIPE, cwd=PROJECT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(OutputError, match="another fuse"):
        fuse(plan, Compute())
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert (plan.out / "fusing.lock").exists()
    assert fuse(plan, Compute()).bytes_written
