"""Every spelling of a tensor's name → the base's on-disk name.

Finetunes of one base spell names differently: a task model adds a prefix to the body (``bert.embeddings…`` where the
base has ``embeddings…``), adds its own head, leaves out buffers. `match_names` finds the prefixes from the names
alone, so headers are enough and no model is built. Tensors fall into three kinds:

* body: must be there, is fused over all contributions;
* shared (language-model heads, poolers, mask tokens): fused over the contributions that have them, or left alone;
* task (classifiers and the like): never fused.

Adapters name modules as they are in memory, which differs from the disk where transformers converts on loading:
`memory_names` asks a model of the *base's* configuration on the meta device. Not covered: resized vocabularies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import FLOATS, TensorSpec

Kind = Literal["body", "shared", "task"]
TASK_HEADS = frozenset({
    "classifier", "score", "qa_outputs", "pre_classifier", "classification_head", "regression_head", "span_classifier",
    "sequence_summary", "logits_proj", "fc", "head", "value_head", "v_head", "start_logits", "end_logits",
    "answer_class", "distillation_classifier", "sop_classifier", "cls_classifier", "multiple_choice_head", "projector",
    "bbox_predictor", "class_labels_classifier",
})  # fmt: skip
SHARED_HEADS = frozenset({
    "lm_predictions", "final_logits_bias", "lm_loss", "mask_predictions",
    "lm_head", "embed_out", "generator_predictions", "generator_lm_head", "discriminator_predictions",
    "vocab_transform", "vocab_layer_norm", "vocab_projector", "pred_layer", "predictions", "mlm_head",
})  # fmt: skip
BUFFERS = frozenset({
    "position_ids", "token_type_ids", "inv_freq", "masked_bias", "attention_bias", "causal_mask", "num_batches_tracked",
    "relative_position_index", "rotary_emb",
})  # fmt: skip
LEGACY = ((".gamma", ".weight"), (".beta", ".bias"))  # LayerNorm parameters in checkpoints of the TensorFlow days


class MismatchError(WeightsError):
    """A contribution does not have the base's tensors; `code` is the refusal code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class NameMap:
    """How a contribution's tensors meet the base's."""

    names: dict[str, str]  # the base's name → the contribution's
    ignored: tuple[str, ...]  # the contribution's own heads and buffers


def kind_of(name: str) -> Kind:
    """What kind of tensor a base has under this on-disk name."""
    parts = name.split(".")
    if parts[0] == "cls" or (len(parts) > 1 and parts[1] == "cls"):
        return "task" if "seq_relationship" in parts[:3] else "shared"
    if parts[0] in SHARED_HEADS or "pooler" in parts[:3] or parts[-1] == "mask_token":
        return "shared"
    if name in ("decoder.weight", "decoder.bias") or name.startswith(("head.dense.", "head.norm.")):
        return "shared"  # ModernBERT's masked-language head; another model's `head.weight` is a classifier
    return "task" if parts[0] in TASK_HEADS else "body"


def is_buffer(name: str) -> bool:
    """Whether a tensor is a buffer that the model can make by itself."""
    return not BUFFERS.isdisjoint(name.split(".")[-2:])


def match_names(base: Mapping[str, TensorSpec], other: Mapping[str, TensorSpec]) -> NameMap:
    """Pair the base's tensors with a contribution's, by name, up to a prefix on either side.

    Raises MismatchError listing what is missing, unknown, of another shape or of a dtype that cannot be compared.
    """
    spelled = {_modern(name, other): name for name in other}
    ours = {name: _modern(name, base) for name in base}
    base_prefix, other_prefix = _prefixes(ours.values(), spelled)
    names = {}
    for name, modern in ours.items():
        core = modern.removeprefix(base_prefix)
        candidate = other_prefix + core if modern.startswith(base_prefix) else modern
        if candidate in spelled and kind_of(core) != "task":
            names[name] = spelled[candidate]
    body = {n for n in base if kind_of(n) == "body" and not is_buffer(n)}
    missing = sorted(body - names.keys())
    tops = {other_prefix or _top(other_name) for base_name, other_name in names.items() if base_name in body}
    unmatched = set(other) - set(names.values())
    unknown = sorted(n for n in unmatched if _belongs(n, other_prefix, tops))
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"{len(missing)} of the base's {len(body)} tensors are missing ({_some(missing)})")
        if unknown:
            parts.append(f"{len(unknown)} tensors are not in the base ({_some(unknown)})")
        raise MismatchError("architecture_mismatch", " and ".join(parts))
    _check_shapes(base, other, names)
    return NameMap(names, tuple(sorted(unmatched)))


