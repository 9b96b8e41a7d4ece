"""Fusing on CUDA gives what fusing on the CPU gives, up to rounding, in bounded memory and always the same bytes.

What the arithmetic itself computes is tested without a GPU (tests/weights/test_cuda_arithmetic.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.errors import WeightsError
from hub_fusion.weights import cuda as arithmetic
from hub_fusion.weights import tensors
from hub_fusion.weights.checkpoint import SINGLE
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, FuseReport, fuse
from hub_fusion.weights.measure import measure

SHAPES = {
    "body.weight": (257, 96), "body.bias": (257,), "body.scale": (), "body.nothing": (0, 4), "body.cube": (3, 5, 7),
    **{f"body.experts.{i}": (i % 5 + 1, 8) for i in range(60)},
}  # fmt: skip
CONTRIBUTIONS = 7
METHODS = [
    ("mean", {}), ("ties", {"density": 0.3}), ("ties", {"density": 0.3, "within": "model"}), ("dare_ties", {}),
    ("della", {}), ("trimmed_mean", {}), ("model_stock", {}), ("karcher", {}), ("geometric_median", {}), ("knots", {}),
]  # fmt: skip
# Sums over a tensor are rounded in another order; values are below 8 and at most 7 contributions' roundings differ.
TOLERANCE = 7 * 2**-24 * 8
ITEM_BYTES = 4


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
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


def plan(folder: Path, out: str, dtype: torch.dtype, method: str, options: dict[str, Any] | None = None) -> FusePlan:
    """A fuse of random finetunes of different weights, every other one capped."""
    if not (folder / "base").exists():
        for number in range(CONTRIBUTIONS):
            write(folder / f"finetune-{number}", number, dtype)
        write(folder / "base", 99, dtype)
    sources = tuple(
        Source(f"finetune-{n}", folder / f"finetune-{n}", folder / "base", weight=1 + n, scale=0.5 if n % 2 else 1.0)
        for n in range(CONTRIBUTIONS)
    )
    return FusePlan(folder / "base", folder / out, sources, method, options or {})


def agree(folder: Path, made: FusePlan, dtype: torch.dtype, tolerance: float = TOLERANCE) -> None:
    """One unit in the last place of 16 bits, which rounding a float32 near a tie can move; the tolerance otherwise."""
    reports: dict[str, FuseReport] = {}
    for device in ("cpu", "cuda"):
        there = FusePlan(**{**vars(made), "out": folder / device})
        reports[device] = compute_on(device).together(fuse, there)
    ours, theirs = (load_file(folder / device / SINGLE) for device in ("cuda", "cpu"))
    assert set(ours) == set(theirs) and reports["cuda"].device == "cuda"
    for name, tensor in ours.items():
        assert tensor.dtype == dtype
        torch.testing.assert_close(tensor.float(), theirs[name].float(), rtol=torch.finfo(dtype).eps, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_fusing_on_cuda_is_fusing_on_the_cpu(
    dtype: torch.dtype, method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Formulas, thresholds, noise, Gram matrices, decompositions; small tensors go together."""
    agree(tmp_path, plan(tmp_path, "out", dtype, method, options), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["mean", "task_arithmetic", "ties", "dare_ties", "consensus"])
