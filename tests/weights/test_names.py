"""Every spelling that transformers gives a tensor's name leads to the base's on-disk name, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.names import MismatchError, NameMap, kind_of, match_names, memory_names

from .tiny import model, save_folder, saved

BODY_TENSORS = 37  # of the tiny BERT without pooler: 5 of the embeddings and 2 layers of 16


def matched(base: Any, other: Any, tmp_path: Path) -> NameMap:
    """How the tensors of two models meet, each as save_pretrained writes it (or as a dict of tensors)."""
    folders = []
    for name, made in (("base", base), ("other", other)):
        folder = tmp_path / name
        folders.append(save_folder(folder, made) if isinstance(made, dict) else saved(made, folder))
    return match_names(Checkpoint.open(folders[0]), Checkpoint.open(folders[1]))


def tensors(made: Any, **renamed: str) -> dict[str, torch.Tensor]:
    """A model's tensors, with parts of their names replaced."""
    found = {}
    for name, tensor in made.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        found[name] = tensor.clone()
    return found


CASES = {  # base, contribution: (tensors that meet, what of the contribution is left over)
    "BertModel BertModel": (39, 0),
    "BertModel BertForSequenceClassification": (39, 2),
    "BertModel BertForTokenClassification": (37, 2),  # without pooler
    "BertModel BertForMaskedLM": (37, 5),
    "BertForMaskedLM BertModel": (37, 2),  # without the head; its own pooler
    "BertForMaskedLM BertForMaskedLM": (42, 0),
    "BertForMaskedLM BertForQuestionAnswering": (37, 2),
    "BertForPreTraining BertForSequenceClassification": (39, 2),
    "BertForPreTraining BertModel": (39, 0),
    "BertForSequenceClassification BertModel": (39, 0),
    "BertForSequenceClassification BertForSequenceClassification": (39, 2),
    "BertForTokenClassification BertForMultipleChoice": (37, 4),
    "ViTModel ViTForImageClassification": (38, 2),
    "ViTForImageClassification ViTModel": (38, 2),
    "ViTModel ViTForMaskedImageModeling": (38, 3),  # its own mask token and decoder; without pooler
    "GPT2Model GPT2LMHeadModel": (28, 0),
    "GPT2LMHeadModel GPT2Model": (28, 0),
    "GPT2LMHeadModel GPT2ForSequenceClassification": (28, 1),
    "GPT2Model GPT2ForTokenClassification": (28, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_finetunes_of_every_class_meet_the_base(tmp_path: Path, case: str) -> None:
    """Prefixes come and go, heads differ, poolers and language-model heads are there or not."""
    kinds = case.split()
    names = matched(model(kinds[0]), model(kinds[1], seed=1), tmp_path)
    assert (len(names.names), len(names.ignored)) == CASES[case]
    assert len(set(names.names.values())) == len(names.names)
    ends = {(mine.split(".")[-2:] == theirs.split(".")[-2:]) for mine, theirs in names.names.items()}
    assert ends == {True}


def test_task_heads_never_meet(tmp_path: Path) -> None:
    """Two classifiers of one shape have nothing to do with each other."""
    names = matched(model("BertForSequenceClassification"), model("BertForSequenceClassification", seed=1), tmp_path)
    assert sorted(names.ignored) == ["classifier.bias", "classifier.weight"]


LEGACY = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@pytest.mark.parametrize(
    ("base", "other"), [({}, LEGACY), (LEGACY, {}), (LEGACY, LEGACY)], ids=["finetune", "base", "both"]
)
def test_gamma_and_beta_are_weight_and_bias(tmp_path: Path, base: dict[str, str], other: dict[str, str]) -> None:
    """The best known BERT on the Hub says gamma and beta; its finetunes, saved by newer versions, weight and bias."""
    theirs = tensors(model("BertForSequenceClassification"), **other)
    names = matched(tensors(model("BertModel"), **base), theirs, tmp_path).names
    assert len(names) == 39
    norm = "embeddings.LayerNorm."
    assert names[norm + base.get("LayerNorm.weight", "weight").split(".")[-1]].split(".")[-1] in ("weight", "gamma")


def test_buffers_may_come_and_go(tmp_path: Path) -> None:
    """Old versions saved position_ids; a checkpoint without them is complete."""
    plain = tensors(model("BertModel"))
    ids = {"embeddings.position_ids": torch.arange(16).reshape(1, 16)}
    assert len(matched(plain | ids, plain, tmp_path / "a").names) == 39
    assert matched(plain, plain | ids, tmp_path / "b").ignored == ("embeddings.position_ids",)
    rotary = {"encoder.layer.0.attention.rotary_emb.inv_freq": torch.ones(2)}
    assert len(matched(plain, plain | rotary, tmp_path / "c").names) == 39


def refused(base: Any, other: Any, tmp_path: Path) -> MismatchError:
    """The error of two models that do not fit."""
    with pytest.raises(MismatchError) as caught:
        matched(base, other, tmp_path)
    return caught.value


@pytest.mark.parametrize(
    ("base", "other"), [("BertModel", "GPT2Model"), ("ViTModel", "BertModel"), ("GPT2LMHeadModel", "ViTModel")]
)
def test_another_architecture_is_refused(tmp_path: Path, base: str, other: str) -> None:
    """By the tensors that are missing."""
    error = refused(model(base), model(other), tmp_path)
    assert error.code == "architecture_mismatch"
    assert "tensors are missing" in str(error)


@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification"])
def test_added_and_removed_layers_are_refused(tmp_path: Path, kind: str) -> None:
    """Zip two depths together and every layer is another one's."""
    two = model("BertModel")
    more = refused(two, model(kind, num_hidden_layers=3), tmp_path / "more")
    assert more.code == "architecture_mismatch"
    assert "16 tensors are not in the base" in str(more)
    fewer = refused(two, model(kind, num_hidden_layers=1), tmp_path / "fewer")
    assert fewer.code == "architecture_mismatch"
    assert f"16 of the base's {BODY_TENSORS} tensors are missing" in str(fewer)


def test_other_shapes_are_refused_with_both_shapes(tmp_path: Path) -> None:
    """More positions are another model (more tokens are not: test_inputs.py)."""
    error = refused(model("BertModel"), model("BertForTokenClassification", max_position_embeddings=17), tmp_path)
    assert error.code == "shape_mismatch"
    assert "embeddings.position_embeddings.weight: [17, 8], the base has [16, 8]" in str(error)


def test_quantized_finetunes_are_refused(tmp_path: Path) -> None:
    """Integers minus floats mean nothing without the scales."""
    quantized = {name: t.mul(100).to(torch.int8) for name, t in tensors(model("BertModel")).items()}
    error = refused(model("BertModel"), quantized, tmp_path)
    assert error.code == "quantized"
    assert "I8, the base has F32" in str(error)


def test_other_float_dtypes_meet(tmp_path: Path) -> None:
    """A bf16 finetune of a float32 base is fine."""
    assert len(matched(model("BertModel"), model("BertModel").bfloat16(), tmp_path).names) == 39


def test_nothing_matches_an_empty_checkpoint(tmp_path: Path) -> None:
    """Without an error it would be a finetune that changed nothing."""
    assert (
        refused(model("BertModel"), {"classifier.weight": torch.ones(2, 8)}, tmp_path).code == "architecture_mismatch"
    )


def test_a_foreign_name_in_a_message_is_short(tmp_path: Path) -> None:
    """It is a stranger's, and ends up on a card."""
    long = tensors(model("BertModel")) | {"encoder." + "x" * 5000: torch.ones(1)}
    assert len(str(refused(model("BertModel"), long, tmp_path))) < 500


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("embeddings.word_embeddings.weight", "body"),
        ("bert.encoder.layer.0.output.dense.weight", "body"),
        ("h.0.mlp.c_fc.weight", "body"),
        ("model.layers.0.mlp.gate_proj.weight", "body"),
        ("pooler.dense.weight", "shared"),
        ("bert.pooler.dense.bias", "shared"),
        ("lm_head.dense.weight", "shared"),
        ("cls.predictions.bias", "shared"),
        ("cls.seq_relationship.weight", "task"),
        ("classifier.weight", "task"),
        ("score.weight", "task"),
        ("qa_outputs.bias", "task"),
        ("vit.embeddings.cls_token", "body"),
    ],
)
def test_kinds_of_well_known_tensors(name: str, kind: str) -> None:
    """Body: all contributions; shared: those that have it; task: nobody."""
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    "kind", ["BertModel", "BertForMaskedLM", "ViTModel", "ViTForImageClassification", "GPT2LMHeadModel"]
)
def test_names_in_memory_lead_back_to_the_names_on_disk(tmp_path: Path, kind: str) -> None:
    """Every parameter of the loaded model is made of tensors on disk, and every tensor on disk goes somewhere."""
    made = model(kind)
    folder = saved(made, tmp_path)
    disk = Checkpoint.open(folder)
    memory = memory_names(folder, disk)
    assert sorted(name for names in memory.values() for name in names) == sorted(disk)
    tied = set(made.state_dict()) - set(memory)
    assert set(memory) <= set(made.state_dict())
    assert tied <= {"lm_head.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


def test_a_model_that_transformers_cannot_build_is_an_error_that_says_so(tmp_path: Path) -> None:
    """A base without config.json, or of an unknown type."""
    from hub_fusion.errors import WeightsError

    save_folder(tmp_path, {"w": torch.ones(1)})
    for config in (None, "{}", '{"model_type": "unheard-of"}', "no JSON"):
        if config:
            (tmp_path / "config.json").write_text(config)
        with pytest.raises(WeightsError, match="cannot build the base's model"):
            memory_names(tmp_path, ["w"])