def _check_shapes(base: Mapping[str, TensorSpec], other: Mapping[str, TensorSpec], names: dict[str, str]) -> None:
    shapes = [n for n, o in names.items() if base[n].shape != other[o].shape]
    if shapes:
        detail = _some(
            [f"{n}: {list(other[names[n]].shape)}, the base has {list(base[n].shape)}" for n in sorted(shapes)]
        )
        raise MismatchError("shape_mismatch", f"{len(shapes)} tensors have another shape ({detail})")
    dtypes = [n for n, o in names.items() if (base[n].dtype in FLOATS) != (other[o].dtype in FLOATS)]
    if dtypes:
        detail = _some([f"{n}: {other[names[n]].dtype}, the base has {base[n].dtype}" for n in sorted(dtypes)])
        raise MismatchError(
            "quantized", f"{len(dtypes)} tensors are stored in a dtype that cannot be compared ({detail})"
        )


def _prefixes(base: Iterable[str], spelled: Mapping[str, str]) -> tuple[str, str]:
    """The pair of prefixes (the base's, the contribution's) under which most names agree; none if that is as good."""
    body = [n for n in base if kind_of(n) == "body"]
    ours = ["", *_common_tops(body)]
    theirs = ["", *_common_tops([n for n in spelled if kind_of(n) == "body"])]

    def matches(pair: tuple[str, str]) -> int:
        ours_, theirs_ = pair
        return sum(n.startswith(ours_) and theirs_ + n[len(ours_) :] in spelled for n in body)

    return max(((a, b) for a in ours for b in theirs), key=lambda pair: (matches(pair), pair == ("", "")))


def _common_tops(names: Iterable[str]) -> list[str]:
    """``TOP.`` and ``TOP.SECOND.`` of at least a quarter of the names: candidates for a class prefix."""
    counts = Counter(p for n in names for p in {_top(n), ".".join(n.split(".")[:2])} if p != n)
    total = max(sum(1 for _ in names), 1)
    return sorted(f"{p}." for p, count in counts.items() if count * 4 >= total)


def _belongs(name: str, prefix: str, tops: set[str]) -> bool:
    """Whether an unmatched tensor of a contribution sits inside the body, where nothing may be added."""
    if is_buffer(name) or kind_of(name) != "body" or kind_of(name.removeprefix(prefix)) != "body":
        return False
    return name.startswith(prefix) if prefix else _top(name) in tops


def _modern(name: str, names: Mapping[str, TensorSpec]) -> str:
    for old, new in LEGACY:
        if name.endswith(old) and "LayerNorm" in name and name.removesuffix(old) + new not in names:
            return name.removesuffix(old) + new
    return name


def _top(name: str) -> str:
    return name.partition(".")[0]


def _some(items: list[str]) -> str:
    shown = ", ".join(item[:160] for item in items[:3])
    return shown if len(items) <= 3 else f"{shown}, …"


def memory_names(base_folder: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Name in memory → the on-disk names that make it up, for the model of the base's configuration.

    One entry for a tensor that is only renamed, several where transformers joins tensors on loading. The model is
    built on the meta device: no memory, no weights. Raises WeightsError for a configuration transformers cannot read.
    """
    import torch
    import transformers
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    try:
        config = transformers.AutoConfig.from_pretrained(base_folder, local_files_only=True)
        architecture: Any = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        with torch.device("meta"):
            built = (
                architecture(config) if hasattr(architecture, "base_model_prefix") else architecture.from_config(config)
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise WeightsError(f"{base_folder}: transformers cannot build the base's model: {error}") from error
    conversions = get_model_conversion_mapping(built)
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in conversions if isinstance(c, WeightConverter)]
    state = built.state_dict()
    found: dict[str, list[str]] = {}
    for name in names:
        memory, _ = rename_source_key(name, renamings, converters, built.base_model_prefix, state)
        found.setdefault(memory, []).append(name)
    return found
