"""Every kind of adapter changes the base as PEFT's own merge does, by blocks of rows, in numpy and in torch alike."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hub_fusion import fuse_models
from hub_fusion.errors import WeightsError
from hub_fusion.weights import tensors
from hub_fusion.weights.adapter import load_change, plan_adapter, read_lora_config
from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source, base_memory_names
from hub_fusion.weights.fuse import FusePlan, fuse

from .tiny import model, saved, started_from, trained

ADAPTER = "adapter_model.safetensors"


def made_by_peft(base: Path, folder: Path, kind: str, settings: Any) -> Path:
    """An adapter with noise on all that is trained, as PEFT saves it; beside it what PEFT merges."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says what it mends and saves
        peft = get_peft_model(started_from(kind, base), settings)
        source = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in peft.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=source), alpha=0.05)
        peft.save_pretrained(folder)
        peft.merge_and_unload().save_pretrained(folder / "merged")
    return folder


def fused(base: Path, adapter: Path, block: int, *, as_torch: bool) -> dict[str, torch.Tensor]:
    """The tensors of the base that the adapter changes, with the change, from blocks of rows."""
    files, origin = Checkpoint.open(adapter, ADAPTER), Checkpoint.open(base)
    plan = plan_adapter(read_lora_config(adapter), files, origin, lambda: base_memory_names(base))
    reads: list[str] = []

    def read(name: str) -> Any:
        reads.append(name)
        tensor = files.read(name).float()
        return tensor if as_torch else tensor.numpy()

    changed = {}
    for name, target in plan.items():
        before = origin.read(name).clone()
        tensor = files.read(target.saved).clone() if target.saved else before.clone()
        if target.a:
            change = load_change(files, target, read)
            for start in range(0, len(before), block):
                stop = min(start + block, len(before))
                rows = before[start:stop] if as_torch else before[start:stop].numpy()
                given = change.rows(start, stop, rows if change.needs_origin else None)
                assert given.shape == rows.shape
                assert given.dtype == rows.dtype
                assert isinstance(given, torch.Tensor) == as_torch
                tensor[start:stop] += torch.as_tensor(given)
        changed[name] = tensor
    assert sorted(reads) == sorted(n for t in plan.values() for n in (t.a, t.b, t.magnitude) if n)
    return changed


