"""Small but real checkpoints and adapters for the tests of weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from hub_fusion.weights.checkpoint import INDEX, SINGLE, Checkpoint
from hub_fusion.weights.deltas import Deltas
from hub_fusion.weights.reading import Reader

BERT = {
    "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 16, "type_vocab_size": 2,
}  # fmt: skip
VIT = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8,
    "patch_size": 4, "num_channels": 1,
}  # fmt: skip
LLAMA = {
    "vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
GPT2 = {"vocab_size": 40, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}


def file_bytes(header: bytes | Mapping[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file from its parts, however wrong they are; `length` is what it claims of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def save_folder(
    folder: Path, tensors: Mapping[str, torch.Tensor], *, shards: int = 1, config: Mapping[str, Any] | None = None
) -> Path:
    """A checkpoint of these tensors in their order, whole or dealt out to shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(tensors), folder / SINGLE, metadata={"format": "pt"})
        return folder
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return folder


def rows_of_change(deltas: Deltas, base: Checkpoint, name: str, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of what a contribution changed in one of the base's tensors, as the engine reads them."""
    shape = base[name].shape
    columns = math.prod(shape[1:])
    out = np.empty((stop - start) * columns, np.float32)
    assert Reader().delta(deltas, base[name], start, stop, columns, out, {})
    return torch.from_numpy(out).reshape(stop - start, *shape[1:])


def model(kind: str, seed: int = 0, **config: Any) -> Any:
    """A randomly initialised model of transformers, for example ``model("BertForMaskedLM")``."""
    import transformers

    sizes = {"Bert": BERT, "ViT": VIT, "GPT2": GPT2, "Llama": LLAMA}
    family = next(name for name in sizes if kind.startswith(name))
    settings = getattr(transformers, f"{family}Config")(**sizes[family] | config)
    torch.manual_seed(seed)
    return getattr(transformers, kind)(settings).eval()


def trained(made: Any, size: float = 0.01, seed: int = 1) -> Any:
    """The model with noise on every parameter, as training leaves it."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=source).to(parameter.dtype), alpha=size)
    return made


def saved(made: Any, folder: Path) -> Path:
    """`made` as save_pretrained writes it."""
    made.save_pretrained(folder)
    return folder


def started_from(kind: str, base: Path, **config: Any) -> Any:
    """A model of class `kind` loaded from a checkpoint, as a finetuner does."""
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, kind).from_pretrained(base, **config).eval()
