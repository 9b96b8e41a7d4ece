"""``adapter_config.json``: what of it decides how an adapter changes the base's weights.

The configuration is a stranger's: only known keys are read, patterns are literal names, never regular expressions,
and whatever would make the change another one than those below is refused by name. What can enter weights: LoRA (with
DoRA), (IA)³, trainable tokens. Soft prompts (prompt tuning, prefix tuning, p-tuning) are inputs and change no weight:
they can only be fused into one adapter, see adapter_fuse.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import WeightsError

if TYPE_CHECKING:
    from hub_fusion.weights.places import HubFile, Place

KINDS = ("LORA", "IA3", "TRAINABLE_TOKENS")
PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "ADAPTION_PROMPT")
UNSUPPORTED = ("use_qalora", "use_bdlora", "layer_replication", "alora_invocation_tokens",
               "megatron_config", "arrow_config", "kasa_config", "velora_config", "monteclora_config")  # fmt: skip
INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")  # those that leave the base's weights alone
LANGUAGE_MODELS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
NAME = re.compile(r"[\w.]{1,200}", re.ASCII)
MAX_TOKENS = 1_000_000
MAX_BYTES = 1_000_000  # of a configuration
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FIX = "merge it and publish the model"


@dataclass(frozen=True)
class AdapterConfig:
    """What of ``adapter_config.json`` decides the change; `alpha` and `scaling` are LoRA's."""

    alpha: float = 8.0
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    rslora: bool = False
    fan_in_fan_out: bool = False
    revision: str | None = None
    kind: str = "LORA"
    dora: bool = False
    feedforward: tuple[str, ...] | None = ()  # (IA)³: modules whose inputs are scaled; None: a regular expression
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # embedding → rows; "" stands for any
    saved: tuple[str, ...] = ()  # modules_to_save
    tied: bool = False  # ensure_weight_tying
    language_model: bool | None = None  # trained with an output layer over the vocabulary; None: nobody says
    task: str | None = None
    base: str | None = None
    bias: str = "none"
    parameters: tuple[str, ...] = ()  # target_parameters
    rank: int | None = None  # r; of a module the factors say it, of a stack of experts nothing else does
    rank_pattern: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> AdapterConfig:
        """Parse a stranger's configuration. Raises WeightsError for anything that is not supported, by name."""
        data = parse_config(text, source=source)
        try:
            kind = str(data.get("peft_type")).upper()
            patterns = {str(k): float(v) for k, v in (data.get("alpha_pattern") or {}).items()}
            alpha = float(data.get("lora_alpha", 8))
        except (ValueError, AttributeError, TypeError, OverflowError) as error:
            raise WeightsError(f"{source} is not a PEFT configuration: {error}") from None
        _check(data, kind, source)
        wild = [p[:100] for p in patterns if not NAME.fullmatch(p)]
        if wild or not math.isfinite(alpha) or not all(map(math.isfinite, patterns.values())):
            raise WeightsError(
                f"{source}: alpha and alpha_pattern must be plain names with finite numbers ({wild[:3]})"
            )
        indices = data.get("token_indices") if kind == "TRAINABLE_TOKENS" else data.get("trainable_token_indices")
        feedforward = data.get("feedforward_modules")
        task = _text(data.get("task_type"))
        return cls(
            alpha, patterns, bool(data.get("use_rslora")), bool(data.get("fan_in_fan_out")),
            _text(data.get("revision")), kind, bool(data.get("use_dora")),
            None if isinstance(feedforward, str) else _texts(feedforward), _tokens(indices, source),
            _texts(data.get("modules_to_save")), bool(data.get("ensure_weight_tying")), _is_language_model(data, task),
            task, _text(data.get("base_model_name_or_path")), _text(data.get("bias")) or "none",
            _parameters(data.get("target_parameters"), source), _rank(data.get("r")), _ranks(data.get("rank_pattern")),
        )  # fmt: skip

    def parameters_of(self, module: str) -> list[str]:
        """The parameters that factors under this name may be those of, by their full names; none if it is a module."""
        plain = module.replace(".base_layer", "")
        keys = {f"{plain}.{p.rpartition('.')[2]}" for p in self.parameters}
        return sorted(k for k in keys if any(k == p or k.endswith(f".{p}") for p in self.parameters))

    def rank_of(self, parameter: str) -> int | None:
        """The rank of one expert's factors, if the configuration says it."""
        return self.rank_pattern.get(first_match(self.rank_pattern, parameter) or "", self.rank)

    def scaling(self, module: str, rank: int) -> float:
        """What B·A is multiplied with for this module."""
        alpha = self.alpha_pattern.get(first_match(self.alpha_pattern, module) or "", self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


LoraConfig = AdapterConfig


def parse_config(text: str, *, source: str) -> dict[str, Any]:
    """The mapping in an ``adapter_config.json``. Raises WeightsError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{source} is not a PEFT configuration: {error}") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{source} is not a PEFT configuration: it is no mapping")
    return data


def read_config(folder: Path) -> dict[str, Any]:
    """The mapping in an adapter folder's configuration, as it stands there. Raises WeightsError."""
    return parse_config(_read_text(folder / CONFIG), source=str(folder / CONFIG))


def read_lora_config(folder: Place) -> AdapterConfig:
    """The configuration of an adapter folder. Raises WeightsError."""
    return AdapterConfig.from_json(_read_text(folder / CONFIG), source=str(folder / CONFIG))


def _read_text(path: Path | HubFile) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise WeightsError(f"{path} has more than {MAX_BYTES} bytes: it is no configuration of PEFT's")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from None


def first_match(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first of the patterns, in their order, that is the module's name or its end after a dot; as PEFT does."""
    parts = module.split(".")
    ends = {".".join(parts[at:]) for at in range(len(parts))}
    if len(patterns) < 64:
        return next((pattern for pattern in patterns if pattern in ends), None)
    fits = ends & patterns.keys()
    return next((pattern for pattern in patterns if pattern in fits), None) if fits else None


def _check(data: Mapping[str, Any], kind: str, source: str) -> None:
    if kind in PROMPTS:
        raise WeightsError(
            f"{source} has peft_type {kind!r}: a soft prompt is an input of the model and changes none of its weights, "
            "so it cannot be fused into them; publish a finetune or a LoRA adapter"
        )
    if kind not in KINDS:
        raise WeightsError(
            f"{source} has peft_type {kind[:40]!r}; {', '.join(KINDS)} are what can be fused into weights"
        )
    used = [key for key in UNSUPPORTED if data.get(key)]
    if used:
        raise WeightsError(f"{source} uses {', '.join(used)}, which hub_fusion cannot fuse yet: {FIX}")
    init = data.get("init_lora_weights", True)
    if kind == "LORA" and init not in INITIALISATIONS:
        raise WeightsError(f"{source} has init_lora_weights {repr(init)[:40]}, which changes the base's weights: "
                           f"convert it to a plain LoRA, or {FIX}")  # fmt: skip


def _tokens(value: Any, source: str) -> dict[str, tuple[int, ...]]:
    """``[1, 5]`` or ``{"embed_tokens": [1, 5]}`` → rows by embedding, all of them distinct and not negative."""
    found = value if isinstance(value, dict) else {"": value} if value is not None else {}
    total = 0
    for name, rows in found.items():
        good = isinstance(rows, list) and all(type(row) is int and 0 <= row < 2**31 for row in rows)
        if not good or len(set(rows)) != len(rows) or not (name == "" or NAME.fullmatch(name)):
            raise WeightsError(
                f"{source}: trainable tokens must be distinct row numbers under a plain name, not {repr(value)[:80]}"
            )
        total += len(rows)
    if total > MAX_TOKENS:
        raise WeightsError(f"{source} lists {total} trainable tokens; allowed are {MAX_TOKENS}")
    return {name: tuple(rows) for name, rows in found.items()}


def _parameters(value: Any, source: str) -> tuple[str, ...]:
    if value and not (isinstance(value, list) and all(isinstance(v, str) and NAME.fullmatch(v) for v in value)):
        raise WeightsError(f"{source}: target_parameters are plain names, not {repr(value)[:80]}")
    return tuple(value or ())


def _rank(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 2**20 else None


def _ranks(value: Any) -> dict[str, int]:
    """Those of plain names; of others nobody knows which module they mean."""
    found = value if isinstance(value, dict) else {}
    return {str(k): rank for k, v in found.items() if (rank := _rank(v)) and NAME.fullmatch(str(k))}


def _is_language_model(data: Mapping[str, Any], task: str | None) -> bool | None:
    mapping = data.get("auto_mapping")
    trained = _text(mapping.get("base_model_class")) if isinstance(mapping, dict) else None
    if task is None and trained is None:
        return None
    heads = ("LM", "ForConditionalGeneration", "ForPreTraining")
    return task in LANGUAGE_MODELS or any(head in (trained or "") for head in heads)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()
