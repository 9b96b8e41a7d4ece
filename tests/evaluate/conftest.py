"""Tiny real models and tasks: a vision transformer of 8×8 images, a BERT with its own word list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub_fusion.evaluate.models import quiet
from hub_fusion.recipe import Evaluate

WORDS = [f"good{n}" for n in range(8)] + [f"bad{n}" for n in range(8)] + [f"word{n}" for n in range(8)]


def write_images(folder: Path, *, labels: int = 3, sizes: tuple[int, int, int] = (40, 30, 20), seed: int = 0) -> Path:
    """A task whose classes differ in the brightness of one quadrant."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for role, size in zip(("train", "gate", "report"), sizes, strict=True):
        label = np.arange(size, dtype=np.int64) % labels
        pixels = random.normal(size=(size, 1, 8, 8)).astype(np.float32)
        for row, value in enumerate(label):
            pixels[row, 0, 4 * (value // 2) :, 4 * (value % 2) :] += 1.5
        np.savez(folder / f"{role}.npz", pixel_values=pixels, label=label)
    return folder


def write_texts(folder: Path, *, pairs: bool = False, sizes: tuple[int, int, int] = (40, 20, 20)) -> Path:
    """A task of two classes that differ in their words; sentences have different lengths."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for role, size in zip(("train", "gate", "report"), sizes, strict=True):
        lines = ["text,text_pair,label" if pairs else "text,label"]
        for row in range(size):
            kind = "good" if row % 2 else "bad"
            words = [f"{kind}{random.integers(8)}" for _ in range(random.integers(1, 5))]
            lines.append(",".join([" ".join(words), *(["word1 word2"] if pairs else []), str(row % 2)]))
        (folder / f"{role}.csv").write_text("\n".join(lines) + "\n")
    return folder


def settings(*tasks: Path, **changes: Any) -> Evaluate:
    """Few seeds, few examples, few epochs."""
    return Evaluate.model_validate({
        "tasks": [{"name": task.name, "path": task} for task in tasks],
        "probe": {"examples": 20},
        "fewshot": {"examples": 12, "epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
        "seeds": 2,
        "max_length": 16,
    } | changes)  # fmt: skip


def make_vit(folder: Path, *, seed: int = 0, head: bool = True, body: bool = False, labels: int = 2) -> Path:
    """A vision transformer with one layer and random weights, with or without its classifier."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ViTConfig(image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1,
                           num_attention_heads=2, intermediate_size=16, num_labels=labels)  # fmt: skip
        model = ViTForImageClassification(config)
        state = {name: value for name, value in model.state_dict().items() if head or "classifier" not in name}
        (model.base_model if body else model).save_pretrained(folder, **({} if body else {"state_dict": state}))
    return folder


def make_bert(folder: Path, *, seed: int = 0) -> Path:
    """A BERT for masked language modelling (so: without a pooler) with one layer, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=16, max_position_embeddings=16)  # fmt: skip
        BertForMaskedLM(config).save_pretrained(folder)
        BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image task with three labels."""
    return write_images(tmp_path_factory.mktemp("tasks") / "quadrants")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text task with two labels."""
    return write_texts(tmp_path_factory.mktemp("tasks") / "moods")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer's folder."""
    return make_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT's folder."""
    return make_bert(tmp_path_factory.mktemp("models") / "bert")
