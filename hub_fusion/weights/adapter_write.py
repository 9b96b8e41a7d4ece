"""An adapter on disk: ``adapter_model.safetensors`` tensor by tensor, ``adapter_config.json`` as PEFT reads it.

Both are written beside their places and renamed; while they change places there is no configuration, so a folder that
was left half changed is no adapter rather than a wrong one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter_config import CONFIG, WEIGHTS


@dataclass(frozen=True)
class Shapes:
    """What the configuration must say of one module of a LoRA adapter."""

    rank: int
    alpha: float


def write_adapter(
    out: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, Any]], config: Mapping[str, Any]
) -> tuple[str, int]:
    """Write float32 `tensors` in the order of `shapes`, then the configuration; sha256 and size of the weights.

    Raises WeightsError if a value of the result is not finite; the folder is then as it was.
    """
    import numpy as np

    out.mkdir(parents=True, exist_ok=True)
    weights, text = out / f"{WEIGHTS}.partial", out / f"{CONFIG}.partial"
    digest, size = hashlib.sha256(), 0
    try:
        with weights.open("wb") as file:
            for name, data in _parts(shapes, tensors, np):
                if data is None:
                    raise WeightsError(f"fused tensor {name[:200]!r} is not finite: an adapter's values are too large")
                digest.update(data)
                size += file.write(data)
            file.flush()
            os.fsync(file.fileno())
        text.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (out / CONFIG).unlink(missing_ok=True)
        weights.replace(out / WEIGHTS)
        text.replace(out / CONFIG)
    finally:
        weights.unlink(missing_ok=True)
        text.unlink(missing_ok=True)
    return digest.hexdigest(), size


def _parts(shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, Any]], np: Any) -> Iterable[Any]:
    """The header, then the bytes of each tensor; None for one that is not finite."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield "", len(text).to_bytes(8, "little") + text
    for expected, (name, tensor) in zip(shapes, tensors, strict=True):
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(tensor, dtype="<f4")
        assert name == expected and array.shape == shapes[name]
        yield name, array.tobytes() if np.isfinite(array).all() else None


def lora_config(modules: Mapping[str, Shapes], common: Mapping[str, Any], rest: Shapes | None = None) -> dict[str, Any]:
    """PEFT's configuration of a plain LoRA with these modules, by full name: rank and alpha that most have, patterns.

    `rest`: what is changed besides has these, which patterns cannot say. PEFT takes the first pattern that ends a
    module's name, so the longest come first.
    """
    rank = rest.rank if rest else _most([m.rank for m in modules.values()])
    alpha = rest.alpha if rest else _most([m.alpha for m in modules.values()])
    longest = sorted(modules, key=lambda name: (-len(name), name))
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": _number(alpha), "lora_dropout": 0.0, "bias": "none",
        "use_rslora": False, "use_dora": False, "init_lora_weights": True, "target_modules": sorted(modules),
        "rank_pattern": {name: modules[name].rank for name in longest if modules[name].rank != rank},
        "alpha_pattern": {name: _number(modules[name].alpha) for name in longest if modules[name].alpha != alpha},
        **common,
    }  # fmt: skip


def _most(values: list[Any]) -> Any:
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], value))


def _number(value: float) -> float | int:
    """An integer where it is one: PEFT declares lora_alpha so."""
    return int(value) if value == int(value) else value
