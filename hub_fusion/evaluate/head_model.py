"""A generation with one of its heads, ready to be used: ``load_head("acme/base", "sst2").predict(["fine"])``.

What the repository says is checked before it is believed: names, sizes, shapes, both sha256. Only safetensors, never
code from the repository. Imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hub_fusion.errors import RecipeError, RepoMissing, WeightsError
from hub_fusion.evaluate.features import Array, extract_features, pool
from hub_fusion.evaluate.heads import ABOUT, TENSORS
from hub_fusion.evaluate.models import Encode, load_body, load_encode
from hub_fusion.evaluate.task_files import Examples
from hub_fusion.evaluate.tasks import TaskData
from hub_fusion.hub import Hub
from hub_fusion.records import Head
from hub_fusion.weights.checkpoint import Checkpoint, file_sha256
from hub_fusion.weights.fuse import folder_sha256
from hub_fusion.weights.remote import fetch_checkpoint

NAME = re.compile(r"(?!\.+\Z)[\w.-]{1,64}")
MAX_BYTES = 200_000_000  # of a head's tensors: 12,000 labels of a body 4,096 wide
MAX_ABOUT_BYTES = 2_000_000
MAX_INPUT = 50_000_000  # numbers of one image


class HeadModel(torch.nn.Module):
    """A frozen generation and a linear layer on its pooled features; `about` is the head's record."""

    def __init__(self, body: torch.nn.Module, encode: Encode, about: Head, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.body, self.about, self._encode = body, about, encode
        self.linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        self.linear.load_state_dict({"weight": weight, "bias": bias})
        self.eval()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the logits."""
        return self.about.labels

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits (n, labels) for what the body takes: input_ids and attention_mask, or pixel_values."""
        hidden = self.body(**inputs).last_hidden_state
        logits: torch.Tensor = self.linear(pool(hidden, inputs.get("attention_mask"), self.about.pooling))
        return logits

    def predict(self, inputs: Sequence[str] | Sequence[tuple[str, str]] | Array) -> list[str]:
        """The name of the likeliest label for each text, pair of texts or image, (n, channels, height, width).

        Images are normalised as the base expects. Raises RecipeError for inputs of another kind.
        """
        rows = _rows(inputs, self.about)
        if not len(rows):
            return []
        device = self.linear.weight.device
        features = extract_features(self.body, self._encode, rows, self.about.pooling, device=str(device))
        weight, bias = (t.detach().cpu().double().numpy() for t in (self.linear.weight, self.linear.bias))
        return [self.labels[k] for k in (features @ weight.T + bias).argmax(1)]


def load_head(
    base: str | Path, task: str, *, revision: str | None = None, hub: Hub | None = None, device: str = "cpu"
) -> HeadModel:
    """The base at a revision (default: main), or in a folder, with its head for `task`.

    Raises RepoMissing if there is no such head, WeightsError if it belongs to other weights or is malformed,
    RecordError if its description is.

    Example:
        >>> load_head("acme/base", "sst2", revision="gen-3").predict(["A fine film."])
        ['positive']
    """
    if not NAME.fullmatch(task):
        raise RecipeError(f"{task!r} is no name of a task: letters, digits, '_', '-' and '.', at most 64")
    where = f"heads/{task}"
    if Path(base).is_dir():
        if revision is not None:
            raise RecipeError(f"{base} is a folder, which has no revision {revision!r}: leave it out")
        folder, place = Path(base), Path(base) / where
        if not (place / ABOUT).is_file() or not (place / TENSORS).is_file():
            raise RepoMissing(f"{base} has no {where}/{ABOUT} and {TENSORS}; it has {_known_in(Path(base))}")
        if (place / ABOUT).stat().st_size > MAX_ABOUT_BYTES or (place / TENSORS).stat().st_size > MAX_BYTES:
            raise WeightsError(f"{place}: a head has at most {MAX_BYTES} bytes")
        about = Head.from_json((place / ABOUT).read_bytes(), source=str(place / ABOUT))
        source = f"{base}/{where}"
    else:
        hub = hub or Hub()
        sha = hub.resolve(str(base), revision or "main")
        files = hub.files(str(base), sha)
        source = f"{base}@{sha[:8]}/{where}"
        if not {f"{where}/{ABOUT}", f"{where}/{TENSORS}"} <= set(files):
            known = sorted({path.split("/")[1] for path in files if path.startswith("heads/")})
            raise RepoMissing(f"{base}@{sha[:8]} has no head for {task}; it has {', '.join(known) or 'none'}")
        if files[f"{where}/{TENSORS}"].size > MAX_BYTES:
            raise WeightsError(f"{source}/{TENSORS} has more than the {MAX_BYTES} bytes that a head may have")
        text = hub.read_text(str(base), f"{where}/{ABOUT}", revision=sha, max_bytes=MAX_ABOUT_BYTES)
        about = Head.from_json(text, source=f"{source}/{ABOUT}")
        place = hub.download(str(base), f"{where}/{TENSORS}", sha).parent
        folder = fetch_checkpoint(hub, str(base), sha)
    weight, bias = _tensors(place, about, source)
    if folder_sha256(folder) != about.weights_sha256:
        raise WeightsError(
            f"{source} was fitted on other weights than these: on gen-{about.generation} of {about.base[:200]}; "
            f"load it with revision='gen-{about.generation}'"
        )
    return _assemble(folder, about, weight, bias, source, device)


def _tensors(place: Path, about: Head, source: str) -> tuple[torch.Tensor, torch.Tensor]:
    if file_sha256(place / TENSORS) != about.sha256:
        raise WeightsError(f"{source}/{TENSORS} does not have the sha256 that {ABOUT} gives; publish the head again")
    tensors = Checkpoint(place, [TENSORS])
    shapes = {name: (spec.dtype, spec.shape) for name, spec in tensors.items()}
    n, hidden = len(about.labels), shapes.get("weight", ("", ()))[1][-1:]
    if shapes != {"weight": ("F32", (n, *hidden)), "bias": ("F32", (n,))} or not hidden or not hidden[0]:
        told = {name[:40]: shape for name, shape in list(shapes.items())[:4]}
        raise WeightsError(
            f"{source}/{TENSORS} must hold weight ({n}, hidden) and bias ({n},) in F32 for {n} labels, not {told}"
        )
    weight, bias = (tensors.read(name).clone() for name in ("weight", "bias"))
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise WeightsError(f"{source}/{TENSORS} holds numbers that are not finite; fit the head again")
    return weight, bias


def _assemble(
    folder: Path, about: Head, weight: torch.Tensor, bias: torch.Tensor, source: str, device: str
) -> HeadModel:
    """The model, tried on one input that says nothing."""
    columns = 3 if about.kind == "image" else 1
    if len(about.shape) != columns or prod(about.shape) > (MAX_INPUT if about.kind == "image" else 2):
        raise WeightsError(f"{source}/{ABOUT} says that a {about.kind} has the shape {about.shape}")
    text = np.full((1, *about.shape), "a", dtype=object)
    sample = np.zeros((1, *about.shape), dtype=np.float32) if about.kind == "image" else text
    examples = Examples(sample, np.zeros(1, dtype=np.int64))
    task = TaskData(about.task, about.kind, len(about.labels), examples, {}, about.task_sha256)
    body, encode = load_body(folder, device=device), load_encode(folder, task, max_length=about.max_length)
    features = extract_features(body, encode, sample, about.pooling, device=device)
    if features.shape[1] != weight.shape[1]:
        raise WeightsError(f"{source} takes {weight.shape[1]} features and the body gives {features.shape[1]}")
    return HeadModel(body, encode, about, weight, bias).to(device)


def _rows(inputs: Any, about: Head) -> Array:
    """Inputs as the body's encoder takes them."""
    if about.kind == "image":
        pixels = np.asarray(inputs, dtype=np.float32)
        if pixels.shape[1:] != about.shape:
            raise RecipeError(f"images are (n, {', '.join(map(str, about.shape))}), not {pixels.shape}; resize them")
        return pixels
    if isinstance(inputs, str):
        raise RecipeError("predict takes a list of texts, not one text: put it into brackets")
    pairs = [(text,) if isinstance(text, str) else tuple(text) for text in inputs]
    if any(len(pair) != about.shape[0] or not all(isinstance(text, str) for text in pair) for pair in pairs):
        raise RecipeError(f"{about.task} takes {'texts' if about.shape == (1,) else 'pairs of texts'}, each a string")
    rows = np.empty((len(pairs), about.shape[0]), dtype=object)
    for row, pair in enumerate(pairs):
        rows[row] = pair
    return rows


def _known_in(folder: Path) -> str:
    return ", ".join(sorted(p.parent.name for p in folder.glob(f"heads/*/{ABOUT}"))) or "none"
