"""Finetuning: how well the whole model learns a new task, from few examples (arXiv 2212.01378, section 4.3) or all.

The seed fixes the training examples, the head, the order of the batches and dropout for every checkpoint alike, so
that parent and candidate are paired seed by seed. AdamW, learning rate falling linearly to 0, gradients clipped to
norm 1. *fewshot* takes few examples, classes balanced, and trains to the end; *finetune* takes all of them and
stops early, unless the recipe says otherwise. On a CPU the same checkpoint and seed give the same answers bit for bit
(with as many threads); on a GPU that is not promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.evaluate.batches import by_length, shuffled
from hub_fusion.evaluate.features import BATCH
from hub_fusion.evaluate.models import Encode, load_classifier, load_encode
from hub_fusion.evaluate.probe import choose_subset
from hub_fusion.evaluate.stopping import Watch, split_dev
from hub_fusion.evaluate.task_files import Examples
from hub_fusion.evaluate.tasks import TaskData
from hub_fusion.recipe import FewShot, Finetune, Training
from hub_fusion.records import Role
from hub_fusion.weights.compute import split_on_out_of_memory

if TYPE_CHECKING:
    import torch


def run_fewshot(
    folder: Path, task: TaskData, settings: FewShot, seeds: Sequence[int], max_length: int, *,
    device: str = "cpu", progress: Callable[[str], None] | None = None, count: Callable[[int], object] = lambda _: None,
) -> dict[Role, np.ndarray[Any, Any]]:  # fmt: skip
    """Per test part a matrix (seeds, examples) uint8: 1 where the model finetuned with that seed is right.

    One finetuning per seed serves all parts; `count` hears of the examples shown in each.
    """

    def choose(seed: int) -> np.ndarray[Any, Any]:
        return choose_subset(task.train.labels, settings.examples, seed)

    words = "few-shot finetuning"
    return _run(folder, task, settings, seeds, max_length, choose, words, device, progress, count)


def run_finetune(
    folder: Path, task: TaskData, settings: Finetune, seeds: Sequence[int], max_length: int, *,
    device: str = "cpu", progress: Callable[[str], None] | None = None, count: Callable[[int], object] = lambda _: None,
) -> dict[Role, np.ndarray[Any, Any]]:  # fmt: skip
    """As `run_fewshot`, with all training examples, or a random choice of `settings.examples` by the seed."""

    def choose(seed: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng([seed, 2]).permutation(len(task.train))[: settings.examples]

    words = "full finetuning"
    return _run(folder, task, settings, seeds, max_length, choose, words, device, progress, count)


def _run(
    folder: Path, task: TaskData, settings: Training, seeds: Sequence[int], max_length: int,
    choose: Callable[[int], np.ndarray[Any, Any]], words: str, device: str,
    progress: Callable[[str], None] | None, count: Callable[[int], object],
) -> dict[Role, np.ndarray[Any, Any]]:  # fmt: skip
    encode = load_encode(folder, task, max_length=max_length)
    correct = {role: np.zeros((len(seeds), len(part)), dtype=np.uint8) for role, part in task.parts.items()}
    for row, seed in enumerate(seeds):
        if progress:
            progress(f"{words} on {task.name}, seed {row + 1} of {len(seeds)}")
        model = load_classifier(folder, task, seed=seed, device=device)
        count(finetune(model, encode, task.train.take(choose(seed)), settings, seed=seed, device=device))
        for role, part in task.parts.items():
            correct[role][row] = predict(model, encode, part.inputs, device=device) == part.labels
    return correct


def finetune(
    model: torch.nn.Module, encode: Encode, examples: Examples, settings: Training, *, seed: int, device: str = "cpu"
) -> int:
    """Train `model` in place; gives how many examples were shown. Global random states are as before afterwards."""
    watch = None
    if settings.stop and len(examples) > 1:
        rows, held = split_dev(len(examples), settings.stop, seed)
        dev, examples = examples.take(held), examples.take(rows)
        watch = Watch(
            settings.stop, len(examples),
            lambda: float((predict(model, encode, dev.inputs, device=device) == dev.labels).mean()),
        )  # fmt: skip
    order = np.random.default_rng([seed, len(examples)])
    steps, shown = settings.epochs * -(-len(examples) // settings.batch_size), 0
    batches = (r for _ in range(settings.epochs) for r in shuffled(examples.inputs, settings.batch_size, order))
    with training(model, settings, steps, seed=seed, device=device) as step:
        for rows in batches:
            step(loss_of(model, encode, examples.take(rows), device))
            shown += len(rows)
            if watch:
                if watch.enough(model, shown):
                    break
                model.train()  # it was asked, so it was evaluating
    if watch:
        watch.restore(model)
    return shown


@contextmanager
def training(
    model: torch.nn.Module, settings: Training, steps: int, *, seed: int, device: str = "cpu"
) -> Iterator[Callable[[Callable[[], torch.Tensor]], float]]:
    """A function that takes one of `steps` optimiser steps on the loss it is given, and says what the loss was.

    AdamW, learning rate falling linearly to 0, gradients clipped to norm 1; with ``precision: bf16`` under autocast.
    """
    import torch

    kind = torch.device(device).type
    devices = [torch.device(device)] if kind == "cuda" else []
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=kind in ("cpu", "cuda"))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))

    def step(loss_of: Callable[[], torch.Tensor]) -> float:
        with torch.autocast(kind, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        return float(loss.detach())

    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        model.train()
        yield step


def predict(
    model: torch.nn.Module, encode: Encode, inputs: np.ndarray[Any, Any], *, device: str = "cpu"
) -> np.ndarray[Any, Any]:
    """The label of the largest logit per input, (n,) int64; −1, which is never right, where a logit is not finite."""
    import torch

    model.eval()
    found = np.empty(len(inputs), dtype=np.int64)

    def labels(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        logits = _logits(model, encode, inputs[rows], device)
        return np.asarray(torch.where(logits.isfinite().all(1), logits.argmax(1), -1).cpu().numpy())

    with torch.inference_mode():
        for batch in by_length(inputs, BATCH):
            for rows, values in split_on_out_of_memory(labels, batch):
                found[rows] = values
    return found


def loss_of(
    model: torch.nn.Module, encode: Encode, batch: Examples, device: str
) -> Callable[[], torch.Tensor]:  # fmt: skip
    """What `training` takes a step on: the mean cross-entropy of a batch."""
    import torch

    labels = torch.from_numpy(batch.labels).to(device)
    return lambda: torch.nn.functional.cross_entropy(_logits(model, encode, batch.inputs, device).float(), labels)


def _logits(model: torch.nn.Module, encode: Encode, inputs: np.ndarray[Any, Any], device: str) -> torch.Tensor:
    logits: torch.Tensor = model(**{name: value.to(device) for name, value in encode(inputs).items()}).logits
    return logits