def check_like_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Equal to merge_and_unload within 1e-6 of the tensor's largest value; untouched tensors are the base's."""
    merged, origin = Checkpoint.open(adapter / "merged"), Checkpoint.open(base)
    changed = fused(base, adapter, 3, as_torch=False)
    for name in origin:
        expected = merged.read(name if name in merged else next(n for n in merged if n.endswith(f".{name}")))
        tensor = changed.get(name, origin.read(name))
        limit = 1e-6 * float(expected.abs().max())
        torch.testing.assert_close(tensor, expected, rtol=0, atol=limit, msg=lambda text, n=name: f"{n}: {text}")
    for name, tensor in fused(base, adapter, 1000, as_torch=True).items():
        torch.testing.assert_close(tensor, changed[name], rtol=0, atol=1e-6 * float(tensor.abs().max()))
    return {name: tensor for name, tensor in changed.items() if not torch.equal(tensor, origin.read(name))}


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 2, "init_lora_weights": False} | options)


def ia3(**options: Any) -> Any:
    from peft import IA3Config

    return IA3Config(**options)


CASES: dict[str, tuple[str, str, int, Any]] = {  # base, trained class, changed tensors, PEFT's configuration
    "DoRA": ("BertModel", "BertModel", 4, lambda: lora(target_modules=["query", "value"], use_dora=True)),
    "DoRA, rank-stabilised, with patterns": (
        "BertModel", "BertForSequenceClassification", 8,
        lambda: lora(target_modules=["query", "intermediate.dense", "output.dense"], use_dora=True, use_rslora=True,
                     layers_to_transform=[0], layers_pattern="layer", lora_dropout=0.1, bias="lora_only",
                     rank_pattern={"query": 4}, alpha_pattern={"layer.0.intermediate.dense": 5}),
    ),
    "convolution": ("ViTModel", "ViTModel", 1, lambda: lora(target_modules=["projection"])),
    "DoRA of a convolution": ("ViTModel", "ViTModel", 1, lambda: lora(target_modules=["projection"], use_dora=True)),
    "biases of factors": (
        "BertModel", "BertModel", 4, lambda: lora(target_modules=["query"], lora_bias=True, lora_alpha=3),
    ),
    "convolution with a bias of factors": (
        "ViTModel", "ViTModel", 2, lambda: lora(target_modules=["projection"], lora_bias=True),
    ),
    "(IA)³": (
        "BertModel", "BertForSequenceClassification", 10,
        lambda: ia3(target_modules=["key", "value", "layer.0.intermediate.dense", "layer.1.output.dense"],
                    feedforward_modules=["layer.0.intermediate.dense", "layer.1.output.dense"]),
    ),
    "(IA)³ on GPT-2's transposed layers": (
        "GPT2LMHeadModel", "GPT2LMHeadModel", 6,
        lambda: ia3(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]),
    ),
    "(IA)³ on a convolution's outputs": (
        "ViTModel", "ViTModel", 2, lambda: ia3(target_modules=["projection"], feedforward_modules=[]),
    ),
    "(IA)³ on a convolution's inputs": (
        "ViTModel", "ViTModel", 1,
        lambda: ia3(target_modules=["projection"], feedforward_modules=["projection"]),
    ),
    "(IA)³ with saved modules": (
        "BertModel", "BertForSequenceClassification", 6,
        lambda: ia3(target_modules=["key"], feedforward_modules=[], modules_to_save=["classifier", "pooler.dense"]),
    ),
    "trainable tokens": (
        "BertModel", "BertForSequenceClassification", 3,
        lambda: lora(target_modules=["query"], trainable_token_indices=[7, 1, 30]),
    ),
    "trainable tokens by name, tied": (
        "GPT2LMHeadModel", "GPT2LMHeadModel", 3,
        lambda: lora(target_modules=["c_fc"], fan_in_fan_out=True, trainable_token_indices={"wte": [0, 39, 2]}),
    ),
    "embeddings that are tied": (
        "GPT2LMHeadModel", "GPT2LMHeadModel", 1, lambda: lora(target_modules=["wte"], fan_in_fan_out=True),
    ),
    "saved modules beside DoRA": (
        "BertModel", "BertForSequenceClassification", 6,
        lambda: lora(target_modules=["query", "value"], use_dora=True, modules_to_save=["classifier", "pooler"]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_fused_base_is_what_peft_merges(tmp_path: Path, case: str) -> None:
    """Rows are enough for every formula, and every factor is read once; the engine gives the same."""
    base_kind, trained_kind, count, settings = CASES[case]
    base = saved(trained(model(base_kind)), tmp_path / "base")  # fresh biases are zero, and zero scaled is zero
    adapter = made_by_peft(base, tmp_path / "adapter", trained_kind, settings())
    changed = check_like_peft(base, adapter)
    assert len(changed) == count, sorted(changed)
    fuse_models(base, [adapter], tmp_path / "out")
    result = Checkpoint.open(tmp_path / "out")
    for name in result:
        tensor, expected = result.read(name), changed.get(name, Checkpoint.open(base).read(name))
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_trainable_tokens_alone_are_an_adapter(tmp_path: Path) -> None:
    """PEFT's own type for them has the same rows under another name."""
    from peft import TrainableTokensConfig

    base = saved(model("BertModel"), tmp_path / "base")
    settings = TrainableTokensConfig(token_indices=[3, 1], target_modules=["word_embeddings"])
    changed = check_like_peft(base, made_by_peft(base, tmp_path / "adapter", "BertModel", settings))
    assert list(changed) == ["embeddings.word_embeddings.weight"]


