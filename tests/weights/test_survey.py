"""What methods are told about whole models: thresholds of task vectors, and statistics that contributors computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hub_fusion.errors import WeightsError
from hub_fusion.weights import tensors
from hub_fusion.weights.adapter import Change
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Deltas, Source
from hub_fusion.weights.fuse import FusePlan, fuse

from .tiny import model, save_folder, saved, started_from

SHAPES = {"body.a": (9, 7), "body.b": (5,), "body.c": (3, 4, 2), "lm_head.weight": (4, 3)}


def world(folder: Path, n: int = 3) -> tuple[Path, list[Path], dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A base and finetunes with changes of very different sizes from tensor to tensor; only the first has a head."""
    random = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
    finetunes = []
    for i in range(n):
        size = {name: 10.0 ** (j - i) for j, name in enumerate(SHAPES)}
        made = {k: v + size[k] * 1e-3 * torch.randn(v.shape, generator=random) for k, v in base.items()}
        finetunes.append({k: v for k, v in made.items() if i == 0 or k != "lm_head.weight"})
    folders = [save_folder(folder / f"f{i}", made) for i, made in enumerate(finetunes)]
    return save_folder(folder / "base", base), folders, base, finetunes


@pytest.mark.parametrize("block", [4, 10**6])
def test_ties_trims_whole_models_where_it_is_asked_to(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the authors do: the largest fifth of the whole task vector, wherever in the model it is."""
    monkeypatch.setattr(tensors, "LEAST", block)
    monkeypatch.setattr(tensors, "MOST", block)
    base, folders, start, finetunes = world(tmp_path)
    sources = tuple(Source(folder.name, folder, base) for folder in folders)
    fuse(FusePlan(base, tmp_path / "out", sources, "ties", {"within": "model", "density": 0.2}), Compute())
    trimmed = []
    for made in finetunes:
        flat = torch.cat([(made[n] - start[n]).reshape(-1) for n in SHAPES if n in made])
        kept = torch.zeros_like(flat)
        top = flat.abs().sort(descending=True, stable=True).indices[: int(np.ceil(0.2 * len(flat)))]
        kept[top] = flat[top]
        parts = kept.split([start[n].numel() for n in SHAPES if n in made])
        trimmed.append(dict(zip([n for n in SHAPES if n in made], parts, strict=True)))
    fused = load_file(tmp_path / "out" / "model.safetensors")
    for name in SHAPES:
        deltas = torch.stack([t[name] for t in trimmed if name in t])
        sign = torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
        agrees = deltas * sign > 0
        expected = (deltas * agrees).sum(0) / agrees.sum(0).clamp_min(1)
        torch.testing.assert_close(fused[name], start[name] + expected.reshape(start[name].shape), rtol=1e-6, atol=1e-6)


def test_factors_of_a_tensor_are_given_back_once_its_thresholds_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of all tensors of all adapters would be more than memory holds."""
    base = saved(model("BertModel", num_hidden_layers=6), tmp_path / "base")
    peft = get_peft_model(started_from("BertModel", base), LoraConfig(r=2, init_lora_weights=False))
    peft.save_pretrained(tmp_path / "adapter")
    held: list[int] = []
    change = Deltas.change

    def counted(self: Deltas, name: str, read: Callable[[str], Any]) -> Change | None:
        found = change(self, name, read)
        held.append(len(self._changes))
        return found

    monkeypatch.setattr(Deltas, "change", counted)
    sources = (Source("a", tmp_path / "adapter", base, "adapter"),)
    fuse(FusePlan(base, tmp_path / "out", sources, "ties", {"within": "model"}), Compute())
    assert len(held) > 12
    assert max(held) <= 4  # a few tensors are worked on at a time


def test_fisher_statistics_weigh_every_element(tmp_path: Path) -> None:
    """Σ Fᵢ·δᵢ / Σ Fᵢ with each Fᵢ divided by its norm over the whole model; tensors without statistics get the mean."""
    base, folders, start, finetunes = world(tmp_path, n=2)
    random = torch.Generator().manual_seed(1)
    information = []
    for folder in folders:
        found = {f"fisher/{n}": torch.rand(SHAPES[n], generator=random) + 0.01 for n in ("body.a", "body.b")}
        (folder / "fusion").mkdir()
        save_file(found, folder / "fusion" / "statistics.safetensors")
        norm = torch.cat([t.reshape(-1) for t in found.values()]).norm()
        information.append({name.removeprefix("fisher/"): t / norm for name, t in found.items()})
    sources = tuple(Source(folder.name, folder, base) for folder in folders)
    fuse(FusePlan(base, tmp_path / "out", sources, "fisher"), Compute())
    fused = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("body.a", "body.b", "body.c"):
        weights = [info.get(name, torch.ones(SHAPES[name])) for info in information]
        total = sum(w * (made[name] - start[name]) for w, made in zip(weights, finetunes, strict=True))
        torch.testing.assert_close(fused[name], start[name] + total / sum(weights), rtol=1e-6, atol=1e-6)


def test_activations_reach_regmean_and_their_shapes_are_checked(tmp_path: Path) -> None:
    """Linear layers solve (Σ δᵢGᵢ)(Σ Gᵢ)⁻¹; wrong shapes and missing statistics are named before anything is read."""
    base, folders, start, finetunes = world(tmp_path, n=2)
    random = torch.Generator().manual_seed(2)
    grams = []
    sources = tuple(Source(folder.name, folder, base) for folder in folders)
    plan = FusePlan(base, tmp_path / "out", sources, "regmean",
                    {"alpha": 1.0, "ridge": 0.0, "normalise": "none"})  # fmt: skip
    with pytest.raises(WeightsError, match=r"regmean needs activations statistics .* f0, f1 have none"):
        fuse(plan, Compute())
    for folder in folders:
        inputs = torch.randn(40, 7, generator=random)
        grams.append((inputs.T @ inputs / 40).double())
        (folder / "fusion").mkdir()
        save_file({"activations/body.a": grams[-1].float()}, folder / "fusion" / "statistics.safetensors")
    fuse(plan, Compute())
    fused = load_file(tmp_path / "out" / "model.safetensors")
    deltas = [(made["body.a"] - start["body.a"]).double() for made in finetunes]
    expected = sum(d @ g for d, g in zip(deltas, grams, strict=True)) @ torch.linalg.inv(grams[0] + grams[1])
    torch.testing.assert_close(fused["body.a"], (start["body.a"] + expected).float(), rtol=1e-5, atol=1e-6)
    save_file({"activations/body.a": torch.ones(3, 3)}, folders[0] / "fusion" / "statistics.safetensors")
    with pytest.raises(WeightsError, match=r"activations/body.a are F32 \[3, 3\]; body.a has the shape \[9, 7\]"):
        fuse(plan, Compute())