def test_elementwise_methods_give_the_bytes_of_the_cpu(method: str, tmp_path: Path) -> None:
    """Every operation is rounded by itself, and thresholds and noise are exact."""
    made = plan(tmp_path, "out", torch.bfloat16, method)
    files = [compute_on(device).together(fuse, FusePlan(**{**vars(made), "out": tmp_path / device})).files
             for device in ("cpu", "cuda")]  # fmt: skip
    assert files[0] == files[1]


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["mean", "ties"])
def test_adapters_are_multiplied_on_cuda(method: str, tmp_path: Path) -> None:
    """In float32, not in TF32: a product of rank 16 may differ by 16 roundings."""
    made = plan(tmp_path, "out", torch.float32, method)
    base = load_file(tmp_path / "base" / SINGLE)
    save_file({"body.weight": base["body.weight"]}, tmp_path / "base" / SINGLE)
    random = torch.Generator().manual_seed(5)
    sources = []
    for number in range(3):
        folder = tmp_path / f"adapter-{number}"
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["body"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        factors = {"A": torch.randn((16, 96), generator=random), "B": torch.randn((257, 16), generator=random) / 16}
        save_file({f"base_model.model.body.lora_{k}.weight": v for k, v in factors.items()},
                  folder / "adapter_model.safetensors")  # fmt: skip
        sources.append(Source(folder.name, folder, tmp_path / "base", "adapter", scale=0.5))
    agree(tmp_path, FusePlan(**{**vars(made), "sources": tuple(sources)}), torch.float32, 16 * TOLERANCE)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["mean", "ties", "karcher", "tsv_m"])
def test_fusing_twice_on_cuda_gives_the_same_bytes(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes a generation reproducible on the same kind of device: whatever the threads, block by block."""
    monkeypatch.setattr(tensors, "LEAST", 500)
    monkeypatch.setattr(arithmetic, "DEVICE_ELEMENTS", 2**13)
    monkeypatch.setattr(tensors, "TORCH_ELEMENTS", 0)  # so that blocks are those of a device
    files = []
    for threads in (1, 2, 8):
        compute = compute_on("cuda")
        monkeypatch.setattr(arithmetic.TorchArithmetic, "threads", lambda self, available, n=threads: n)
        files.append(compute.together(fuse, plan(tmp_path, str(threads), torch.float32, method)).files)
    assert files[0] == files[1] == files[2]


@pytest.mark.gpu
def test_memory_is_that_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight finetunes of 64 MB each and more threads than blocks: below a fifth of the inputs."""
    monkeypatch.setattr(arithmetic, "DEVICE_ELEMENTS", 2**18)
    monkeypatch.setattr(arithmetic, "HELD", 2**18)
    monkeypatch.setattr(tensors, "TORCH_ELEMENTS", 0)
    sources = []
    for number in range(9):
        (folder := tmp_path / str(number)).mkdir()
        made = torch.randn((4096, 4096), generator=torch.Generator().manual_seed(number))
        save_file({"body.weight": made}, folder / SINGLE)
        sources.append(Source(folder.name, folder, tmp_path / "0"))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fuse(FusePlan(tmp_path / "0", tmp_path / "out", tuple(sources[1:]), "ties"), compute_on("cuda"))
    assert torch.cuda.max_memory_allocated() - before < 8 * 4096 * 4096 * ITEM_BYTES / 5


@pytest.mark.gpu
def test_what_does_not_fit_is_explained(tmp_path: Path) -> None:
    """No traceback of the allocator: what to do. The limit on memory is this process's own."""
    made = plan(tmp_path, "out", torch.float32, "knots")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**22 / torch.cuda.mem_get_info()[1])
    try:
        with pytest.raises(WeightsError, match="not even one block fits"):
            fuse(made, compute_on("cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    """File, tensor and index of one element among many tensors that go together."""
    made = plan(tmp_path, "out", torch.float32, "mean")
    found = load_file(tmp_path / "finetune-3" / SINGLE)
    found["body.experts.7"][1, 2] = torch.inf
    save_file(found, tmp_path / "finetune-3" / SINGLE)
    with pytest.raises(WeightsError, match=r"finetune-3.*body\.experts\.7 holds NaN or infinity at \[1, 2\]"):
        fuse(made, compute_on("cuda"))


@pytest.mark.gpu
def test_measures_of_the_screen_agree(tmp_path: Path) -> None:
    """Norms decide refusals: they are sums in float64 on both devices."""
    sources = list(plan(tmp_path, "out", torch.float32, "mean").sources)
    ours, theirs = (compute_on(device).together(measure, sources, tmp_path / "base") for device in ("cuda", "cpu"))
    assert ours.gram == pytest.approx(theirs.gram, rel=1e-9)
