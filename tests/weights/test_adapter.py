"""ΔW of real PEFT adapters is what PEFT itself merges, tensor by tensor; what cannot be told exactly is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter import LoraConfig, plan_adapter
from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.deltas import Deltas, Source
from hub_fusion.weights.names import MismatchError, kind_of

from .tiny import model, rows_of_change, saved, started_from

ADAPTER = "adapter_model.safetensors"


def train_adapter(
    base: Path, folder: Path, kind: str, *, head: Callable[[Any], None] = lambda made: None, **lora: Any
) -> Path:
    """A LoRA adapter for a model of class `kind` loaded from `base`, with noise; beside it what PEFT merges."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that it mended fan_in_fan_out, and that it saves embeddings
        made = started_from(kind, base)
        head(made)
        peft = get_peft_model(made, PeftConfig(**{"r": 2, "init_lora_weights": False} | lora))
        source = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in peft.named_parameters():
                if parameter.requires_grad and "lora_" not in name:
                    parameter.add_(torch.randn(parameter.shape, generator=source), alpha=0.01)
        peft.save_pretrained(folder)
        peft.merge_and_unload().save_pretrained(folder / "merged")
    return folder


def change(source: Source, base: Path) -> dict[str, torch.Tensor]:
    """ΔW of every tensor of the base that the source has a say on."""
    checkpoint = Checkpoint.open(base)
    deltas = Deltas(source, checkpoint, base)
    taking = [name for name in checkpoint if deltas.takes_part(name)]
    return {name: rows_of_change(deltas, checkpoint, name, 0, (checkpoint[name].shape or (1,))[0]) for name in taking}


