"""Whole blocks in one compiled call give the bytes of the general way, for every method that has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hub_fusion.errors import WeightsError
from hub_fusion.weights import arithmetic, tensors
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, FuseReport, fuse

from .tiny import save_folder

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("mean", {}), ("task_arithmetic", {"scale": 0.3}), ("ties", {}), ("ties", {"within": "model", "density": 0.5}),
    ("dare", {}), ("dare_ties", {"density": 0.6, "scale": 1.5}),
]  # fmt: skip
SHAPES = {"body.a": (70, 130), "body.b": (9000,), "body.c": (3, 5, 7), "body.d": (), "body.e": (0, 4), "body.f": (1,)}


def world(folder: Path, dtype: torch.dtype, n: int = 6) -> tuple[Path, tuple[Source, ...]]:
    """A base, an older generation of it, and finetunes of either; enough of them for all ways of summing."""
    random = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=random).to(dtype) for name, shape in SHAPES.items()}

    def near(size: float) -> dict[str, torch.Tensor]:
        return {k: (v.float() + size * torch.randn(v.shape, generator=random)).to(dtype) for k, v in base.items()}

    start, older = save_folder(folder / "base", base), save_folder(folder / "older", near(0.1))
    folders = [save_folder(folder / f"f{i}", near(0.01)) for i in range(n)]
    origin = older if folder.name == "older" else start
    return start, tuple(Source(f.name, f, origin, weight=i + 1, scale=0.7 if i else 1.0) for i, f in enumerate(folders))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("origin", ["newest", "older"])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_both_ways_give_the_same_bytes(
    tmp_path: Path, dtype: torch.dtype, origin: str, method: str, options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Caps, weights, steps and an older generation included; blocks of one and of several strips."""
    base, sources = world(tmp_path / origin, dtype)
    reports: list[FuseReport] = []
    for number, blocks in enumerate((2**14, 2**18)):
        monkeypatch.setattr(tensors, "LEAST", blocks // 16)
        monkeypatch.setattr(tensors, "MOST", blocks)
        plan = FusePlan(base, tmp_path / f"fast{number}", sources, method, options, step=0.5, seed=3)
        reports.append(fuse(plan, Compute()))
    monkeypatch.setattr(arithmetic, "find_strips", lambda formula: None)
    general = FusePlan(base, tmp_path / "general", sources, method, options, step=0.5, seed=3)
    reports.append(fuse(general, Compute()))
    assert reports[0].files == reports[1].files == reports[2].files


@pytest.mark.parametrize("method", ["mean", "dare"])
def test_a_file_that_is_cut_short_meanwhile_is_an_error_that_names_it(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are read and not mapped: a mapped one that shrinks would end the process without a word."""
    monkeypatch.setattr(tensors, "MOST", 2**10)
    monkeypatch.setattr(tensors, "LEAST", 2**10)
    base, sources = world(tmp_path, torch.bfloat16)

    def cut(written: int, total: int) -> None:
        assert written < total
        os.truncate(Path(str(sources[1].folder)) / "model.safetensors", 2**10)

    with pytest.raises(WeightsError, match=r"f1/model.safetensors ends at byte \d+, .*: truncated"):
        fuse(FusePlan(base, tmp_path / "out", sources, method), Compute(), cut)


def test_a_nan_with_every_bit_set_is_not_rounded_to_zero(tmp_path: Path) -> None:
    """Adding half a step to its bits goes past the largest number; so rounding must not be what looks for NaN."""
    base, sources = world(tmp_path / "older", torch.float32)
    weights = load_file(base / "model.safetensors")
    weights["body.b"].view(torch.int32)[7] = -1
    save_folder(base, weights)
    with pytest.raises(WeightsError, match=r"body.b holds NaN or infinity at \[7\] \(the base\)"):
        fuse(FusePlan(base, tmp_path / "out", sources, dtype="BF16"), Compute())


@pytest.mark.parametrize("method", ["mean", "ties", "dare"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_on_the_fast_way_too(tmp_path: Path, method: str, bad: float) -> None:
    """TIES and DARE could drop it, and give a model that looks sound."""
    base, sources = world(tmp_path, torch.bfloat16)
    tensors_ = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()}
    tensors_["body.a"][69, 129] = bad
    save_folder(Path(str(sources[1].folder)), tensors_)
    with pytest.raises(WeightsError, match=r"f1/model.safetensors: tensor body.a .* at \[69, 129\] \(f1\)"):
        fuse(FusePlan(base, tmp_path / "out", sources, method), Compute())
