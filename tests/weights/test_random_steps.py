"""A random step is as long as the real one, tensor by tensor, and the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hub_fusion.errors import WeightsError
from hub_fusion.weights import random_steps
from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.random_steps import random_step, random_walk

from .tiny import save_folder

Tensors = dict[str, torch.Tensor]


def base_of(dtype: torch.dtype = torch.float32) -> Tensors:
    """A matrix, a bias, a number, a buffer and an index."""
    random = torch.Generator().manual_seed(1)
    shapes = {"a.weight": (30, 7), "a.bias": (7,), "scale": ()}
    found = {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}
    return found | {"bn.num_batches_tracked": torch.tensor(3), "position_ids": torch.arange(5)}


def moved(tensors: Tensors, size: float = 0.1) -> Tensors:
    """A candidate: the bias stays, the rest moves."""
    random = torch.Generator().manual_seed(2)
    floats = {n: t for n, t in tensors.items() if t.is_floating_point() and n != "a.bias"}
    return tensors | {
        n: (t.float() + size * torch.randn(t.shape, generator=random)).to(t.dtype) for n, t in floats.items()
    }


def read(folder: Path) -> Tensors:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.read(name).clone() for name in checkpoint}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_tensor_moves_as_far_as_the_candidates(dtype: torch.dtype, tmp_path: Path) -> None:
    """Also in 16 bits, where so small a step would be rounded away if the control were stored like the base."""
    tensors = base_of(dtype)
    candidate = moved(tensors, 0.004)
    one, other = save_folder(tmp_path / "one", tensors), save_folder(tmp_path / "other", candidate)
    length = random_step(one, other, tmp_path / "out", seed=0)
    found = read(tmp_path / "out")
    total = 0.0
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            assert torch.equal(found[name], tensor)
            continue
        wanted = float((candidate[name].double() - tensor.double()).norm())
        assert float((found[name].double() - tensor.double()).norm()) == pytest.approx(wanted, rel=1e-3, abs=1e-9)
        total += wanted**2
    assert length == pytest.approx(total**0.5, rel=1e-5)
    assert torch.equal(found["a.bias"], tensors["a.bias"].float()), "where the candidate did not move"


def test_shards_and_blocks_do_not_change_a_single_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = base_of()
    one, other = save_folder(tmp_path / "one", tensors), save_folder(tmp_path / "other", moved(tensors))
    random_step(one, other, tmp_path / "whole", seed=5)
    sharded = save_folder(tmp_path / "sharded", tensors, shards=3)
    monkeypatch.setattr(random_steps, "BLOCK_ELEMENTS", 11)
    random_step(sharded, other, tmp_path / "pieces", seed=5)
    whole, pieces = read(tmp_path / "whole"), read(tmp_path / "pieces")
    assert all(torch.equal(whole[name], pieces[name]) for name in tensors)
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) == 3


def test_another_seed_is_another_direction_and_the_same_seed_the_same(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(10_000)}
    one, other = save_folder(tmp_path / "one", tensors), save_folder(tmp_path / "other", {"w": torch.ones(10_000)})
    walks = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        random_step(one, other, tmp_path / name, seed=seed)
        walks.append(load_file(tmp_path / name / "model.safetensors")["w"].double())
    cosines = [float(walks[0] @ walk) / 10_000 for walk in walks]
    assert cosines[1] == pytest.approx(1) and abs(cosines[2]) < 0.05  # 5 standard deviations of 1/√10,000
    assert abs(float(walks[0].mean())) < 0.05, "as often up as down"


def test_a_walk_takes_every_step_in_a_new_direction(tmp_path: Path) -> None:
    root = save_folder(tmp_path / "root", {"w": torch.zeros(100, 100, dtype=torch.bfloat16)})
    random_walk(root, tmp_path / "walk", norms=[3.0, 4.0], seed=0)
    walked = load_file(tmp_path / "walk" / "model.safetensors")["w"]
    assert walked.dtype == torch.float32 and float(walked.double().norm()) == pytest.approx(5.0, rel=0.02)


def test_checkpoints_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    one, other = (save_folder(tmp_path / name, {name: torch.ones(3)}) for name in ("one", "other"))
    with pytest.raises(WeightsError, match="no float tensor"):
        random_step(one, other, tmp_path / "out", seed=0)