def check_like_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Our ΔW against merge_and_unload minus base, within some float steps of weights and changes."""
    ours = change(Source("adapter", adapter, base, "adapter"), base)
    theirs = change(Source("merged", adapter / "merged", base), base)
    untouched = [name for name in theirs if name not in ours]
    assert all(kind_of(name) == "shared" for name in untouched)
    assert not any(bool(theirs[name].any()) for name in untouched)
    for name, delta in ours.items():
        torch.testing.assert_close(
            delta, theirs[name], rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    return {name: delta for name, delta in ours.items() if delta.any()}


ATTENTION = ["query", "value"]
CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {  # base, trained class, changed tensors, LoRA's options
    "plain": ("BertModel", "BertModel", 4, {"target_modules": ATTENTION}),
    "alpha": ("BertModel", "BertModel", 4, {"target_modules": ATTENTION, "lora_alpha": 3}),
    "base without prefix": ("BertModel", "BertForSequenceClassification", 4, {"target_modules": ATTENTION}),
    "base with prefix": ("BertForMaskedLM", "BertModel", 4, {"target_modules": ATTENTION}),
    "both with prefix": ("BertForMaskedLM", "BertForTokenClassification", 4, {"target_modules": ATTENTION}),
    "rank pattern": (
        "BertModel", "BertForSequenceClassification", 4,
        {"target_modules": ATTENTION, "rank_pattern": {"layer.1.attention.self.query": 4}},
    ),
    "alpha pattern": (
        "BertModel", "BertForSequenceClassification", 4,
        {"target_modules": ATTENTION, "alpha_pattern": {"layer.1.attention.self.query": 32, "value": 1},
         "rank_pattern": {"query": 3}},
    ),
    "rank-stabilised": (
        "BertModel", "BertModel", 4, {"target_modules": ATTENTION, "use_rslora": True, "lora_alpha": 5},
    ),
    "classifier": (
        "BertModel", "BertForSequenceClassification", 4,
        {"target_modules": ATTENTION, "modules_to_save": ["classifier"]},
    ),
    "task type": (
        "BertModel", "BertForSequenceClassification", 4, {"target_modules": ATTENTION, "task_type": "SEQ_CLS"},
    ),
    "pooler saved": (
        "BertModel", "BertForSequenceClassification", 6,
        {"target_modules": ATTENTION, "modules_to_save": ["classifier", "pooler"]},
    ),
    "body module saved": (
        "BertModel", "BertForSequenceClassification", 8,
        {"target_modules": ATTENTION, "modules_to_save": ["intermediate"]},
    ),
    "all biases": (
        "BertModel", "BertForSequenceClassification", 22,
        {"target_modules": ATTENTION, "bias": "all", "modules_to_save": ["classifier"]},
    ),
    "all biases and a saved body module": (
        "BertModel", "BertForSequenceClassification", 25,
        {"target_modules": ATTENTION, "bias": "all", "modules_to_save": ["intermediate", "pooler", "classifier"]},
    ),
    "biases of targets": ("BertModel", "BertModel", 8, {"target_modules": ATTENTION, "bias": "lora_only"}),
    "pooler as target": (
        "BertModel", "BertForSequenceClassification", 3, {"target_modules": ["query", "pooler.dense"]},
    ),
    "pooler that the base lacks": (
        "BertForMaskedLM", "BertForSequenceClassification", 2, {"target_modules": ["query", "pooler.dense"]},
    ),
    "language-model head": ("BertForMaskedLM", "BertForMaskedLM", 3, {"target_modules": ["query", "transform.dense"]}),
    "language-model head that the base lacks": (
        "BertModel", "BertForMaskedLM", 2, {"target_modules": ["query", "transform.dense"]},
    ),
    "embeddings": ("BertModel", "BertForSequenceClassification", 1, {"target_modules": ["word_embeddings"]}),
    "GPT-2": (
        "GPT2Model", "GPT2LMHeadModel", 8, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    ),
    "GPT-2, mended by PEFT": ("GPT2LMHeadModel", "GPT2Model", 4, {"target_modules": ["c_attn", "c_fc"]}),
    "GPT-2 with a linear head": (
        "GPT2Model", "GPT2ForSequenceClassification", 4, {"target_modules": ["c_attn", "c_fc", "score"]},
    ),
    "GPT-2 embeddings": ("GPT2Model", "GPT2ForSequenceClassification", 1, {"target_modules": ["wte"]}),
    "ViT": ("ViTModel", "ViTForImageClassification", 0, {"target_modules": "all-linear"}),
    "ViT with prefix": ("ViTForImageClassification", "ViTForImageClassification", 0, {"target_modules": "all-linear"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_change_is_what_peft_merges(tmp_path: Path, case: str) -> None:
    """For every option that is honoured, and every way in which base and adapter spell their names."""
    base_kind, trained_kind, count, lora = CASES[case]
    base = saved(model(base_kind), tmp_path / "base")
    adapter = train_adapter(base, tmp_path / "adapter", trained_kind, **lora)
    changed = check_like_peft(base, adapter)
    if "ViT" in case:
        assert len(changed) >= 12
    else:
        assert len(changed) == count


def test_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    """The engine asks for blocks of rows, of factors and of saved tensors; each is computed from its part alone."""
    base = saved(model("BertModel"), tmp_path / "base")
    adapter = train_adapter(base, tmp_path / "adapter", "BertForSequenceClassification",
                            target_modules=["query", "word_embeddings"], modules_to_save=["pooler"])  # fmt: skip
    checkpoint = Checkpoint.open(base)
    deltas = Deltas(Source("a", adapter, base, "adapter"), checkpoint, base)
    for name in deltas.names:
        rows = checkpoint[name].shape[0]
        whole = rows_of_change(deltas, checkpoint, name, 0, rows)
        parts = torch.cat([rows_of_change(deltas, checkpoint, name, at, min(at + 3, rows)) for at in range(0, rows, 3)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6 * float(whole.abs().max()))


def test_a_frozen_copy_of_a_target_does_not_hide_its_factors(tmp_path: Path) -> None:
    """PEFT saves embed_tokens beside its factors (save_embedding_layers); the copy has not changed, the product has."""
    base = saved(model("BertModel"), tmp_path / "base")
    adapter = train_adapter(base, tmp_path / "adapter", "BertModel", target_modules=["word_embeddings", "query"])
    tensors = load_file(adapter / ADAPTER)
    on_disk = load_file(base / "model.safetensors")
    for module in ("embeddings.word_embeddings", "encoder.layer.0.attention.self.query"):
        tensors[f"base_model.model.{module}.base_layer.weight"] = on_disk[f"{module}.weight"]
    save_file(tensors, adapter / ADAPTER, metadata={"format": "pt"})
    assert len(check_like_peft(base, adapter)) == 3


def test_a_head_of_its_own_is_left_out(tmp_path: Path) -> None:
    """Saved modules that the base does not have, outside the adapted body, are the task's, whatever they are called."""

    def add(made: Any) -> None:
        made.my_new_head = torch.nn.Linear(8, 3)

    base = saved(model("BertModel"), tmp_path / "base")
    adapter = train_adapter(base, tmp_path / "adapter", "BertForSequenceClassification", head=add,
                            target_modules=ATTENTION, modules_to_save=["my_new_head"])  # fmt: skip
    assert any("my_new_head" in name for name in load_file(adapter / ADAPTER))
    assert len(check_like_peft(base, adapter)) == 4


