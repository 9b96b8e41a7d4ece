"""What kind of tensor a name says it is, from what the model classes of transformers call theirs.

* body: must be there, is fused over all contributions;
* shared (heads of pretraining and language modelling, poolers, mask tokens): fused over the contributions that have
  them, or left alone;
* task (classifiers and the like): never fused;
* buffers, of integers, booleans or floats: what the model makes by itself; the base's are kept.

Not covered: heads of models that transformers does not have; they count as body, and a contribution must have them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

from hub_fusion.weights.checkpoint import TensorSpec

Kind = Literal["body", "shared", "task"]
TASK_HEADS = frozenset({
    "classifier", "score", "qa_outputs", "pre_classifier", "classification_head", "regression_head", "span_classifier",
    "sequence_summary", "logits_proj", "fc", "head", "value_head", "v_head", "start_logits", "end_logits",
    "answer_class", "distillation_classifier", "sop_classifier", "cls_classifier", "multiple_choice_head", "projector",
    "bbox_predictor", "class_labels_classifier", "cls_dist", "cls_student", "cls_teacher", "tdnn", "objective",
    "decode_head", "auxiliary_head", "segmentation_head", "box_head", "class_head", "rank_classifier", "answer_head",
})  # fmt: skip
SHARED_HEADS = frozenset({
    "lm_predictions", "final_logits_bias", "lm_loss", "mask_predictions", "proj_out", "entity_predictions",
    "lm_head", "embed_out", "generator_predictions", "generator_lm_head", "discriminator_predictions",
    "vocab_transform", "vocab_layer_norm", "vocab_projector", "pred_layer", "predictions", "mlm_head",
    # pretraining: Wav2Vec2 and its kin, Perceiver, Splinter, Flava
    "project_hid", "project_q", "quantizer", "ctc_proj", "label_embeddings_concat", "layer_norm_for_extract",
    "speaker_proj", "embedding_decoder", "splinter_qass", "itm_head", "mim_head", "mmm_image_head", "mmm_text_head",
    "logit_scale", "logit_bias", "text_projection", "visual_projection",  # CLIP and its kin
})  # fmt: skip
SHARED = re.compile(  # of pretraining too, under names that others give to something else
    r"decoder\.(weight|bias|\d+\.(weight|bias))"  # ModernBERT · ViT, DeiT, Swin, FocalNet: masked images
    r"|decoder\.(decoder_\w+|mask_token|norm|head)(\..*)?|encoder_to_decoder\..*"  # ViT-MAE, VideoMAE
    r"|head\.(dense|norm)\..*"  # ModernBERT; another model's head.weight is a classifier
    r"|(.*\.)?(mask_token|masked_spec_embed)"
)
TASK = re.compile(r"feature_extractor\.(weight|bias)")  # x-vectors; the body's extractor lies deeper
BUFFERS = frozenset({
    "position_ids", "token_type_ids", "inv_freq", "original_inv_freq", "masked_bias", "attention_bias", "causal_mask",
    "num_batches_tracked", "relative_position_index", "relative_coords_table", "rotary_emb", "attention_bias_idxs",
    "full_attention_inv_freq", "sliding_attention_inv_freq", "attn_mask", "embed_scale", "visual_bbox",
})  # fmt: skip
MASK = re.compile(r"(attn|attention)\.bias")  # GPT-2, GPT-Neo, GPT-NeoX, GPT-J: a triangle of ones; nobody's parameter
SCALES = frozenset({  # what quantised layouts put beside a tensor
    "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_scales", "input_scale", "output_scale",
    "input_scale_ub", "activation_scale", "k_scale", "v_scale", "scale_weight", "scaled_fp8",  # fp8, nvfp4
    "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx",
    "input_global_scale", "weight_global_scale",  # GPTQ, AWQ, compressed-tensors
    "absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "weight_format",  # bitsandbytes
    "W_q", "codebooks", "codes", "centroids", "_data", "_scale", "_shift",  # HQQ, AQLM, VPTQ, quanto
})  # fmt: skip
MARKED = re.compile(r".*\.quant_state\.bitsandbytes__\w+|.*_(blocks|scales)")  # bitsandbytes · MXFP4
INTEGERS = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"})


@lru_cache(maxsize=2**17)
def kind_of(name: str) -> Kind:
    """What kind of tensor a base has under this on-disk name."""
    parts = name.split(".")
    if parts[0] == "cls" or (len(parts) > 1 and parts[1] == "cls"):
        return "task" if "seq_relationship" in parts[:3] else "shared"
    if parts[0] in SHARED_HEADS or "pooler" in parts[:3] or SHARED.fullmatch(name):
        return "shared"
    return "task" if parts[0] in TASK_HEADS or TASK.fullmatch(name) else "body"


def is_parameter(spec: TensorSpec) -> bool:
    """Whether a tensor can have been trained: no buffer by its name, neither of indices nor of booleans."""
    return spec.dtype not in ("I64", "BOOL") and not is_buffer(spec.name)


@lru_cache(maxsize=2**17)
def is_buffer(name: str) -> bool:
    """Whether a tensor is a buffer that the model can make by itself."""
    last = name.rsplit(".", 2)[-2:]
    return not BUFFERS.isdisjoint(last) or bool(MASK.fullmatch(".".join(last)))


def quantized_names(tensors: Mapping[str, TensorSpec], besides: Iterable[str] = ()) -> list[str]:
    """Tensors that only quantised layouts have, if others are stored in 8 bits or integers too; not those `besides`.

    An 8-bit float alone is its value; beside a scale it is not.
    """
    known = set(besides)
    found = [n for n in tensors if n not in known and (n.rpartition(".")[2] in SCALES or MARKED.fullmatch(n))]
    if found and any(len(s.shape) > 1 and s.dtype in INTEGERS and not is_buffer(n) for n, s in tensors.items()):
        return sorted(found)
    return []
