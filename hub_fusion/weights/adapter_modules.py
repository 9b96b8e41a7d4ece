"""The tensors of an adapter's file by module, and what becomes of output layers that are tied to embeddings.

Where a model's output layer is tied to its embeddings the base stores the embeddings alone, and they are both. A
change of the embeddings then reaches the output too, as when PEFT merges it; a change of the output layer alone, or a
copy of the embeddings that left the output behind, cannot be stored and is refused, unless the adapter was trained
with ``ensure_weight_tying``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter_config import AdapterConfig, first_match
from hub_fusion.weights.checkpoint import TensorSpec

PREFIX = "base_model.model."
FACTOR = re.compile(
    r"(?:^|\.)(lora_(?:embedding_)?[AB]|lora_B\.bias|lora_magnitude_vector|ia3_l|(?:token_adapter\.)?trainable_tokens_delta)"
    r"(?:(?<!bias)\.weight)?$"
)
FACTORS_OF = {"LORA": ("lora_", "trainable"), "IA3": ("ia3_l",), "TRAINABLE_TOKENS": ("trainable",)}
OUTPUTS = ("lm_head", "embed_out", "generator_lm_head", "predictions.decoder", "lm_head.decoder")
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "tok_embeddings", "word_embedding")


@dataclass
class Module:
    """The adapter's tensors of one module: factors by kind, and plain tensors (saved modules, biases) by leaf."""

    factors: dict[str, str] = field(default_factory=dict)
    leaves: dict[str, str] = field(default_factory=dict)


def modules_of(tensors: Mapping[str, TensorSpec], kind: str) -> dict[str, Module]:
    """The adapter's tensors by module. Raises WeightsError for factors that its kind does not have."""
    modules: dict[str, Module] = {}
    for name in sorted(tensors):
        core = name.removeprefix(PREFIX)
        if ".original_module." in core:
            continue  # what modules_to_save replaces
        found = FACTOR.search(core)
        if found and found.group(1).removeprefix("token_adapter.").startswith(FACTORS_OF[kind]):
            part = found.group(1).removeprefix("token_adapter.")
            modules.setdefault(core[: found.start()], Module()).factors[part] = name
        elif found or "lora_" in core or ".magnitude" in core or "ia3_" in core:
            raise WeightsError(f"adapter tensor {name[:200]!r} is of a kind hub_fusion cannot fuse")
        else:
            module, _, leaf = re.sub(r"\.modules_to_save(\.default)?|\.base_layer", "", core).rpartition(".")
            modules.setdefault(module, Module()).leaves[leaf] = name
    return modules


def settle_ties(config: AdapterConfig, modules: Mapping[str, Module], base: Mapping[str, TensorSpec]) -> None:
    """Leave out copies of an output layer that the base does not store; raise WeightsError if it has really changed."""
    if any(ends_with(name.removesuffix(".weight"), OUTPUTS) for name in base):
        return
    embeddings = [m for m in modules.values() if any(f.startswith("lora_embedding_") for f in m.factors)]
    embedded = [name for name in modules if ends_with(name, EMBEDDINGS)]
    tied = config.tied and any(name.endswith("embed_tokens") for name in embedded)  # what PEFT ties by
    for name in [name for name in modules if ends_with(name, OUTPUTS)]:
        copied = not modules[name].factors and not first_match(dict.fromkeys(config.saved), name)
        if copied or (tied and (embeddings or not modules[name].factors)):
            modules[name].factors.clear()
            modules[name].leaves.pop("weight", None)
            continue
        if modules[name].factors or "weight" in modules[name].leaves:
            raise WeightsError(
                f"the adapter changes {name[:200]}, which the base does not store (its output layer is tied to its "
                "embeddings, or it has none): train with ensure_weight_tying=True, or leave that layer alone"
            )
    for name in embedded:
        own = "weight" in modules[name].leaves and first_match(dict.fromkeys(config.saved), name)
        if own and not tied and config.language_model is not False:
            raise WeightsError(f"it holds a trained copy of {name[:200]} that the output layer, which the base "
                               "does not store, was not tied to: train with ensure_weight_tying=True")  # fmt: skip


def ends_with(name: str, ends: Iterable[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)
