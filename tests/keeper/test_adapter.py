"""A generation that is an adapter: the keeper holds it to the form of a LoRA adapter of its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from loop.test_frozen import FROZEN, adapter
from loop.world import AUTHORS, World
from safetensors.numpy import load_file, save_file

from hub_fusion.weights.checkpoint import file_sha256

from .test_refusals import Json, Scene, record_with, staged

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Scene], Json]:
    def forge(scene: Scene) -> Json:
        path = scene.candidate / WEIGHTS
        found = load_file(path)
        change(found)
        save_file(found, path)
        return scene.honest | {"record": scene.honest["record"] | {"weights": {WEIGHTS: file_sha256(path)}}}

    return forge


def config(**changes: Any) -> Callable[[Scene], Json]:
    def forge(scene: Scene) -> Json:
        path = scene.candidate / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return scene.honest

    return forge


def wider(found: dict[str, Any]) -> None:
    a = next(name for name in sorted(found) if name.endswith("lora_A.weight"))
    b = a.replace("lora_A", "lora_B")
    found[a], found[b] = found[a].repeat(20, axis=0), found[b].repeat(20, axis=1)


FORGED: dict[str, tuple[Callable[[Scene], Json], str]] = {
    "whole weights": (record_with(weights={"model.safetensors": "0" * 64}), "no names of weights"),
    "half of a pair": (tensors(lambda t: t.pop(sorted(t)[0])), "pairs of rank 16 or less"),
    "a tensor more": (tensors(lambda t: t.update({"base_model.model.head.weight": t[sorted(t)[0]]})), "pairs of rank"),
    "a higher rank": (tensors(wider), "pairs of rank 16 or less"),
    "halves": (tensors(lambda t: t.update({n: v.astype("float16") for n, v in t.items()})), "pairs of rank"),
    "of another base": (config(base_model_name_or_path="acme/other"), "not that of a LoRA adapter of acme/base"),
    "of another kind": (config(peft_type="IA3"), "adapter"),
    "with code": (config(auto_mapping={"base_model_class": "M", "parent_library": "eve"}), "not that of a LoRA"),
}  # fmt: skip


def test_a_generation_that_is_an_adapter_is_held_to_its_form(empty: World) -> None:
    for seed, author in enumerate(AUTHORS):
        adapter(empty, author, seed + 1)
    rules = empty.recipe(**FROZEN)
    scene = staged(empty, rules)
    scene.refuses(FORGED)
    assert scene.ask(scene.honest) == {"number": 1, "value": empty.tags()["gen-1"]}
    assert WEIGHTS in empty.record(1).weights
