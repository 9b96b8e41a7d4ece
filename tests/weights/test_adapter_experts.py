"""Adapters on experts change the base as PEFT's own merge does, however the base stores its experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import HfApi
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from hub_fusion import fuse_models
from hub_fusion.errors import WeightsError
from hub_fusion.hub import Hub
from hub_fusion.local_hub import add_user, serve
from hub_fusion.weights import tensors
from hub_fusion.weights.checkpoint import Checkpoint

from .test_adapter_kinds import check_like_peft, made_by_peft
from .tiny import saved

SIZES = {"vocab_size": 40, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1}  # fmt: skip
KINDS = {  # how the base stores its experts
    "Qwen3MoeForCausalLM": {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "head_dim": 4},
    "MixtralForCausalLM": {"num_local_experts": 3},
    "GptOssForCausalLM": {"num_local_experts": 3, "head_dim": 4},
}  # fmt: skip


@pytest.fixture(params=KINDS)
def mixture(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A mixture of experts as its class saves it."""
    kind: str = request.param
    settings = getattr(transformers, kind.replace("ForCausalLM", "Config"))(**SIZES | KINDS[kind])
    torch.manual_seed(0)
    return kind, saved(getattr(transformers, kind)(settings), tmp_path / "base")


def lora(*parameters: str, **more: Any) -> LoraConfig:
    """Factors on parameters, and on the projections of the attention."""
    return LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], target_parameters=list(parameters), **more)


BOTH = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@pytest.mark.parametrize("parameters", [BOTH, BOTH[:1], ("experts.down_proj",)], ids=["both", "gate and up", "down"])
def test_experts_change_as_peft_merges_them(
    mixture: tuple[str, Path], tmp_path: Path, parameters: tuple[str, ...]
) -> None:
    """By blocks of rows, in numpy and in torch, and through the whole engine."""
    kind, base = mixture
    more = {"use_rslora": True, "alpha_pattern": {"experts.down_proj": 3}} if len(parameters) == 2 else {}
    adapter = made_by_peft(base, tmp_path / "adapter", kind, lora(*parameters, **more))
    changed = check_like_peft(base, adapter)
    experts = [name for name in changed if "experts" in name]
    gates, downs = (2, 2) if kind == "GptOssForCausalLM" else (12, 6)  # tensors in which they are stored
    assert len(experts) == sum(gates if "gate" in parameter else downs for parameter in parameters)
    assert len(changed) == len(experts) + 2
    fuse_models(base, [adapter], tmp_path / "out")
    result, before = Checkpoint.open(tmp_path / "out"), Checkpoint.open(base)
    for name in result:
        expected = changed.get(name, before.read(name))
        torch.testing.assert_close(result.read(name), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_experts_are_streamed_and_blocks_change_nothing(
    mixture: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair of factors for many tensors is asked for once."""
    kind, base = mixture
    adapter = made_by_peft(base, tmp_path / "adapter", kind, lora(*BOTH))
    token = add_user(tmp_path / "hub", "acme")
    expected = fuse_models(base, [adapter], tmp_path / "local", method="della").files
    with serve(tmp_path / "hub") as running:
        api = HfApi(running.url, token)
        for folder in (base, adapter):
            api.create_repo(f"acme/{folder.name}")
            api.upload_folder(repo_id=f"acme/{folder.name}", folder_path=folder, ignore_patterns=["merged/*", "*.md"])
        hub = Hub(running.url, token, tmp_path / "cache")
        mean = fuse_models("acme/base", ["acme/adapter"], tmp_path / "remote", hub=hub)
    assert mean.files == fuse_models(base, [adapter], tmp_path / "mean").files
    assert mean.notes == ()
    monkeypatch.setattr(tensors, "MOST", 1)
    monkeypatch.setattr(tensors, "LEAST", 1)
    assert fuse_models(base, [adapter], tmp_path / "small", method="della").files == expected


def test_other_experts_than_the_bases_are_refused(mixture: tuple[str, Path], tmp_path: Path) -> None:
    """An adapter of a mixture with more experts, or wider ones."""
    kind, base = mixture
    for name, size in (("num_experts", 4), ("num_local_experts", 4), ("moe_intermediate_size", 10)):
        if name not in KINDS[kind]:
            continue
        settings = getattr(transformers, kind.replace("ForCausalLM", "Config"))(**SIZES | KINDS[kind] | {name: size})
        other = saved(getattr(transformers, kind)(settings), tmp_path / name)
        adapter = made_by_peft(other, tmp_path / f"of-{name}", kind, lora(*BOTH))
        with pytest.raises(WeightsError, match="experts"):
            fuse_models(base, [adapter], tmp_path / "out")


def test_square_experts_lie_as_the_gates_beside_them(tmp_path: Path) -> None:
    """Those of gpt-oss are as wide as its hidden states; the other way round PEFT's releases differ."""
    settings = transformers.GptOssConfig(**SIZES | {"num_local_experts": 3, "head_dim": 4, "intermediate_size": 8})
    torch.manual_seed(0)
    base = saved(transformers.GptOssForCausalLM(settings), tmp_path / "base")
    assert Checkpoint.open(base)["model.layers.0.mlp.experts.down_proj"].shape == (3, 8, 8)
    for parameters in (BOTH, BOTH[1:]):
        adapter = made_by_peft(base, tmp_path / f"adapter-{len(parameters)}", "GptOssForCausalLM", lora(*parameters))
        changed = check_like_peft(base, adapter)
        assert len([name for name in changed if "experts" in name]) == 2 * len(parameters)
        fuse_models(base, [adapter], tmp_path / "out")
        result = Checkpoint.open(tmp_path / "out")
        for name, expected in changed.items():
            torch.testing.assert_close(result.read(name), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    other = load_file(base / "model.safetensors")
    for name in list(other):
        if name.endswith("gate_up_proj"):
            other[name] = other[name].mT.contiguous()
    save_file(other, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="stack of square matrices, whose direction is unknown"):
        fuse_models(base, [tmp_path / "adapter-1"], tmp_path / "out")
