"""Fusing on CUDA gives what fusing on the CPU gives, up to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, FuseReport, fuse
from hub_fusion.weights.measure import measure

SHAPES = {"body.weight": (257, 96), "body.bias": (257,), "scale": (), "nothing": (0, 4)}
CONTRIBUTIONS = 7
# The GPU may fuse a multiplication and an addition into one rounding: at most 7 roundings differ, each by 2⁻²⁴ of a
# value below 8.
TOLERANCE = 7 * 2**-24 * 8


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    """Everything here compares the two devices."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def compute_on(device: str) -> Compute:
    """The one process of this test, on a device of our choice."""
    compute = Compute()
    compute.device = device
    return compute


def write(folder: Path, seed: int, dtype: torch.dtype) -> Path:
    random = torch.Generator().manual_seed(seed)
    folder.mkdir()
    tensors = {name: torch.randn(shape, generator=random).to(dtype) for name, shape in SHAPES.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def plan(folder: Path, out: str, dtype: torch.dtype, method: str) -> FusePlan:
    if not (folder / "base").exists():
        for number in range(CONTRIBUTIONS):
            write(folder / f"finetune-{number}", number, dtype)
        write(folder / "base", 99, dtype)
    sources = tuple(
        Source(f"finetune-{n}", folder / f"finetune-{n}", folder / "base", weight=1 + n, scale=0.5 if n % 2 else 1.0)
        for n in range(CONTRIBUTIONS)
    )
    return FusePlan(folder / "base", folder / out, sources, method)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_fusing_on_cuda_is_fusing_on_the_cpu(dtype: torch.dtype, tmp_path: Path) -> None:
    """16-bit results may differ by the one unit in the last place that rounding a float32 near a tie can move."""
    reports: dict[str, FuseReport] = {}
    for device in ("cpu", "cuda"):
        reports[device] = compute_on(device).together(fuse, plan(tmp_path, device, dtype, "mean"))
    ours, theirs = (load_file(tmp_path / device / "model.safetensors") for device in ("cuda", "cpu"))
    assert set(ours) == set(theirs) == set(SHAPES) and reports["cuda"].device == "cuda"
    unit = torch.finfo(dtype).eps
    for name in SHAPES:
        assert ours[name].dtype == dtype
        torch.testing.assert_close(ours[name].float(), theirs[name].float(), rtol=unit, atol=TOLERANCE)


@pytest.mark.gpu
def test_fusing_twice_on_cuda_gives_the_same_bytes(tmp_path: Path) -> None:
    """What makes a generation reproducible on the same kind of device."""
    reports = [compute_on("cuda").together(fuse, plan(tmp_path, out, torch.float32, "mean")) for out in ("a", "b")]
    assert reports[0].files == reports[1].files


@pytest.mark.gpu
def test_measures_of_the_screen_agree(tmp_path: Path) -> None:
    """Norms decide refusals: they are sums in float64 on both devices."""
    sources = list(plan(tmp_path, "out", torch.float32, "mean").sources)
    ours, theirs = (compute_on(device).together(measure, sources, tmp_path / "base") for device in ("cuda", "cpu"))
    assert ours.gram == pytest.approx(theirs.gram, rel=1e-9)
