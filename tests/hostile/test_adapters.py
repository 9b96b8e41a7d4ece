"""Mutilated adapters are refused with a sentence or fused: nothing else comes of them."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights.test_adapter_kinds import ia3, lora, made_by_peft
from weights.tiny import model, saved

from hub_fusion import fuse_adapters
from hub_fusion.errors import HubFusionError
from hub_fusion.weights.adapter import load_change, plan_adapter, read_lora_config
from hub_fusion.weights.checkpoint import Checkpoint

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
VALUES: list[Any] = [
    None, True, 0, -1, 1e308, 10**30, "x", "IA3", "TRAINABLE_TOKENS", "PROMPT_TUNING", "(a+)+$", [], [1], [[1]], {},
    {"query": 3}, {"query": "a"}, {"a": {"b": 1}},
]  # fmt: skip
SHAPES = [
    lambda t: t[..., :0], lambda t: t.reshape(-1), lambda t: t[None], lambda t: torch.cat([t, t]), lambda t: t[:1],
    lambda t: t.transpose(0, -1), lambda t: t * float("inf"), lambda t: t.to(torch.int8), lambda t: t.bfloat16(),
]  # fmt: skip
NAMES = [
    ("lora_A", "lora_B"), ("lora_A", "ia3_l"), (".weight", ".bias"), ("lora_A.weight", "lora_magnitude_vector"),
    (".weight", ".trainable_tokens_delta"), ("base_model.model.", ""), ("query", "nowhere"), (".", ".."),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["lora", "dora", "tokens", "ia3"])
def test_mutilated_adapters_never_end_in_a_traceback(tmp_path: Path, kind: str) -> None:
    """Names, shapes, dtypes, values and configurations that a stranger could choose; seeded, so failures come back."""
    base = saved(model("BertModel"), tmp_path / "base")
    settings = {
        "lora": lambda: lora(target_modules=["query", "word_embeddings"], rank_pattern={"query": 3}),
        "dora": lambda: lora(target_modules=["query"], use_dora=True),
        "tokens": lambda: lora(target_modules=["query"], trainable_token_indices=[1, 5]),
        "ia3": lambda: ia3(target_modules=["query"], feedforward_modules=[]),
    }[kind]
    whole, broken = made_by_peft(base, tmp_path / "whole", "BertModel", settings()), tmp_path / "broken"
    broken.mkdir()
    dice = random.Random(kind)
    for _ in range(60):
        tensors = load_file(whole / WEIGHTS)
        config = json.loads((whole / CONFIG).read_text())
        for _ in range(dice.randint(1, 2)):
            name, what = dice.choice(sorted(tensors)), dice.randrange(4)
            if what == 0:
                tensors[name] = dice.choice(SHAPES)(tensors[name])
            elif what == 1 and len(tensors) > 1:
                del tensors[name]
            elif what == 2:
                tensors[name.replace(*dice.choice(NAMES))] = tensors[name]
            else:
                config[dice.choice(sorted(config))] = dice.choice(VALUES)
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, broken / WEIGHTS)
        (broken / CONFIG).write_text(json.dumps(config))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=RuntimeWarning)  # products of infinities
            check_fused_or_refused(base, broken, whole, tmp_path / "out")


def check_fused_or_refused(base: Path, broken: Path, whole: Path, out: Path) -> None:
    try:
        files, origin = Checkpoint.open(broken, WEIGHTS), Checkpoint.open(base)
        for name, target in plan_adapter(read_lora_config(broken), files, origin, dict).items():
            if target.a:
                weight = origin.read(name).float()
                change = load_change(files, target, lambda n: files.read(n).float())
                assert change.rows(0, len(weight), weight).shape == weight.shape
    except HubFusionError as error:
        assert len(str(error)) < 1500
    for method in (None, "svd"):
        try:
            fuse_adapters([broken, whole], out, method=method)  # type: ignore[arg-type]
        except HubFusionError as error:
            assert len(str(error)) < 1500