def test_a_base_of_gamma_and_beta_takes_trained_biases(tmp_path: Path) -> None:
    """LayerNorm.bias in memory is LayerNorm.beta on this base's disk."""
    base = saved(model("BertModel"), tmp_path / "base")
    adapter = train_adapter(base, tmp_path / "adapter", "BertModel", target_modules=ATTENTION, bias="all")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(base / "model.safetensors")
    for new, name in old.items():
        tensors = {key.replace(new, name): value for key, value in tensors.items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    changed = check_like_peft(base, adapter)
    assert "embeddings.LayerNorm.beta" in changed


def test_headers_are_enough_where_names_on_disk_and_in_memory_agree(tmp_path: Path) -> None:
    """hub-fusion check has neither torch nor the base's configuration: prefixes are found without them."""
    for base_kind, kind in (("BertModel", "BertForMaskedLM"), ("BertForMaskedLM", "BertModel")):
        base = saved(model(base_kind), tmp_path / base_kind)
        adapter = train_adapter(base, tmp_path / f"{base_kind}-adapter", kind, target_modules=ATTENTION)
        config = LoraConfig.from_json((adapter / "adapter_config.json").read_text(), source="config")
        plan = plan_adapter(config, Checkpoint.open(adapter, ADAPTER), Checkpoint.open(base), dict)
        assert len(plan) == 4


def test_the_model_is_built_once_for_all_names(tmp_path: Path) -> None:
    """Not once for each of a thousand unknown names of a hostile adapter."""
    base = saved(model("BertModel"), tmp_path / "base")
    adapter = train_adapter(base, tmp_path / "adapter", "BertModel", target_modules=ATTENTION)
    tensors = {name.replace("encoder", "entropy"): t for name, t in load_file(adapter / ADAPTER).items()}
    save_file(tensors, adapter / ADAPTER)
    calls = []

    def memory() -> dict[str, list[str]]:
        calls.append(1)
        return {}

    config = LoraConfig.from_json((adapter / "adapter_config.json").read_text(), source="config")
    with pytest.raises(MismatchError, match=r"4 targets are not tensors of the base \(entropy"):
        plan_adapter(config, Checkpoint.open(adapter, ADAPTER), Checkpoint.open(base), memory)
    assert len(calls) == 1


def config(**changes: Any) -> str:
    """The text of a plain configuration but for the changes."""
    return json.dumps({"peft_type": "LORA", "lora_alpha": 8, "r": 2} | changes)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (config(use_qalora=True), "use_qalora"),
        (config(layer_replication=[[0, 2]]), "layer_replication"),
        (config(trainable_token_indices=[1, 1]), "distinct row numbers"),
        (config(trainable_token_indices=[-1]), "distinct row numbers"),
        (config(trainable_token_indices=[True]), "distinct row numbers"),
        (config(trainable_token_indices={"(a+)+": [1]}), "plain name"),
        (config(trainable_token_indices="all"), "distinct row numbers"),
        (config(target_parameters=["w(.*)"]), "target_parameters"),
        (config(kasa_config={"a": 1}), "kasa_config"),
        (config(velora_config={"a": 1}), "velora_config"),
        (config(monteclora_config={"a": 1}), "monteclora_config"),
        (config(init_lora_weights="pissa"), "pissa"),
        (config(init_lora_weights="pissa_niter_16"), "pissa_niter_16"),
        (config(init_lora_weights="olora"), "olora"),
        (config(init_lora_weights="corda"), "corda"),
        (config(init_lora_weights="loftq"), "loftq"),
        (config(init_lora_weights="lora_ga"), "lora_ga"),
        (config(init_lora_weights=["x"]), "init_lora_weights"),
        (config(peft_type="PREFIX_TUNING"), "soft prompt"),
        (config(peft_type="PROMPT_TUNING"), "soft prompt"),
        (config(peft_type="LOHA"), "LOHA"),
        (config(peft_type=None), "peft_type"),
        (config(lora_alpha=float("nan")), "alpha"),
        (config(lora_alpha="inf"), "alpha"),
        (config(lora_alpha=10**400), "PEFT configuration"),
        (config(lora_alpha=None), "PEFT configuration"),
        (config(alpha_pattern={"query": float("inf")}), "alpha"),
        (config(alpha_pattern={"query": 10**400}), "PEFT configuration"),
        (config(alpha_pattern={"^encoder.*query": 3}), r"^encoder.*query"),
        (config(alpha_pattern={"(a+)+$": 3}), "(a+)+$"),
        (config(alpha_pattern=["query"]), "PEFT configuration"),
        ("", "PEFT configuration"),
        ("[]", "PEFT configuration"),
        ("null", "PEFT configuration"),
        ("[" * 200_000, "PEFT configuration"),
        ('{"lora_alpha": ' + "9" * 5000 + "}", "PEFT configuration"),
    ],
)
def test_what_cannot_be_fused_is_refused_by_name(text: str, named: str) -> None:
    """Half understood it would be a wrong ΔW, which no test of the result could tell from training."""
    with pytest.raises(WeightsError) as caught:
        LoraConfig.from_json(text, source="adapter_config.json")
    assert named in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_initialisations_that_leave_the_base_alone_are_fine(init: Any) -> None:
    """ΔW is then (α/r)·B·A whatever A and B began as."""
    assert LoraConfig.from_json(config(init_lora_weights=init), source="config").alpha == 8


