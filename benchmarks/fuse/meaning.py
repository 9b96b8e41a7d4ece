"""Do mergekit configurations mean here what they mean there? Both carry out the same files, and results are compared.

    python benchmarks/fuse/meaning.py            # a minute; installs mergekit 0.1.5 into .venv-mergekit the first time

A two-layer Llama with random weights in float32, three models that are it plus N(0, 0.02²), one configuration a row.
"Distance" is that of the two results over the length of mergekit's change; "elements" counts those further than 1e-6
apart. Random methods run with density 1, where nothing is drawn. Not covered: bf16, in which mergekit also rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import markdown
from peer import add_options, mergekit_program, run_mergekit
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from hub_fusion.weights.compute import Compute
from hub_fusion.weights.fuse import fuse
from hub_fusion.weights.mergekit import plan_mergekit

WEIGHTS = {"ann": 0.7, "bob": 0.2, "cem": 1.5}
CASES: list[tuple[str, dict[str, Any], dict[str, float]]] = [
    ("linear", {}, WEIGHTS | {"base": 0.6}),
    ("task_arithmetic", {"lambda": 0.7}, WEIGHTS),
    ("task_arithmetic", {}, {"ann": 1.0, "bob": -0.5}),
    ("ties", {"density": 0.5}, WEIGHTS),
    ("ties", {"density": 0.3, "normalize": False, "lambda": 0.5}, WEIGHTS),
    ("dare_linear", {"density": 1.0}, WEIGHTS),
    ("dare_ties", {"density": 1.0}, WEIGHTS),
    ("della", {"density": 1.0}, WEIGHTS),
    ("della_linear", {"density": 1.0}, WEIGHTS),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.25}, WEIGHTS),
    ("breadcrumbs_ties", {"density": 0.4, "gamma": 0.1}, WEIGHTS),
    ("model_stock", {}, WEIGHTS),
    ("sce", {}, WEIGHTS),
    ("sce", {"select_topk": 0.25}, WEIGHTS),
    ("multislerp", {}, WEIGHTS),
    ("multislerp", {}, {"ann": 1.0, "bob": 1.0}),
]


def main() -> None:
    """Print the table as Markdown."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(options)
    program = mergekit_program(options.parse_args().mergekit_venv)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_models(place)
        print(markdown([compare(program, place, *case) for case in CASES]))


def make_models(place: Path) -> None:
    """A base and what was trained from it."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model.save_pretrained(place / "base")
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in WEIGHTS:
        changed = {n: t + 0.02 * torch.randn_like(t) for n, t in base.items()}
        model.load_state_dict(changed)
        model.save_pretrained(place / name)


def compare(program: Path, place: Path, method: str, parameters: dict[str, Any], weights: dict[str, float]) -> Any:
    """One row."""
    models = [{"model": str(place / name), "parameters": {"weight": w}} for name, w in weights.items()]
    config = {"merge_method": method, "base_model": str(place / "base"), "models": models, "parameters": parameters}
    (place / "merge.yml").write_text(json.dumps(config | {"dtype": "float32"}))
    run_mergekit(program, place / "merge.yml", place / "theirs")
    plan, _ = plan_mergekit(place / "merge.yml", place / "ours")
    fuse(plan, Compute())
    theirs, ours, base = (load(place / folder) for folder in ("theirs", "ours", "base"))
    apart = sum(float((theirs[n].double() - ours[n].double()).square().sum()) for n in theirs) ** 0.5
    moved = sum(float((theirs[n].double() - base[n].double()).square().sum()) for n in theirs) ** 0.5
    other = sum(int(((theirs[n] - ours[n]).abs() > 1e-6).sum()) for n in theirs)
    given = ", ".join(f"{key}: {value}" for key, value in parameters.items())
    return {"configuration": f"{method}({given})", "weights": " ".join(f"{w:g}" for w in weights.values()),
            "ours": plan.method, "distance": f"{apart / moved:.1e}",
            "elements": f"{other} of {sum(t.numel() for t in theirs.values())}"}  # fmt: skip


def load(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


if __name__ == "__main__":
    main()
