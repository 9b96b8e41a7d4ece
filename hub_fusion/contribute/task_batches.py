"""A contributor's task folder → batches for their own model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hub_fusion.contribute.open_model import Opened, output_of
from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.models import load_encode
from hub_fusion.evaluate.task_files import SUFFIXES, Examples, read_examples
from hub_fusion.evaluate.task_labels import number_alone
from hub_fusion.evaluate.tasks import TaskData

if TYPE_CHECKING:
    from hub_fusion.contribute.gram import Batch, Batches


def task_batches(
    opened: Opened, task: Path, examples: int, batch_size: int, max_length: int, seed: int
) -> tuple[Batches, int]:
    """Batches of at most `examples` training examples, drawn once by `seed`, the same at every call; and how many.

    Raises RecipeError for a task that is not the model's: other labels, images of another size.
    """
    files = [file for suffix in SUFFIXES if (file := task / f"train{suffix}").is_file()]
    if len(files) != 1:
        raise RecipeError(f"{task} needs one train file ({', '.join(SUFFIXES)}), there are {len(files)}")
    if examples < 1 or batch_size < 1:
        raise RecipeError(f"examples and batch size are at least 1, not {examples} and {batch_size}")
    config = opened.model.config
    own = [str(config.id2label.get(i)) for i in range(config.num_labels)]
    train = number_alone(read_examples(files[0]), own, str(files[0]))
    check_labels(opened, train, files[0])
    rows = np.sort(np.random.default_rng(seed).permutation(len(train))[:examples])
    chosen = train.take(rows)
    kind = "text" if chosen.form == "text" else "image"
    data = TaskData(task.resolve().name, kind, int(train.labels.max()) + 1, chosen, {}, "")  # type: ignore[arg-type]
    encode = load_encode(opened.folder, data, max_length=max_length)
    device = next(opened.model.parameters()).device

    def batches() -> Iterator[Batch]:
        for start in range(0, len(chosen), batch_size):
            batch = encode(chosen.inputs[start : start + batch_size])
            yield {name: values.to(device) for name, values in batch.items()}

    return batches, len(chosen)


def check_labels(opened: Opened, train: Examples, file: Path) -> None:
    """Whether a classifier's labels can be the task's, by their number and, where both name them, by their names."""
    if output_of(opened.model) != "classes":
        return
    config = opened.model.config
    known, most = int(config.num_labels), int(train.labels.max())
    if known > 1 and most >= known:
        raise RecipeError(f"{file}: label {most} occurs, the model knows 0 to {known - 1}: is this the task it was "
                          "trained on?")  # fmt: skip
    own = [str(config.id2label.get(i)) for i in range(known)]
    if train.names and own != [f"LABEL_{i}" for i in range(known)] and list(train.names)[:known] != own:
        raise RecipeError(f"{file}: its labels are {list(train.names)[:6]}, the model's are {own[:6]}: write them in "
                          "the model's order, or take the task that it was trained on")  # fmt: skip