def hostile(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> tuple[Path, Path]:
    """A base, and an adapter with these tensors."""
    base = saved(model("BertModel"), tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / ADAPTER)
    (tmp_path / "adapter" / "adapter_config.json").write_text(config())
    return base, tmp_path / "adapter"


QUERY = "base_model.model.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("tensors", "law"),
    [
        ({}, "no target at all"),
        ({f"{QUERY}.lora_A.weight": torch.ones(2, 8)}, "only one of lora_A and lora_B"),
        ({f"{QUERY}.lora_A.weight": torch.ones(0, 8), f"{QUERY}.lora_B.weight": torch.ones(8, 0)}, "A is"),
        ({f"{QUERY}.lora_A.weight": torch.ones(2, 8), f"{QUERY}.lora_B.weight": torch.ones(8, 3)}, "A is"),
        ({f"{QUERY}.lora_A.weight": torch.ones(1025, 8), f"{QUERY}.lora_B.weight": torch.ones(8, 1025)}, "rank 1025"),
        ({f"{QUERY}.lora_A.weight": torch.ones(2, 9), f"{QUERY}.lora_B.weight": torch.ones(8, 2)}, r"gives \[8, 9\]"),
        ({f"{QUERY}.lora_A.weight": torch.ones(2), f"{QUERY}.lora_B.weight": torch.ones(2)}, "neither a linear layer"),
        ({f"{QUERY}.lora_A.weight": torch.ones(2, 8, dtype=torch.int8),
          f"{QUERY}.lora_B.weight": torch.ones(8, 2, dtype=torch.int8)}, "I8"),
        ({f"{QUERY}.lora_magnitude_vector.weight": torch.ones(8)}, "it has a magnitude"),
        ({f"{QUERY}.ia3_l": torch.ones(8, 1)}, "of a kind"),
        ({"base_model.model.nowhere.lora_A.weight": torch.ones(2, 8),
          "base_model.model.nowhere.lora_B.weight": torch.ones(8, 2)}, "1 targets are not tensors of the base"),
    ],
)  # fmt: skip
def test_broken_factors_are_weights_errors(tmp_path: Path, tensors: dict[str, torch.Tensor], law: str) -> None:
    """Never KeyError or a wrong product."""
    base, adapter = hostile(tmp_path, tensors)
    with pytest.raises(WeightsError, match=law):
        change(Source("a", adapter, base, "adapter"), base)


def test_a_missing_configuration_is_a_weights_error(tmp_path: Path) -> None:
    """Without α nothing can be told."""
    base, adapter = hostile(tmp_path, {f"{QUERY}.lora_A.weight": torch.ones(2, 8)})
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(WeightsError, match=r"cannot read .*adapter_config\.json"):
        change(Source("a", adapter, base, "adapter"), base)


def test_square_targets_are_refused_where_their_direction_is_unknown(tmp_path: Path) -> None:
    """PEFT stores one fan_in_fan_out for all, the last layer's; a square weight fits either way, and one is wrong."""
    base = saved(model("GPT2Model"), tmp_path / "base")
    adapter = train_adapter(base, tmp_path / "adapter", "GPT2ForSequenceClassification",
                            target_modules=["c_attn", "attn.c_proj", "score"])  # fmt: skip
    with pytest.raises(WeightsError, match="fan_in_fan_out"):
        change(Source("a", adapter, base, "adapter"), base)
