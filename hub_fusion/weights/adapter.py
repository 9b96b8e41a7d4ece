"""PEFT adapters on disk → the exact change of each of the base's tensors.

LoRA (Hu et al. 2021, arXiv 2106.09685, section 4.1): ΔW = (α/r)·B·A, with α/√r for rank-stabilised LoRA
(arXiv 2312.03732). rank and alpha patterns, fan_in_fan_out, embeddings, trained biases and modules_to_save are
honoured; rows of ΔW are computed when they are asked for, so no whole model ever exists. Not covered, and refused by
name: DoRA and other variants, initialisations that change the base (PiSSA, OLoRA, LoftQ …), convolutions, every PEFT
type other than LoRA, tensors that the base stores in several parts.
The configuration is a stranger's: only known keys are read, patterns are literal names, never regular expressions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import FLOATS, Checkpoint, TensorSpec
from hub_fusion.weights.names import MismatchError, kind_of

if TYPE_CHECKING:
    import torch

UNSUPPORTED = ("use_dora", "use_qalora", "use_bdlora", "layer_replication", "trainable_token_indices",
               "target_parameters", "alora_invocation_tokens", "megatron_config", "arrow_config", "kasa_config",
               "velora_config", "monteclora_config")  # fmt: skip
INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")  # those that leave the base's weights alone
PREFIX = "base_model.model."
MAX_RANK = 1024  # or four times the smaller side, beyond which factors hold nothing that a smaller rank does not


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
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            raise WeightsError(f"{source} is not a PEFT configuration: {error}") from None
        if kind != "LORA":
            raise WeightsError(f"{source} has peft_type {kind[:40]!r}; LORA is what can be fused into weights")
        used = [key for key in UNSUPPORTED if data.get(key)]
        if used:
            raise WeightsError(
                f"{source} uses {', '.join(used)}, which hub_fusion cannot fuse yet: merge it and publish the model"
            )
        init = data.get("init_lora_weights", True)
        if init not in INITIALISATIONS:
            raise WeightsError(f"{source} has init_lora_weights {repr(init)[:40]}, which changes the base's weights: "
                               "convert it to a plain LoRA, or merge it and publish the model")  # fmt: skip
        wild = [p[:100] for p in patterns if not re.fullmatch(r"[\w.]{1,200}", p)]
        if wild or not math.isfinite(alpha) or not all(map(math.isfinite, patterns.values())):
            raise WeightsError(
                f"{source}: alpha and alpha_pattern must be plain names with finite numbers ({wild[:3]})"
            )
        revision = data.get("revision")
        return cls(alpha, patterns, bool(data.get("use_rslora")), bool(data.get("fan_in_fan_out")),
                   revision if isinstance(revision, str) else None)  # fmt: skip

    def scaling(self, module: str, rank: int) -> float:
        """What B·A is multiplied with for this module."""
        alpha = next((a for p, a in self.alpha_pattern.items() if module == p or module.endswith(f".{p}")), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True)
class Target:
    """How one of the base's tensors changes: by factors (`a`, `b`, `scaling`), to the tensor `saved`, or by both."""

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

    `memory` gives the in-memory names of the base (asked once, if a target is not among the on-disk names).
    Raises MismatchError for targets the base does not have, or of the wrong shape.
    """
    targets: dict[str, Target] = {}
    unknown: list[str] = []
    modules, memory = _modules(tensors), cache(memory)
    tops = _tops(base), cache(lambda: _tops(memory()))
    adapted = {_top(module) for module, parts in modules.items() if any(part.startswith("lora_") for part in parts)}
    for module, parts in modules.items():
        kinds = {kind_of(module), kind_of(module.partition(".")[2])}
        if "task" in kinds:
            continue
        for leaf, target in _changes(module, parts, tensors, config):
            name = _on_disk(f"{module}.{leaf}" if module else leaf, base, memory, *tops)
            if name is None and ("shared" in kinds or (target.a is None and _top(module) not in adapted)):
                continue  # a pooler or language-model head that the base does not have, or the adapter's own head
            if name is None:
                unknown.append(f"{module}.{leaf}"[:160])
                continue
            target = _turned(target, base[name], tensors)
            _check_shape(name, base[name], target, tensors)
            targets[name] = target
    if unknown or not targets:
        detail = ", ".join(sorted(unknown)[:3]) or "no target at all"
        raise MismatchError("architecture_mismatch", f"{len(unknown)} targets are not tensors of the base ({detail})")
    _check_directions(targets, base, config)
    return targets


def _modules(tensors: Mapping[str, TensorSpec]) -> dict[str, dict[str, str]]:
    """Module → {lora_A: tensor, …}; plain tensors (modules_to_save, biases) under their leaf name."""
    modules: dict[str, dict[str, str]] = {}
    for name in sorted(tensors):
        core = name.removeprefix(PREFIX)
        if ".original_module." in core:
            continue  # what modules_to_save replaces
        found = re.search(r"\.(lora_(?:embedding_)?[AB])(?:\.weight)?$", core)
        if found:
            modules.setdefault(core[: found.start()], {})[found.group(1)] = name
        elif "lora_" in core or ".magnitude" in core:
            raise WeightsError(f"adapter tensor {name[:200]!r} is of a kind hub_fusion cannot fuse")
        else:
            module, _, leaf = re.sub(r"\.modules_to_save(\.default)?|\.base_layer", "", core).rpartition(".")
            modules.setdefault(module, {})[leaf] = name
    return modules


def _changes(module: str, parts: dict[str, str], tensors: Mapping[str, TensorSpec], config: LoraConfig) -> Any:
    for kind, flip in (("lora_", config.fan_in_fan_out), ("lora_embedding_", True)):
        a, b = parts.pop(f"{kind}A", None), parts.pop(f"{kind}B", None)
        if (a is None) != (b is None):
            raise WeightsError(f"adapter module {module[:200]!r} has only one of {kind}A and {kind}B")
        if a is not None and b is not None:
            if len(tensors[a].shape) != 2 or len(tensors[b].shape) != 2:
                raise WeightsError(
                    f"adapter module {module[:200]!r} is not a linear layer: convolutions cannot be fused yet"
                )
            rank = tensors[a].shape[0]
            if not rank or tensors[b].shape[1] != rank:
                raise WeightsError(f"adapter module {module[:200]!r}: A is {tensors[a].shape}, B is {tensors[b].shape}")
            most = max(4 * min(tensors[a].shape[1], tensors[b].shape[0]), MAX_RANK)
            if rank > most:
                raise WeightsError(f"adapter module {module[:200]!r} has rank {rank}; its shape allows {most}: "
                                   "merge it and publish the model")  # fmt: skip
            yield "weight", Target(module, a, b, config.scaling(module, rank), flip, parts.pop("weight", None))
    for leaf, name in parts.items():
        yield leaf, Target(module, saved=name)


def _on_disk(
    name: str,
    base: Mapping[str, TensorSpec],
    memory: MemoryNames,
    tops: list[str],
    memory_tops: Callable[[], list[str]],
) -> str | None:
    """The base's tensor for a name in memory, also where the adapter's model had a class prefix that the base lacks."""
    short = name.partition(".")[2]
    for candidate in (name, short, *(f"{top}.{name}" for top in tops)):
        if candidate in base:
            return candidate
    known = memory()
    for candidate in (name, short, *(f"{top}.{name}" for top in memory_tops())):
        if candidate in known:
            if len(known[candidate]) > 1:
                raise WeightsError(
                    f"adapter target {name!r} is stored as {known[candidate]} in the base: cannot be fused yet"
                )
            return known[candidate][0]
    return None


def _top(name: str) -> str:
    return name.partition(".")[0]


def _tops(names: Iterable[str]) -> list[str]:
    return sorted({_top(name) for name in names})


def _turned(target: Target, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> Target:
    """The target with `transposed` as the shapes tell it, where they do: PEFT's fan_in_fan_out is the last layer's."""
    if target.a is None or target.b is None:
        return target
    straight = (tensors[target.b].shape[0], tensors[target.a].shape[1])
    fits = [turned for turned, shape in ((False, straight), (True, straight[::-1])) if shape == spec.shape]
    return replace(target, transposed=fits[0]) if len(fits) == 1 else target


def _check_directions(targets: Mapping[str, Target], base: Mapping[str, TensorSpec], config: LoraConfig) -> None:
    """Where some layers contradict fan_in_fan_out, nothing tells the direction of a square one."""
    linear = {name: t for name, t in targets.items() if t.a and "lora_embedding_" not in t.a}
    square = [name for name in linear if base[name].shape[0] == base[name].shape[1]]
    if square and any(t.transposed != config.fan_in_fan_out for t in linear.values()):
        raise WeightsError(f"the adapter's fan_in_fan_out is not that of all its layers, so that of the square "
                           f"{square[0]} is unknown: merge it and publish the model")  # fmt: skip


def _check_shape(name: str, spec: TensorSpec, target: Target, tensors: Mapping[str, TensorSpec]) -> None:
    shapes = [tensors[target.saved].shape] if target.saved else []
    if target.a and target.b:
        rows, columns = tensors[target.b].shape[0], tensors[target.a].shape[1]
        shapes.append((columns, rows) if target.transposed else (rows, columns))
    dtypes = sorted({tensors[n].dtype for n in (target.a, target.b, target.saved) if n})
    if any(shape != spec.shape for shape in shapes) or not FLOATS.issuperset(dtypes):
        given = f"{list(shapes[-1])} in {', '.join(dtypes)}"
        raise MismatchError("shape_mismatch", f"{name}: the adapter gives {given}, the base has {list(spec.shape)}")


def delta_rows(adapter: Checkpoint, target: Target, start: int, stop: int, device: str = "cpu") -> torch.Tensor:
    """Rows [start, stop) of (α/r)·B·A in float32, shape (stop − start, columns)."""
    import torch

    a, b = adapter.read(str(target.a)), adapter.read(str(target.b))
    left, right = (a.T[start:stop], b.T) if target.transposed else (b[start:stop], a)
    rows = left.to(device=device, dtype=torch.float32) @ right.to(device=device, dtype=torch.float32)
    return rows.mul_(target.scaling)


def read_lora_config(folder: Path) -> LoraConfig:
    """The configuration of an adapter folder. Raises WeightsError."""
    path = folder / "adapter_config.json"
    try:
        return LoraConfig.from_json(path.read_text(), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from None
