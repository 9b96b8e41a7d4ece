"""For noise.py: finetunes of every kind, by options of one plain training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hub_fusion.demo.digits import CONTRIBUTORS, load_contributor
from hub_fusion.evaluate.models import quiet

LENGTH, EXAMPLES = 48, 1600  # tokens and rows of a text task
DIGITS: dict[str, dict[str, Any]] = {
    **{
        f"adamw-{lr:g}-{steps}": {"lr": lr, "steps": steps} for lr in (1e-6, 1e-4, 1e-3, 1e-2) for steps in (1, 20, 200)
    },
    **{f"other-{who}": {"lr": 1e-3, "steps": 100, "who": who} for who in range(1, len(CONTRIBUTORS))},
    **{f"muon-{steps}": {"kind": "muon", "lr": 0.02, "steps": steps} for steps in (1, 3, 10, 30, 100, 300)},
    "sgd": {"kind": "sgd", "lr": 1e-2, "steps": 100},
    "batch-1": {"lr": 1e-4, "steps": 100, "batch": 1},
    "random-labels": {"lr": 1e-3, "steps": 100, "guess": True},
    "one-layer": {"lr": 1e-3, "steps": 60, "only": ("layer.3", "layers.3", "classifier")},
    "biases": {"lr": 1e-3, "steps": 60, "only": ("bias", "classifier")},
    "decay": {"kind": "decay", "lr": 1e-4, "steps": 100, "decay": 0.1},
    "private-1": {"lr": 1e-3, "steps": 100, "shake": 1.0},
    "private-8": {"lr": 1e-3, "steps": 100, "shake": 8.0},
}
TEXT: dict[str, dict[str, Any]] = {
    "sst2_2e-5_100": {"task": "sst2", "lr": 2e-5, "steps": 100},
    "cr_2e-5_5": {"task": "cr", "lr": 2e-5, "steps": 5},
    "trec_1e-5_1": {"task": "trec_coarse", "lr": 1e-5, "steps": 1},
    "trec_1e-6_100": {"task": "trec_coarse", "lr": 1e-6, "steps": 100},
    "trec_2e-5_300": {"task": "trec_coarse", "lr": 2e-5, "steps": 300},
    "subj_1e-4_200": {"task": "subj", "lr": 1e-4, "steps": 200},
    "lora8_trec": {"task": "trec_coarse", "lr": 1e-3, "steps": 150, "rank": 8},
    "sgd_sst2": {"task": "sst2", "kind": "sgd", "lr": 1e-2, "steps": 100},
    "decay": {"task": "sst2", "kind": "decay", "lr": 1e-4, "steps": 100, "decay": 0.1},
    "randlabel": {"task": "ag_news", "lr": 2e-5, "steps": 100, "guess": True},
    "emotion_1e-3_100": {"task": "tweeteval_emotion", "lr": 1e-3, "steps": 100},
    "dp_sst2": {"task": "sst2", "lr": 2e-5, "steps": 100, "shake": 1.0},
    "bf16native_cr_5e-5": {"task": "cr", "lr": 5e-5, "steps": 100, "dtype": torch.bfloat16},
    "lastlayer": {"task": "subj", "lr": 2e-5, "steps": 100, "only": ("layer.5", "pooler", "classifier")},
    "embeddings": {"task": "subj", "lr": 1e-4, "steps": 100, "only": ("embeddings", "classifier")},
    "bitfit": {"task": "subj", "lr": 1e-3, "steps": 60, "only": ("bias", "classifier")},
    "agnews_5e-5_200": {"task": "ag_news", "lr": 5e-5, "steps": 200},
    "banking_2e-5_200": {"task": "banking77", "lr": 2e-5, "steps": 200},
    "lora1_cola": {"task": "cola", "lr": 3e-4, "steps": 60, "rank": 1},
}
Inputs = dict[str, torch.Tensor]


def train_digits(root: Path, out: Path, *, who: int = 0, **options: Any) -> Path:
    """A finetune of the demo's transformer, if it is not there yet."""
    from transformers import AutoModelForImageClassification

    if not out.exists():
        torch.manual_seed(0)
        pixels, labels = (torch.from_numpy(a) for a in load_contributor(CONTRIBUTORS[who]))
        with quiet():
            model = AutoModelForImageClassification.from_pretrained(
                root, num_labels=len(CONTRIBUTORS[who].digits), ignore_mismatched_sizes=True
            )
            fit(model, {"pixel_values": pixels}, labels, **options).save_pretrained(out)
    return out


def train_text(base: Path, tasks: Path, out: Path, *, task: str, dtype: Any = None, **options: Any) -> Path:
    """A finetune of the encoder in `base`, if it is not there yet."""
    import pyarrow.parquet as pq
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not out.exists():
        torch.manual_seed(0)
        table = pq.read_table(tasks / task / "train.parquet").slice(0, EXAMPLES)
        tokenizer = AutoTokenizer.from_pretrained(base)
        given = tokenizer(table["text"].to_pylist(), truncation=True, padding="max_length", max_length=LENGTH,
                          return_tensors="pt")  # fmt: skip
        labels = torch.tensor(table["label"].to_pylist())
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                base, num_labels=int(labels.max()) + 1, ignore_mismatched_sizes=True, dtype=dtype
            )
            fit(model, {k: given[k] for k in ("input_ids", "attention_mask")}, labels, **options).save_pretrained(out)
    return out


def fit(
    model: Any, inputs: Inputs, labels: torch.Tensor, *, lr: float, steps: int, kind: str = "adamw", batch: int = 16,
    decay: float = 0.01, shake: float = 0.0, only: tuple[str, ...] = (), rank: int = 0,
    guess: bool = False,
) -> Any:  # fmt: skip
    """The model after so many steps. `shake`: noise on gradients clipped to 1, in units of that length.

    `kind` decay: AdamW without a gradient. `only`: what is trained, by parts of names. `rank`: as a LoRA adapter,
    merged. `guess`: on random labels.
    """
    if guess:
        labels = torch.randint(0, int(labels.max()) + 1, labels.shape)
    if rank:
        from peft import LoraConfig, get_peft_model

        targets = ["query", "value"]
        model = get_peft_model(
            model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=["classifier"])
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and (not only or any(part in name for part in only)))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [p for name, p in named.items() if kind == "muon" and p.dim() == 2 and "layer" in name]
    others = [p for p in named.values() if not any(p is matrix for matrix in matrices)]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(others, lr=1e-3 if matrices else lr, weight_decay=decay)
    if kind == "sgd":
        optimizer = torch.optim.SGD(others, lr=lr, momentum=0.9)
    second = torch.optim.Muon(matrices, lr=lr, weight_decay=decay) if matrices else None
    rows: list[torch.Tensor] = []
    text, count = "input_ids" in inputs, sum(p.numel() for p in named.values())
    model.train()
    for _ in range(steps):
        rows = rows or list(torch.randperm(len(labels)).split(batch))
        row = rows.pop()
        model.zero_grad()
        if kind == "decay":
            for parameter in named.values():
                parameter.grad = torch.zeros_like(parameter)
        else:
            with torch.autocast("cpu", torch.bfloat16, enabled=text):
                logits = model(**{key: value[row] for key, value in inputs.items()}).logits
            torch.nn.functional.cross_entropy(logits.float(), labels[row]).backward()
        if shake:
            torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
            for parameter in named.values():
                if parameter.grad is not None:
                    parameter.grad += shake / count**0.5 * torch.randn_like(parameter)
        optimizer.step()
        if second:
            second.step()
    return model.merge_and_unload() if rank else model
