"""PEFT adapters on disk → the exact change of each of the base's tensors.

LoRA (Hu et al. 2021, arXiv 2106.09685, section 4.1): ΔW = (α/r)·B·A, with α/√r for rank-stabilised LoRA
(arXiv 2312.03732). rank and alpha patterns, fan_in_fan_out, embeddings, trained biases and modules_to_save are
honoured; rows of ΔW are computed when they are asked for, so no whole model ever exists. Not covered, and refused by
name: DoRA, convolutions, every PEFT type other than LoRA, tensors that the base stores in several parts.
The configuration is a stranger's: only known keys are read, patterns are literal names, never regular expressions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import FLOATS, Checkpoint, TensorSpec
from hub_fusion.weights.names import MismatchError, kind_of

if TYPE_CHECKING:
    import torch

UNSUPPORTED = ("use_dora", "use_qalora", "use_bdlora", "layer_replication", "trainable_token_indices", "target_parameters",
               "alora_invocation_tokens", "megatron_config", "arrow_config")  # fmt: skip
PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraConfig:
    """What of ``adapter_config.json`` decides ΔW."""

    alpha: float
    alpha_pattern: dict[str, float]
    rslora: bool
    fan_in_fan_out: bool
    revision: str | None

    @classmethod
    def from_json(cls, text: str, *, source: str) -> LoraConfig:
        """Parse a stranger's configuration. Raises WeightsError for anything that is not supported, by name."""
        try:
            data = json.loads(text)
            kind = str(data.get("peft_type")).upper()
            patterns = {str(k): float(v) for k, v in (data.get("alpha_pattern") or {}).items()}
            alpha = float(data.get("lora_alpha", 8))
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise WeightsError(f"{source} is not a PEFT configuration: {error}") from None
        if kind != "LORA":
            raise WeightsError(f"{source} has peft_type {kind[:40]!r}; LORA is what can be fused into weights")
        used = [key for key in UNSUPPORTED if data.get(key)]
        if used:
            raise WeightsError(f"{source} uses {', '.join(used)}, which hub_fusion cannot fuse yet: merge it and publish the model")
        wild = [p for p in patterns if not re.fullmatch(r"[\w.]{1,200}", p)]
        if wild or not math.isfinite(alpha) or not all(map(math.isfinite, patterns.values())):
            raise WeightsError(f"{source}: alpha and alpha_pattern must be plain names with finite numbers ({wild[:3]})")
        revision = data.get("revision")
        return cls(alpha, patterns, bool(data.get("use_rslora")), bool(data.get("fan_in_fan_out")),
                   revision if isinstance(revision, str) else None)  # fmt: skip

    def scaling(self, module: str, rank: int) -> float:
        """What B·A is multiplied with for this module."""
        alpha = next((a for p, a in self.alpha_pattern.items() if module == p or module.endswith(f".{p}")), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True)
class Target:
    """How one of the base's tensors changes: by factors (`a`, `b`, `scaling`), or to the tensor `saved`."""

    module: str
    a: str | None = None
    b: str | None = None
    scaling: float = 1.0
    transposed: bool = False
    saved: str | None = None


MemoryNames = Callable[[], Mapping[str, list[str]]]


def plan_adapter(
    config: LoraConfig, tensors: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec], memory: MemoryNames
) -> dict[str, Target]:
    """The base's on-disk name → its change, from headers alone. Task heads are left out.

    `memory` gives the in-memory names of the base (asked only if a target is not among the on-disk names).
    Raises MismatchError for targets the base does not have, or of the wrong shape.
    """
    targets: dict[str, Target] = {}
    unknown: list[str] = []
    for module, parts in _modules(tensors).items():
        if kind_of(module.removeprefix(module.partition(".")[0] + ".")) == "task" or kind_of(module) == "task":
            continue
        for leaf, target in _changes(module, parts, tensors, config):
            name = _on_disk(f"{module}.{leaf}" if leaf else module, base, memory)
            if name is None and kind_of(module.partition(".")[2]) == "shared":
                continue  # a pooler or language-model head that the base does not have
            if name is None:
                unknown.append(f"{module}.{leaf}")
                continue
            _check_shape(name, base[name], target, tensors)
            targets[name] = target
    if unknown or not targets:
        detail = ", ".join(sorted(unknown)[:3]) or "no target at all"
        raise MismatchError("architecture_mismatch", f"{len(unknown)} targets are not tensors of the base ({detail})")
    return targets


