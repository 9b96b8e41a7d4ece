"""Checkpoints that descend from a base are told from strangers and shuffled copies by their MLP blocks on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.descent import Descent, descent, find_blocks
from hub_fusion.weights.reading import Reader

from .tiny import save_folder

LAYOUTS = {
    "llama": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", False),
    "bert": (("intermediate.dense",), "output.dense", False),
    "clip": (("mlp.fc1",), "mlp.fc2", False),
    "gpt2": (("mlp.c_fc",), "mlp.c_proj", True),
    "distilbert": (("ffn.lin1",), "ffn.lin2", False),
    "t5": (("DenseReluDense.wi_0", "DenseReluDense.wi_1"), "DenseReluDense.wo", False),
}


def tensors(layout: str, seed: int, units: int = 48) -> dict[str, torch.Tensor]:
    """Three layers of random MLP blocks under the names of an architecture."""
    random = torch.Generator().manual_seed(seed)
    into, out, transposed = LAYOUTS[layout]
    found = {}
    for layer in range(3):
        for name, shape in [*((n, (units, 12)) for n in into), (out, (12, units))]:
            matrix = torch.randn(shape, generator=random)
            found[f"layers.{layer}.{name}.weight"] = (matrix.T if transposed else matrix).contiguous()
    return found


def judged(folder: Path, base: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> Descent | None:
    """The verdict on two checkpoints saved to disk."""
    ours, theirs = (Checkpoint.open(save_folder(folder / n, t)) for n, t in (("base", base), ("other", other)))
    return descent(ours, theirs, Reader())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("units", [48, 1500])
def test_finetunes_descend_and_strangers_and_shuffled_copies_do_not(tmp_path: Path, layout: str, units: int) -> None:
    """Also where only a sample of the units is matched."""
    base, noise = tensors(layout, 0, units), tensors(layout, 1, units)
    order = torch.randperm(units, generator=torch.Generator().manual_seed(2))
    shuffled = {n: t[order] if t.shape[0] == units else t[:, order].contiguous() for n, t in base.items()}
    near = judged(tmp_path / "near", base, {n: t + 0.1 * noise[n] for n, t in base.items()})
    assert near == Descent(True, 1.0, 0.0)
    for name, other in (("stranger", noise), ("shuffled", shuffled)):
        verdict = judged(tmp_path / name, base, other)
        assert verdict is not None and not verdict.descends and verdict.gain > 0.5


def test_a_checkpoint_without_mlp_blocks_is_not_judged(tmp_path: Path) -> None:
    """Convolutions, for instance, or a matrix that has a block's name and not its shape."""
    odd = {"conv.weight": torch.ones(2, 2, 3), "fc1.weight": torch.ones(4, 2), "fc2.weight": torch.ones(3, 3)}
    assert judged(tmp_path, odd, odd) is None
    assert find_blocks(Checkpoint.open(tmp_path / "base")) == []
