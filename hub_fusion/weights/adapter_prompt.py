"""Soft prompts of one frozen base → their mean, where that means anything.

Prompts that began at different random points lie in different places that do the same thing, and their mean does
nothing (ATTEMPT, Asai et al. 2022, arXiv 2205.11961, mixes them per input instead). So they must have had one
beginning: all were initialised from the same text with the same tokenizer, or every pair of them still points the same
way (cosine of at least 0.5; that of independent beginnings is 0 ± 1/√elements, of which four are asked for where that
is more). Prompt tuning and prefix tuning without
projection are covered; what a stranger's text or tokenizer was is not carried into the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter_config import WEIGHTS, AdapterConfig
from hub_fusion.weights.adapter_factors import read_array
from hub_fusion.weights.adapter_members import TASKS, common_config
from hub_fusion.weights.adapter_write import write_adapter
from hub_fusion.weights.checkpoint import FLOATS, Checkpoint

NAME = "prompt_embeddings"
SIZES = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")
FUSABLE = ("PROMPT_TUNING", "PREFIX_TUNING")
MIN_COSINE = 0.5


def fuse_prompts(
    parts: Sequence[tuple[str, Path, float]], configs: Mapping[str, Mapping[str, Any]], out: Path, base: str | None
) -> tuple[str, int, tuple[int, ...]]:
    """Write Σ cᵢ·Pᵢ as an adapter; sha256, bytes and shape of the prompt. Raises WeightsError."""
    import numpy as np

    facts = {tuple(_facts(key, configs[key]).items()) for key, _, _ in parts}
    if len(facts) > 1:
        raise WeightsError(f"prompts of one shape can be fused, these are {sorted(map(str, facts))[:3]}")
    prompts = {key: _read(key, folder) for key, folder, _ in parts}
    shapes = {prompt.shape for prompt in prompts.values()}
    if len(shapes) > 1:
        raise WeightsError(f"prompts of one shape can be fused, these have {sorted(shapes)[:3]}")
    _check_beginning(prompts, configs)
    total = np.sum([coefficient * prompts[key].astype(np.float64) for key, _, coefficient in parts], axis=0)
    common = common_config([_plain(configs[key]) for key, _, _ in parts], base)
    if common["task_type"] is None:
        raise WeightsError(f"prompts must agree on a task_type of {', '.join(TASKS)}")
    shape = shapes.pop()
    kind = dict(facts.pop())
    start = {"prompt_tuning_init": "RANDOM"} if kind["peft_type"] == "PROMPT_TUNING" else {"prefix_projection": False}
    digest, size = write_adapter(out, {NAME: shape}, [(NAME, total)], {**kind, **start, **common})
    return digest, size, shape


def _facts(key: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and sizes. Raises WeightsError for prompts that cannot be averaged whatever they began as."""
    kind = str(data.get("peft_type")).upper()
    if kind not in FUSABLE or data.get("prefix_projection"):
        raise WeightsError(
            f"{key} has peft_type {kind[:40]!r}{' with a projection' if kind in FUSABLE else ''}; only "
            f"{' and '.join(FUSABLE)} without projection can be fused, into one prompt"
        )
    sizes = {name: data.get(name) for name in SIZES}
    if any(value is not None and (type(value) is not int or not 0 < value < 10**7) for value in sizes.values()):
        raise WeightsError(f"{key}: the sizes of its prompt are not sizes: {str(sizes)[:200]}")
    return {"peft_type": kind, **sizes}


def _read(key: str, folder: Path) -> Any:
    files = Checkpoint.open(folder, WEIGHTS)
    if list(files) != [NAME] or files[NAME].dtype not in FLOATS or len(files[NAME].shape) != 2:
        raise WeightsError(f"{key} holds more or else than one matrix {NAME}: {', '.join(list(files)[:3])[:200]}")
    return read_array(files, NAME)


def _check_beginning(prompts: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise WeightsError unless all prompts had one beginning, as far as that can be known."""
    import numpy as np

    keys = ("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
    texts = {str([configs[key].get(name) for name in keys]) for key in prompts}
    if len(texts) == 1 and all(configs[key].get("prompt_tuning_init") == "TEXT" for key in prompts):
        return
    flat = np.stack([prompt.reshape(-1).astype(np.float64) for prompt in prompts.values()])
    lengths = np.sqrt((flat**2).sum(axis=1, keepdims=True))
    cosines = (flat / np.maximum(lengths, 1e-300)) @ (flat / np.maximum(lengths, 1e-300)).T
    if float(cosines.min()) < max(MIN_COSINE, 4 / math.sqrt(flat.shape[1])):
        raise WeightsError(
            f"the prompts had different beginnings (no common prompt_tuning_init_text, cosines down to "
            f"{cosines.min():.2f}): the mean of such prompts does nothing; start all from one prompt"
        )


def _plain(data: Mapping[str, Any]) -> AdapterConfig:
    base, task = data.get("base_model_name_or_path"), data.get("task_type")
    return AdapterConfig(base=base if isinstance(base, str) else None, task=task if isinstance(task, str) else None)
