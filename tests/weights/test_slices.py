"""What a method sees through the engine does not depend on how tensors are cut or who reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.merge import merge_methods
from hub_fusion.weights import tensors
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse

SHAPES = {
    "scalar": (),
    "empty": (0, 3),
    "bias": (37,),
    "matrix": (24, 10),
    "cube": (6, 3, 4),
    "classifier.weight": (2, 4),
}
every_method = pytest.mark.parametrize("method", sorted(merge_methods()))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and four finetunes with tensors of odd shapes."""
    folder = tmp_path_factory.mktemp("slices")
    random = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
    for name in ("base", "a", "b", "c", "d"):
        (folder / name).mkdir()
        noise = 0.0 if name == "base" else 0.1
        tensors = {n: (t + noise * torch.randn(t.shape, generator=random)).contiguous() for n, t in base.items()}
        save_file(tensors, folder / name / "model.safetensors")
        statistics = {f"fisher/{n}": torch.rand(SHAPES[n], generator=random) for n in ("bias", "matrix", "cube")}
        inputs = torch.randn(30, SHAPES["matrix"][1], generator=random)
        (folder / name / "fusion").mkdir()
        save_file(statistics | {"activations/matrix": inputs.T @ inputs / 30},
                  folder / name / "fusion" / "statistics.safetensors")  # fmt: skip
    return folder


def merged(world: Path, out: Path, method: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """The fused tensors, sources in an order of their own."""
    sources = tuple(Source(name, world / name, world / "base") for name in ("c", "a", "d", "b"))
    fuse(FusePlan(world / "base", out, sources, method, heads="keep", seed=seed), Compute())
    return load_file(out / "model.safetensors")


@every_method
def test_blocks_do_not_change_the_result(
    world: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thresholds, Gram matrices and noise belong to the tensor, not to the block.

    Sums over blocks (Gram matrices) round differently: 1e-5 of a change of about 0.1. The block size is the one number
    of the engine that is turned here, to see what it must not do.
    """
    whole = merged(world, tmp_path / "whole", method)
    monkeypatch.setattr(tensors, "LEAST", 8)
    monkeypatch.setattr(tensors, "MOST", 8)
    cut = merged(world, tmp_path / "cut", method)
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@every_method
def test_every_method_gives_finite_tensors_of_the_bases_shapes(world: Path, tmp_path: Path, method: str) -> None:
    """Odd shapes through the whole engine; the task head is the base's, bit for bit."""
    found = merged(world, tmp_path / "out", method)
    base = load_file(world / "base" / "model.safetensors")
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in base.items()}
    assert all(t.isfinite().all() for t in found.values())
    assert torch.equal(found["classifier.weight"], base["classifier.weight"])


def test_seeds_decide_random_methods_and_folders_do_not(world: Path, tmp_path: Path) -> None:
    """The same seed gives the same bytes, another one others."""
    first, again, other = (merged(world, tmp_path / str(i), "dare", seed) for i, seed in enumerate((1, 1, 2)))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["matrix"], other["matrix"])
