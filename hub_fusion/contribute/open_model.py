"""A finetune or adapter as its author has it: with its own head, and its tensors' names on disk.

Only local safetensors, never code from the folder. Not covered: quantised models; adapters other than what PEFT merges.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hub_fusion.errors import WeightsError
from hub_fusion.evaluate.models import SAFE, quiet
from hub_fusion.records import weights_identity
from hub_fusion.weights.checkpoint import Checkpoint, file_sha256
from hub_fusion.weights.kinds import kind_of
from hub_fusion.weights.names import names_in
from hub_fusion.weights.remote import ADAPTER, ADAPTER_CONFIG, fetch_checkpoint

if TYPE_CHECKING:
    import torch

    from hub_fusion.hub import Hub

Output = Literal["classes", "tokens", "none"]  # what it gives a distribution over


@dataclass(frozen=True, eq=False)
class Opened:
    """`names`: a parameter's name in memory → its name on disk, of all that lie there as they are in memory."""

    model: Any  # of transformers
    names: Mapping[str, str]
    folder: Path  # with configuration and tokenizer
    weights_sha256: str | None = None  # as records.weights_identity


def open_model(folder: Path, hub: Hub) -> Opened:
    """The model in float32, in evaluation mode, an adapter merged. Raises WeightsError if it lacks its head."""
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder: give what save_pretrained wrote")
    digest = weights_identity(file_sha256(path) for path in sorted(folder.glob("*.safetensors")))
    if not (folder / ADAPTER_CONFIG).is_file():
        model = _load(folder, {})
        return Opened(model.eval(), plain_names(model, Checkpoint.open(folder)), folder, digest)
    base, config = _base_of(folder, hub)
    saved = {n.removeprefix("base_model.model."): s for n, s in Checkpoint.open(folder, ADAPTER).items()}
    head = [s.shape[0] for n, s in saved.items() if len(s.shape) == 2 and kind_of(n) == "task" and "lora_" not in n]
    classes = config.get("task_type") in ("SEQ_CLS", None) and head
    model = _load(base, {"num_labels": head[-1]} if classes else {}, classes=bool(classes))
    try:
        from peft import PeftModel

        with quiet():
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder}: PEFT cannot merge this adapter into {base}: {error}") from None
    tokenizer = folder if (folder / "config.json").is_file() else base
    return Opened(model.eval(), plain_names(model, Checkpoint.open(base)), tokenizer, digest)


def plain_names(model: torch.nn.Module, disk: Iterable[str]) -> dict[str, str]:
    """Name in memory → name on disk, of the parameters that one tensor on disk makes up."""
    return {memory: names[0] for memory, names in names_in(model, disk).items() if len(names) == 1}


def output_of(model: torch.nn.Module) -> Output:
    """Over what a model gives a distribution, by the name of its class."""
    name = type(model).__name__
    if name.endswith(("ForSequenceClassification", "ForImageClassification")):
        return "classes"
    return "tokens" if name.endswith(("ForCausalLM", "LMHeadModel")) else "none"


def _base_of(folder: Path, hub: Hub) -> tuple[Path, dict[str, Any]]:
    """The folder of what an adapter was trained on, and its configuration."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder / ADAPTER_CONFIG} does not name the model it adapts: {error!r}") from None
    if Path(base).is_dir():
        return Path(base), config
    return fetch_checkpoint(hub, base, hub.resolve(base, config.get("revision") or "main")), config


def _load(folder: Path, options: dict[str, Any], *, classes: bool = False) -> Any:
    import torch
    import transformers

    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, **SAFE)
            auto = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
            if classes:
                image = hasattr(config, "patch_size") or hasattr(config, "num_channels")
                auto = (
                    transformers.AutoModelForImageClassification
                    if image
                    else transformers.AutoModelForSequenceClassification
                )
            model, report = auto.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, local_files_only=True,
                **options,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder} cannot be opened by transformers: {error}") from None
    lost = sorted(n for n in report["missing_keys"] if "pooler" not in n)
    if lost and not classes:
        raise WeightsError(f"{folder} lacks {len(lost)} tensors of a {type(model).__name__} ({', '.join(lost[:3])}): "
                           "save the model with its own head")  # fmt: skip
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = getattr(model.config, "eos_token_id", None)
    return model
