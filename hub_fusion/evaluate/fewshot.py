"""Few-shot finetuning: how well the whole model learns a new task from few examples (arXiv 2212.01378, section 4.3).

The seed fixes the training examples, the head, the order of the batches and dropout for every checkpoint alike, so
that parent and candidate are paired seed by seed. AdamW, learning rate falling linearly to 0, gradients clipped to
norm 1, no early stopping. On a CPU the same checkpoint and seed give the same answers bit for bit (with as many
threads); on a GPU that is not promised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.evaluate.models import Encode, load_classifier, load_encode
from hub_fusion.evaluate.probe import BATCH, choose_subset
from hub_fusion.evaluate.tasks import Examples, TaskData
from hub_fusion.recipe import FewShot
from hub_fusion.records import Role

if TYPE_CHECKING:
    import torch


def run_fewshot(
    folder: Path, task: TaskData, settings: FewShot, seeds: int, max_length: int, *,
    device: str = "cpu", progress: Callable[[str], None] | None = None,
) -> dict[Role, np.ndarray[Any, Any]]:  # fmt: skip
    """Per test part a matrix (seeds, examples) uint8: 1 where the model finetuned with that seed is right.

    One finetuning per seed serves all parts.
    """
    encode = load_encode(folder, task, max_length=max_length)
    correct = {role: np.zeros((seeds, len(part)), dtype=np.uint8) for role, part in task.parts.items()}
    for seed in range(seeds):
        if progress:
            progress(f"few-shot finetuning on {task.name}, seed {seed + 1} of {seeds}")
        model = load_classifier(folder, task, seed=seed, device=device)
        subset = task.train.take(choose_subset(task.train.labels, settings.examples, seed))
        finetune(model, encode, subset, settings, seed=seed, device=device)
        for role, part in task.parts.items():
            correct[role][seed] = predict(model, encode, part.inputs, device=device) == part.labels
    return correct


def finetune(
    model: torch.nn.Module, encode: Encode, examples: Examples, settings: FewShot, *, seed: int, device: str = "cpu"
) -> None:
    """Train `model` in place. Global random states are as before afterwards."""
    import torch

    devices = [torch.device(device)] if device.startswith("cuda") else []
    order = np.random.default_rng([seed, len(examples)])
    steps = settings.epochs * -(-len(examples) // settings.batch_size)
    fused = device.startswith(("cpu", "cuda"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=fused)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        model.train()
        for _ in range(settings.epochs):
            rows = order.permutation(len(examples))
            for start in range(0, len(rows), settings.batch_size):
                batch = examples.take(rows[start : start + settings.batch_size])
                logits = _logits(model, encode, batch.inputs, device)
                loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels).to(device))
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()


def predict(
    model: torch.nn.Module, encode: Encode, inputs: np.ndarray[Any, Any], *, device: str = "cpu"
) -> np.ndarray[Any, Any]:
    """The label of the largest logit per input, (n,) int64; −1, which is never right, where a logit is not finite."""
    import torch

    model.eval()
    pieces = []
    with torch.inference_mode():
        for start in range(0, len(inputs), BATCH):
            logits = _logits(model, encode, inputs[start : start + BATCH], device)
            pieces.append(torch.where(logits.isfinite().all(1), logits.argmax(1), -1).cpu())
    return torch.cat(pieces).numpy()


def _logits(model: torch.nn.Module, encode: Encode, inputs: np.ndarray[Any, Any], device: str) -> torch.Tensor:
    logits: torch.Tensor = model(**{name: value.to(device) for name, value in encode(inputs).items()}).logits
    return logits
