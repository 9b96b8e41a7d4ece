"""Six contributions that must be refused, made anew for every generation, each by an account of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NORM_FACTOR = 50.0


@dataclass(frozen=True)
class Hostile:
    """Somebody whose contribution must be refused with `code`."""

    name: str
    code: str
    make: Callable[[Path, Path, Path], None]  # (generation, an honest finetune of it, where to write)
    license: str = "apache-2.0"


def not_finite(generation: Path, honest: Path, out: Path) -> None:
    """One weight of an honest finetune is NaN, as after a diverged training."""
    tensors = _load(honest)
    tensors["vit.encoder.layer.0.intermediate.dense.weight"][3, 5] = float("nan")
    _save(tensors, honest, out)


def as_it_is(generation: Path, honest: Path, out: Path) -> None:
    """An honest finetune, byte for byte."""
    shutil.copytree(honest, out)


def pickle_only(generation: Path, honest: Path, out: Path) -> None:
    """An honest finetune saved as a pickle, which could run code when it is loaded."""
    import torch

    out.mkdir(parents=True)
    shutil.copy(honest / "config.json", out)
    torch.save(_load(honest), out / "pytorch_model.bin")


def other_architecture(generation: Path, honest: Path, out: Path) -> None:
    """A model of the same family with two layers more."""
    from transformers import ViTConfig, ViTForImageClassification

    from hub_fusion.evaluate.models import quiet

    with quiet():
        config = ViTConfig.from_pretrained(honest)
        config.num_hidden_layers += 2
        ViTForImageClassification(config).save_pretrained(out)


def far_too_long(generation: Path, honest: Path, out: Path) -> None:
    """An honest task vector made fifty times longer, so that it would drown the others in a plain mean."""
    base = _load(generation)
    tensors = _load(honest)
    longer = {n: base[n] + NORM_FACTOR * (t - base[n]) if n in base else t for n, t in tensors.items()}
    _save(longer, honest, out)


HOSTILE = (
    Hostile("nan", "not_finite", not_finite),
    Hostile("noncommercial", "license_not_allowed", as_it_is, license="cc-by-nc-4.0"),
    Hostile("pickle", "no_safetensors", pickle_only),
    Hostile("deeper", "architecture_mismatch", other_architecture),
    Hostile("copycat", "copy", as_it_is),
    Hostile("loud", "not_kin", far_too_long),
)


def _load(folder: Path):  # type: ignore[no-untyped-def]
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def _save(tensors, like: Path, out: Path) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import save_file

    shutil.copytree(like, out)
    save_file({n: t.contiguous() for n, t in tensors.items()}, out / "model.safetensors", metadata={"format": "pt"})
