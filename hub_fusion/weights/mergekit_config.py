"""Reading a mergekit configuration: bounded YAML, references of models, tokenizer, dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from hub_fusion.errors import MergeError
from hub_fusion.weights.local import DTYPES
from hub_fusion.weights.mergekit_asked import Asked

MAX_EVENTS, MAX_DEPTH = 50_000, 20
Reference = tuple[str, str | None]  # a model (folder or repository[@revision]), and an adapter on it


def parse(text: str, source: str) -> dict[str, Any]:
    """The YAML as plain data; without anchors, which can make a small file endless, and not deeper than any needs."""
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or number > MAX_EVENTS or depth > MAX_DEPTH:
                raise MergeError(f"{source} has aliases, or is larger or deeper than a merge needs: write it plainly")
        config = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise MergeError(f"{source} is not one YAML document: {error}") from None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise MergeError(
            f"{source} is not a mergekit configuration: a mapping with merge_method and models is expected"
        )
    return config


def tokenizer(config: Mapping[str, Any], asked: Asked) -> None:
    """Only the base's is covered."""
    wanted = config.get("tokenizer_source")
    if isinstance(config.get("tokenizer"), dict):
        wanted = config["tokenizer"].get("source")
        for key in sorted(set(config["tokenizer"]) - {"source"}, key=str):
            asked.fault(f"tokenizer.{str(key)[:60]}: tokens are not mapped here")
    if wanted not in (None, "base", config.get("base_model")):
        asked.fault(
            f"tokenizer source {str(wanted)[:60]!r}: vocabularies are not merged here; the result has the base's"
        )
    elif wanted is not None:
        asked.note("all models must have the base's vocabulary, token for token; mergekit would map others to it")
    if config.get("chat_template") not in (None, "", "auto"):
        asked.fault("chat_template: the result has the base's; edit tokenizer_config.json")


def models(config: Mapping[str, Any], asked: Asked) -> list[tuple[Reference, dict[str, Any]]]:
    """((model, adapter), parameters) of every entry."""
    entries = config.get("models")
    found: list[tuple[Reference, dict[str, Any]]] = []
    if not isinstance(entries, list) or not entries:
        if not (config.get("slices") or config.get("modules")):
            asked.fault("models: a list of models is needed")
        return []
    for number, entry in enumerate(entries):
        where = f"models[{number}]"
        if not isinstance(entry, dict):
            asked.fault(f"{where} is not a mapping with model")
            continue
        for key in sorted(set(entry) - {"model", "parameters"}, key=str):
            asked.fault(f"{where}.{str(key)[:60]} is not covered")
        named = reference(entry.get("model"), f"{where}.model", asked)
        if named is None:
            asked.fault(f"{where} needs a model")
        elif named in [known for known, _ in found]:
            asked.fault(f"{where}: {'+'.join(filter(None, named))} is named twice")
        else:
            found.append((named, mapping(entry.get("parameters"), f"{where}.parameters", asked)))
    return found


def reference(value: Any, where: str, asked: Asked) -> Reference | None:
    """(model[@revision], adapter) of ``model@revision+adapter``, or of a mapping with model and lora."""
    if value is None:
        return None
    if isinstance(value, dict):
        if value.get("override_architecture"):
            asked.fault(f"{where}.override_architecture: architectures are not converted here")
        parts = [_path(value.get("model")), _path(value.get("lora"))]
        if parts[0] is None:
            asked.fault(f"{where} names no model")
            return None
        return parts[0], parts[1]
    model, plus, adapter = str(value).partition("+")
    if not isinstance(value, str) or not model or "+" in adapter or (plus and not adapter) or model.startswith("~"):
        asked.fault(f"{where}: {str(value)[:60]!r} is not a folder or repository, perhaps with +adapter")
        return None
    return model, adapter or None


def _path(value: Any) -> str | None:
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        revision = value.get("revision")
        return f"{value['path']}@{revision}" if revision else str(value["path"])
    return value if isinstance(value, str) and value else None


def mapping(value: Any, where: str, asked: Asked) -> dict[str, Any]:
    """A section, empty where there is none."""
    if value is not None and not isinstance(value, dict):
        asked.fault(f"{where} is not a mapping")
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def dtype_of(config: Mapping[str, Any], asked: Asked) -> str | None:
    """The dtype of the result in our words; None: the base's."""
    given = [config.get(key) for key in ("out_dtype", "dtype")]
    names = [None if name is None else str(name).removeprefix("torch.") for name in given]
    for name in names:
        if name is not None and name not in (*DTYPES, "float64"):
            asked.fault(f"dtype {name[:40]!r}: there are {', '.join((*DTYPES, 'float64'))}")
    if names[1] in ("bfloat16", "float16"):
        asked.note(f"everything is computed in float32; mergekit rounds inputs and steps to {names[1]}")
    name = names[0] or names[1]
    return "F64" if name == "float64" else name