def _modules(tensors: Mapping[str, TensorSpec]) -> dict[str, dict[str, str]]:
    """Module → {lora_A: tensor, …}; plain tensors (modules_to_save, biases) under their leaf name."""
    modules: dict[str, dict[str, str]] = {}
    for name in sorted(tensors):
        core = name.removeprefix(PREFIX)
        found = re.search(r"\.(lora_(?:embedding_)?[AB])(?:\.weight)?$", core)
        if found:
            modules.setdefault(core[: found.start()], {})[found.group(1)] = name
        elif "lora_" in core or ".magnitude" in core:
            raise WeightsError(f"adapter tensor {name[:200]!r} is of a kind hub_fusion cannot fuse")
        else:
            module, _, leaf = core.replace(".modules_to_save.default", "").replace(".base_layer", "").rpartition(".")
            modules.setdefault(module, {})[leaf] = name
    return modules


def _changes(module: str, parts: dict[str, str], tensors: Mapping[str, TensorSpec], config: LoraConfig) -> Any:
    for kind, flip in (("lora_", config.fan_in_fan_out), ("lora_embedding_", True)):
        a, b = parts.pop(f"{kind}A", None), parts.pop(f"{kind}B", None)
        if (a is None) != (b is None):
            raise WeightsError(f"adapter module {module[:200]!r} has only one of {kind}A and {kind}B")
        if a is not None and b is not None:
            if len(tensors[a].shape) != 2 or len(tensors[b].shape) != 2:
                raise WeightsError(f"adapter module {module[:200]!r} is not a linear layer: convolutions cannot be fused yet")
            rank = tensors[a].shape[0]
            if not rank or tensors[b].shape[1] != rank:
                raise WeightsError(f"adapter module {module[:200]!r}: A is {tensors[a].shape}, B is {tensors[b].shape}")
            yield "weight", Target(module, a, b, config.scaling(module, rank), flip)
    for leaf, name in parts.items():
        yield leaf, Target(module, saved=name)


def _on_disk(name: str, base: Mapping[str, TensorSpec], memory: MemoryNames) -> str | None:
    """The base's tensor for a name in memory, also where the adapter's model had a class prefix that the base lacks."""
    short = name.partition(".")[2]
    for candidate in (name, short):
        if candidate in base:
            return candidate
    known = memory()
    longer = (f"{prefix}.{name}" for prefix in sorted({n.partition(".")[0] for n in known}))
    for candidate in (name, short, *longer):
        if candidate in known:
            if len(known[candidate]) > 1:
                raise WeightsError(f"adapter target {name!r} is stored as {known[candidate]} in the base: cannot be fused yet")
            return known[candidate][0]
    return None


def _check_shape(name: str, spec: TensorSpec, target: Target, tensors: Mapping[str, TensorSpec]) -> None:
    if target.saved:
        shape = tensors[target.saved].shape
    else:
        rows, columns = tensors[str(target.b)].shape[0], tensors[str(target.a)].shape[1]
        shape = (columns, rows) if target.transposed else (rows, columns)
    used = [n for n in (target.a, target.b, target.saved) if n]
    if shape != spec.shape or any(tensors[n].dtype not in FLOATS for n in used):
        dtypes = {tensors[n].dtype for n in used}
        raise MismatchError("shape_mismatch", f"{name}: the adapter gives {list(shape)} {dtypes}, the base has {list(spec.shape)}")


def delta_rows(adapter: Checkpoint, target: Target, start: int, stop: int, device: str = "cpu") -> torch.Tensor:
    """Rows [start, stop) of ΔW in float32, shape (stop − start, columns)."""
    import torch

    a = adapter.read(str(target.a)).to(device=device, dtype=torch.float32)
    b = adapter.read(str(target.b)).to(device=device, dtype=torch.float32)
    rows = a.T[start:stop] @ b.T if target.transposed else b[start:stop] @ a
    return rows.mul_(target.scaling)


def read_lora_config(folder: Path) -> LoraConfig:
    """The configuration of an adapter folder. Raises WeightsError."""
    path = folder / "adapter_config.json"
    try:
        return LoraConfig.from_json(path.read_text(), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from None
