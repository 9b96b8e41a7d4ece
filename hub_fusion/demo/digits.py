"""A small world with real images, in which the whole loop runs in a minute: scikit-learn's digits.

1,797 scans of handwritten digits, 8×8 pixels (Alpaydin & Kaynak 1998, https://doi.org/10.24432/C50P49). Seven
contributors know two or three of the digits 0 … 6 each; the images of a digit that several know are dealt out among
them, so no image has two owners. The digits 7, 8 and 9 belong to nobody: they are the task by which a generation is
judged. The root is a small vision transformer with random weights, so it has everything to learn; what the demo shows
is the mechanism, not what fusing gives to a pretrained model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HELD_OUT = (7, 8, 9)
POOL, GATE = 133, 200  # held-out images to learn from, and for the gate; the other 200 are for the report
SPLIT_SEED = 1998
ROOT_SEED = 0
TASK_NAME = "digits-789"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Contributor:
    """Somebody with `digits` of their own who publishes a finetune, or with `lora` an adapter, of every generation."""

    name: str
    digits: tuple[int, ...]
    lora: bool = False


CONTRIBUTORS = (
    Contributor("ada", (0, 1, 2)),
    Contributor("ben", (3, 4)),
    Contributor("chloe", (5, 6)),
    Contributor("dev", (0, 3, 6)),
    Contributor("eli", (1, 4, 5)),
    Contributor("fay", (2, 3, 5)),
    Contributor("gus", (0, 4, 6), lora=True),
)
EVALUATE: dict[str, Any] = {
    "probe": {"examples": 100},
    "fewshot": {"examples": 30, "epochs": 20, "batch_size": 16, "learning_rate": 5e-4},
    "seeds": 5,
    "max_test_examples": 200,
}  # 2 s on one core; the smaller learning rate halves the spread between seeds (benchmarks/LOG.md)


def load_images() -> tuple[Array, Array]:
    """Pixels (1797, 1, 8, 8) float32 between −1 and 1, and labels (1797,) int64."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images[:, None] / 8 - 1).astype(np.float32), digits.target.astype(np.int64)


def deal_rows(contributor: Contributor) -> Array:
    """The rows of `load_images` that are this contributor's: all or a share of the images of each of their digits."""
    labels = load_images()[1]
    rows = []
    for digit in contributor.digits:
        owners = [c.name for c in CONTRIBUTORS if digit in c.digits]
        images = np.random.default_rng([SPLIT_SEED, digit]).permutation(np.flatnonzero(labels == digit))
        rows.append(np.array_split(images, len(owners))[owners.index(contributor.name)])
    return np.concatenate(rows)


def load_contributor(contributor: Contributor) -> tuple[Array, Array]:
    """A contributor's pixels (n, 1, 8, 8), and labels (n,) that index `contributor.digits`."""
    pixels, labels = load_images()
    rows = deal_rows(contributor)
    return pixels[rows], np.searchsorted(contributor.digits, labels[rows])


def write_task(folder: Path) -> None:
    """The task folder of the held-out digits: train, gate and report, a fixed split. Labels 0, 1, 2 are 7, 8, 9."""
    pixels, labels = load_images()
    rows = np.random.default_rng(SPLIT_SEED).permutation(np.flatnonzero(np.isin(labels, HELD_OUT)))
    folder.mkdir(parents=True, exist_ok=True)
    for role, part in zip(("train", "gate", "report"), np.split(rows, (POOL, POOL + GATE)), strict=True):
        np.savez_compressed(folder / f"{role}.npz", pixel_values=pixels[part], label=labels[part] - HELD_OUT[0])


def write_root(folder: Path) -> None:
    """Generation 0: a vision transformer with random weights (fixed seed), no classifier, an image processor."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    from hub_fusion.evaluate.models import quiet

    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(ROOT_SEED)
        model = ViTForImageClassification(config)
        body = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier.")}
        model.save_pretrained(folder, state_dict=body)
    processor = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "do_resize": False,
        "do_rescale": True, "rescale_factor": 1 / 16, "do_normalize": True, "image_mean": [0.5], "image_std": [0.5],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
