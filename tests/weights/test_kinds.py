"""What names mean, held against the model classes of transformers: honest finetunes of any class meet a base."""

from __future__ import annotations

import pytest
import torch

from hub_fusion.weights.checkpoint import TensorSpec
from hub_fusion.weights.kinds import is_buffer, kind_of
from hub_fusion.weights.names import match_names

DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}
SMALL = {"num_hidden_layers": 2, "decoder_num_hidden_layers": 1}


def tensors_of(kind: str, family: str) -> dict[str, TensorSpec]:
    """The header of a model of class `kind`, built without memory."""
    import transformers

    settings = getattr(transformers, f"{family}Config")()
    for key, value in SMALL.items():
        if hasattr(settings, key):
            setattr(settings, key, value)
    with torch.device("meta"):
        state = getattr(transformers, kind)(settings).state_dict()
    return {n: TensorSpec(n, DTYPES[t.dtype], tuple(t.shape), "", 0, 0) for n, t in state.items()}


PAIRS = [  # base, finetune
    ("ViT", "ViTForMaskedImageModeling", "ViTForImageClassification"),
    ("DeiT", "DeiTForMaskedImageModeling", "DeiTForImageClassificationWithTeacher"),
    ("ViTMAE", "ViTMAEForPreTraining", "ViTMAEModel"),
    ("ViTMAE", "ViTMAEModel", "ViTMAEForPreTraining"),
    ("VideoMAE", "VideoMAEForPreTraining", "VideoMAEForVideoClassification"),
    ("Wav2Vec2", "Wav2Vec2ForPreTraining", "Wav2Vec2ForCTC"),
    ("Wav2Vec2", "Wav2Vec2ForPreTraining", "Wav2Vec2ForSequenceClassification"),
    ("Wav2Vec2", "Wav2Vec2Model", "Wav2Vec2ForXVector"),
    ("UniSpeechSat", "UniSpeechSatForPreTraining", "UniSpeechSatForCTC"),
    ("Hubert", "HubertModel", "HubertForCTC"),
    ("Electra", "ElectraForPreTraining", "ElectraForTokenClassification"),
    ("Electra", "ElectraForPreTraining", "ElectraForMaskedLM"),
    ("Splinter", "SplinterForPreTraining", "SplinterModel"),
    ("DebertaV2", "DebertaV2ForMaskedLM", "DebertaV2ForSequenceClassification"),
    ("Roberta", "RobertaForMaskedLM", "RobertaForMultipleChoice"),
    ("ModernBert", "ModernBertForMaskedLM", "ModernBertForTokenClassification"),
    ("XLNet", "XLNetLMHeadModel", "XLNetForSequenceClassification"),
    ("Dinov2", "Dinov2Model", "Dinov2ForImageClassification"),
    ("MobileViT", "MobileViTForImageClassification", "MobileViTModel"),
    ("Segformer", "SegformerForSemanticSegmentation", "SegformerForImageClassification"),
]


@pytest.mark.parametrize(("family", "base", "finetune"), PAIRS, ids=lambda value: value)
def test_a_base_of_any_pretraining_class_meets_its_finetunes(family: str, base: str, finetune: str) -> None:
    """What was made for pretraining is not in a finetune, and heads of tasks are not in the base."""
    ours, theirs = tensors_of(base, family), tensors_of(finetune, family)
    names = match_names(ours, theirs).names
    assert {n for n in ours if kind_of(n) == "body" and not is_buffer(n) and ours[n].dtype == "F32"} <= set(names)
    assert len(names) > 15
    assert all(ours[mine].shape == theirs[other].shape for mine, other in names.items())


@pytest.mark.parametrize(
    "name",
    [
        "h.0.attn.bias", "h.0.attn.masked_bias", "transformer.h.3.attn.attention.bias",
        "gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
        "transformer.h.0.attn.causal_mask", "embeddings.position_ids",
        "encoder.layers.0.blocks.1.attention.self.relative_position_index",
    ],
)  # fmt: skip
def test_masks_and_indices_are_buffers(name: str) -> None:
    """GPT-2, GPT-Neo, GPT-NeoX, CodeGen, BERT and Swin as older checkpoints have them."""
    assert is_buffer(name)


@pytest.mark.parametrize(
    "name",
    [
        "h.0.attn.c_attn.bias", "bert.encoder.layer.0.attention.self.query.bias", "encoder.layer.0.attn.proj.bias",
        "model.layers.0.self_attn.o_proj.bias", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.layers.0.blocks.1.attention.self.relative_position_bias_table",
        "model.layers.0.block_sparse_moe.gate.weight",
    ],
)  # fmt: skip
def test_biases_are_parameters(name: str) -> None:
    """What looks like a mask and is trained."""
    assert not is_buffer(name)
