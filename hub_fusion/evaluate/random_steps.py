"""A control: is it the direction of the updates, or would any movement of that length do?

Public adapters with random weights did as well as trained ones in one study of merging (arXiv 2602.12323), so a merge
that does not beat random steps of equal length has shown nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path


def random_walk(root_folder: Path, out_folder: Path, *, norms: Sequence[float], seed: int) -> None:
    """The root plus one random direction per entry of `norms`, of that Euclidean length over all float tensors."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(root_folder / "model.safetensors")
    random = torch.Generator().manual_seed(seed)
    for norm in norms:
        steps = {name: torch.randn(tensor.shape, generator=random) for name, tensor in tensors.items()}
        length = float(sum(step.double().square().sum() for step in steps.values())) ** 0.5
        tensors = {name: tensor + steps[name] * (norm / length) for name, tensor in tensors.items()}
    shutil.copytree(root_folder, out_folder, dirs_exist_ok=True)
    save_file(tensors, out_folder / "model.safetensors", metadata={"format": "pt"})