REFUSED: dict[str, tuple[str, str, Any, str]] = {
    "DoRA of embeddings": (
        "BertModel", "BertModel", lambda: lora(target_modules=["word_embeddings"], use_dora=True), "down the columns",
    ),
    "DoRA of transposed layers": (
        "GPT2Model", "GPT2Model", lambda: lora(target_modules=["c_fc"], use_dora=True, fan_in_fan_out=True),
        "down the columns",
    ),
    "a tied output layer": (
        "GPT2LMHeadModel", "GPT2LMHeadModel", lambda: lora(target_modules=["lm_head", "c_fc"]), "does not store",
    ),
    "a trained copy of a tied output layer": (
        "GPT2LMHeadModel", "GPT2LMHeadModel",
        lambda: lora(target_modules=["c_fc"], fan_in_fan_out=True, modules_to_save=["lm_head"]), "does not store",
    ),
    "a trained copy of tied embeddings": (
        "GPT2LMHeadModel", "GPT2LMHeadModel",
        lambda: lora(target_modules=["c_fc"], fan_in_fan_out=True, modules_to_save=["wte"]), "a trained copy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_base_cannot_hold_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """A base that stores an output layer as its embeddings cannot hold one without the other."""
    base_kind, trained_kind, settings, law = REFUSED[case]
    base = saved(model(base_kind), tmp_path / "base")
    adapter = made_by_peft(base, tmp_path / "adapter", trained_kind, settings())
    with pytest.raises(WeightsError, match=law):
        fused(base, adapter, 3, as_torch=False)


@pytest.mark.parametrize("saving", [{"target_modules": ["embed_tokens", "q_proj"]},
                                    {"target_modules": ["lm_head", "q_proj"]},
                                    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
                                    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}])  # fmt: skip
def test_adapters_that_kept_the_tie_behave_as_they_were_trained(tmp_path: Path, saving: dict[str, Any]) -> None:
    """The logits of PEFT's model, before its merge: that merge adds a tied change twice (PEFT 0.21)."""
    from peft import get_peft_model

    base, adapter = saved(model("LlamaForCausalLM", tie_word_embeddings=True), tmp_path / "base"), tmp_path / "adapter"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = get_peft_model(started_from("LlamaForCausalLM", base), lora(ensure_weight_tying=True, **saving))
        source = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in peft.named_parameters():
                if parameter.requires_grad and "lm_head" not in name:
                    parameter.add_(torch.randn(parameter.shape, generator=source), alpha=0.05)
        peft.save_pretrained(adapter)
        from peft import PeftModel

        tokens = torch.arange(10)[None]
        trained = PeftModel.from_pretrained(started_from("LlamaForCausalLM", base), adapter).eval()
        expected = trained(tokens).logits
    changed = fused(base, adapter, 3, as_torch=False)
    assert "model.embed_tokens.weight" in changed
    made = started_from("LlamaForCausalLM", base)
    state = made.state_dict()
    with torch.no_grad():
        for name, tensor in changed.items():
            state[name].copy_(tensor)
        torch.testing.assert_close(made(tokens).logits, expected, rtol=1e-5, atol=1e-5)


def test_frozen_copies_of_a_tied_output_layer_change_nothing(tmp_path: Path) -> None:
    """``save_embedding_layers`` writes both, trained or not."""
    from peft import get_peft_model

    base = saved(model("LlamaForCausalLM", tie_word_embeddings=True), tmp_path / "base")
    peft = get_peft_model(started_from("LlamaForCausalLM", base), lora(target_modules=["q_proj"]))
    peft.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    assert any("lm_head" in name for name in Checkpoint.open(tmp_path / "adapter", ADAPTER))
    origin = Checkpoint.open(base)
    changed = fused(base, tmp_path / "adapter", 3, as_torch=False)
    differ = [name for name, tensor in changed.items() if not torch.equal(tensor, origin.read(name))]
    assert all("q_proj" in name for name in differ)
    assert differ


def test_a_row_that_dora_cannot_scale_stays_zero() -> None:
    """‖W + ΔW‖ is 0 there; PEFT writes NaN."""
    from hub_fusion.weights.adapter_change import Dora, Product

    product = Product(np.zeros((2, 1), np.float32), np.zeros((1, 3), np.float32), (3,))
    change = Dora(product, np.ones(2, np.float32))
    assert not change.rows(0, 2, np.zeros((2, 3), np.float32)).any()


@pytest.mark.parametrize("kind", ["biases of factors", "(IA)³"])
def test_methods_that_work_by_rows_see_all_of_a_vector(tmp_path: Path, kind: str) -> None:
    """DELLA that drops nothing is the mean, on the biases too, each of which is one row."""
    name, trained_as, _, settings = CASES[kind]
    base = saved(model(name), tmp_path / "base")
    adapter = made_by_peft(base, tmp_path / "adapter", trained_as, settings())
    sources = (Source("a", adapter, base, "adapter"),)
    options = {"density": 1.0, "window": 0.0, "scale": 1.0}
    for method, given in (("mean", {}), ("della", options)):
        fuse(FusePlan(base, tmp_path / method, sources, method, given), Compute())
    expected, found = (Checkpoint.open(tmp_path / method) for method in ("mean", "della"))
    for tensor in expected:
        torch.testing.assert_close(found.read(tensor), expected.read(tensor), rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", ["della", "breadcrumbs", "dare", "ties"])
def test_blocks_of_a_convolution_change_nothing_by_rows_either(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is the tensor's last dimension, though an adapter's changes come by output channels."""
    base = saved(trained(model("ViTModel", num_channels=3)), tmp_path / "base")
    settings = lora(target_modules=["projection"])
    adapter = made_by_peft(base, tmp_path / "adapter", "ViTModel", settings)
    other = saved(trained(started_from("ViTModel", base), seed=3), tmp_path / "other")
    sources = (Source("a", adapter, base, "adapter"), Source("b", other, base))
    found = set()
    for block in (1, 60, 200, 10**6):  # of channels with 48 elements, in rows of 4
        monkeypatch.setattr(tensors, "LEAST", block)
        monkeypatch.setattr(tensors, "MOST", block)
        found.add(fuse(FusePlan(base, tmp_path / str(block), sources, method), Compute()).weights_sha256)
    assert len(found) == 1
