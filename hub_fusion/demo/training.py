"""What the demo's contributors do with a generation, and a control that does something else with the same effort.

Plain loops, seeded and deterministic on a CPU. The control answers a doubt: is it the fusing, or just longer training?
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hub_fusion.demo.digits import Array, Contributor, load_contributor
from hub_fusion.evaluate.models import quiet

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 16
EPOCHS = 6
LEARNING_RATE = 1e-3
LORA_RANK = 16
LORA_LEARNING_RATE = 3e-3  # B starts at zero, so an adapter needs larger steps than the whole model
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside. Models this small gain nothing from more, and results depend less on the machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def finetune(
    base_folder: Path, contributor: Contributor, out_folder: Path, *, seed: int, lora: bool = False,
    epochs: int = EPOCHS, lr: float | None = None, base_id: str | None = None, revision: str | None = None,
) -> None:  # fmt: skip
    """Train `base_folder` on the contributor's digits and save what they would publish into `out_folder`.

    A whole checkpoint with the contributor's own head, or with `lora` a PEFT adapter (head in modules_to_save) that
    names `base_id` and `revision` as its base. `lr` defaults to 1e-3, for adapters 3e-3.
    """
    import torch
    from transformers import AutoModelForImageClassification

    key = zlib.crc32(f"{seed}/{contributor.name}".encode())
    names = {index: str(digit) for index, digit in enumerate(contributor.digits)}
    with quiet(), one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)
        model = AutoModelForImageClassification.from_pretrained(
            base_folder, id2label=names, label2id={name: index for index, name in names.items()},
            local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
        if lora:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(
                r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=LORA_TARGETS, modules_to_save=["classifier"],
                revision=revision,
            )  # fmt: skip
            model = get_peft_model(model, config)
            if base_id:
                config.base_model_name_or_path = base_id
        _train(model, *load_contributor(contributor), key=key, epochs=epochs,
               lr=lr or (LORA_LEARNING_RATE if lora else LEARNING_RATE))  # fmt: skip
        model.save_pretrained(out_folder, **({"save_embedding_layers": False} if lora else {}))
    if not lora and (base_folder / "preprocessor_config.json").exists():
        shutil.copy(base_folder / "preprocessor_config.json", out_folder)


def long_finetune(
    root_folder: Path, contributor: Contributor, out_folder: Path, *, generations: int, seed: int, epochs: int = EPOCHS
) -> None:
    """Control: the root, finetuned by one contributor alone for as many steps as in `generations` generations."""
    finetune(root_folder, contributor, out_folder, seed=seed, epochs=epochs * generations)


def _train(model: torch.nn.Module, pixels: Array, labels: Array, *, key: int, epochs: int, lr: float) -> None:
    """AdamW, learning rate falling linearly to 0."""
    import torch

    inputs, targets = torch.from_numpy(pixels), torch.from_numpy(labels)
    order = np.random.default_rng(key)
    steps = epochs * -(-len(targets) // BATCH_SIZE)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.from_numpy(order.permutation(len(targets))).split(BATCH_SIZE):
            loss = torch.nn.functional.cross_entropy(model(pixel_values=inputs[rows]).logits, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
