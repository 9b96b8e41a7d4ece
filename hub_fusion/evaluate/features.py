"""What the frozen body makes of a task's inputs: one vector each, computed once for all protocols and seeds.

A `FeatureStore` remembers vectors by the input's contents, so that LogME, the probe and another choice of examples ask
the body only for what is new. On disk there is a file for each (weights, tokenizer and configuration, task, pooling,
length); the files that were used longest ago go when together they are larger than a bound. A vector may differ in its
last bits with the inputs that were in its batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.evaluate.batches import by_length
from hub_fusion.evaluate.kept import DAMAGED, save_arrays
from hub_fusion.evaluate.models import Encode, load_body, load_encode
from hub_fusion.evaluate.tasks import TaskData
from hub_fusion.recipe import Pooling
from hub_fusion.weights.compute import split_on_out_of_memory
from hub_fusion.weights.remote import SIDE_FILES

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]
BATCH = 128
STORE_BYTES = 2 * 10**9


class FeatureStore:
    """Vectors of one checkpoint, in memory for the newest task and, with `folder`, on disk for all."""

    def __init__(self, folder: Path | None, weights_sha256: str, *, limit_bytes: int = STORE_BYTES) -> None:
        self.folder, self.weights_sha256, self.limit_bytes = folder, weights_sha256, limit_bytes
        self._newest: tuple[str, dict[bytes, Array]] = ("", {})

    def read(self, name: str) -> dict[bytes, Array]:
        """What is known under `name`: digest of an input → vector. Nothing if the file is not there or damaged."""
        if self._newest[0] == name:
            return self._newest[1]
        if self.folder is None:
            return {}
        file = self.folder / f"{name}.npz"
        try:
            with np.load(file, allow_pickle=False) as arrays:
                digests, vectors = arrays["digests"], arrays["vectors"]
            if digests.dtype != np.uint8 or digests.shape != (len(vectors), 16) or vectors.dtype != np.float32:
                return {}
            file.touch()
            return dict(zip((row.tobytes() for row in digests), vectors, strict=True))
        except DAMAGED:
            return {}

    def write(self, name: str, known: dict[bytes, Array]) -> None:
        """Remember; the files that were used longest ago go if all together are larger than the bound."""
        self._newest = (name, known)
        if self.folder is None:
            return
        digests = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, 16)
        save_arrays(self.folder / f"{name}.npz", {"digests": digests, "vectors": np.stack(list(known.values()))})
        self._make_room()

    def _make_room(self) -> None:
        assert self.folder is not None
        stats = sorted(((file.stat(), file) for file in self.folder.glob("*.npz")), key=lambda s: -s[0].st_mtime_ns)
        total = 0
        for stat, file in stats:
            total += stat.st_size
            if total > self.limit_bytes:
                file.unlink(missing_ok=True)

    def name(self, folder: Path, task: TaskData, pooling: Pooling, max_length: int) -> str:
        """What the vectors of a task's inputs depend on, as a file name."""
        side = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(folder.iterdir())
            if file.suffix in SIDE_FILES and "index" not in file.name and file.is_file()
        }
        about = json.dumps([self.weights_sha256, side, task.sha256, pooling, max_length])
        return hashlib.sha256(about.encode()).hexdigest()[:40]


def task_features(
    folder: Path, task: TaskData, inputs: Mapping[str, Array], pooling: Pooling, max_length: int, *,
    device: str = "cpu", store: FeatureStore | None = None, progress: Callable[[str], None] | None = None,
) -> dict[str, Array]:  # fmt: skip
    """One vector for each input of each part of `inputs`, (n, hidden) float64; see `recipe.Probe` for `pooling`.

    The checkpoint in `folder` is opened only if the `store` lacks some of them. Raises WeightsError and RecipeError as
    `models` does.
    """
    store = store or FeatureStore(None, "")
    name = store.name(folder, task, pooling, max_length) if store.weights_sha256 else ""
    known = dict(store.read(name)) if name else {}
    digests = {part: [_digest(row) for row in rows] for part, rows in inputs.items()}
    missing: dict[bytes, Array] = {}
    for part, rows in inputs.items():
        missing |= {key: row for key, row in zip(digests[part], rows, strict=True) if key not in known}
    if missing:
        if progress:
            progress(f"features of {len(missing)} inputs of {task.name}")
        body, encode = load_body(folder, device=device), load_encode(folder, task, max_length=max_length)
        found = extract_features(body, encode, _stack(list(missing.values())), pooling, device=device)
        known |= zip(missing, found.astype(np.float32), strict=True)
        if name:
            store.write(name, known)
    return {part: np.stack([known[key] for key in keys]).astype(np.float64) for part, keys in digests.items()}


def extract_features(
    body: torch.nn.Module, encode: Encode, inputs: Array, pooling: Pooling = "mean", *, device: str = "cpu"
) -> Array:
    """One vector of the last hidden state for each input, (n, hidden) float64; see `recipe.Probe` for `pooling`."""
    import torch

    def vectors(rows: Array) -> Array:
        batch = {name: value.to(device) for name, value in encode(inputs[rows]).items()}
        pooled = pool(body(**batch).last_hidden_state, batch.get("attention_mask"), pooling)
        return np.asarray(pooled.double().cpu().numpy())

    found: Array | None = None
    with torch.inference_mode():
        batches = by_length(inputs, BATCH)
        for rows, values in (pair for batch in batches for pair in split_on_out_of_memory(vectors, batch)):
            found = np.empty((len(inputs), values.shape[1])) if found is None else found
            found[rows] = values
    assert found is not None, "a part of a task has examples"
    return found


def pool(hidden: torch.Tensor, mask: torch.Tensor | None, pooling: Pooling) -> torch.Tensor:
    """(n, tokens, hidden) or, from convolutions, (n, hidden, height, width) → (n, hidden); see `recipe.Probe`."""
    import torch

    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    if mask is None:
        mask = torch.ones(hidden.shape[:2], device=hidden.device)
    if pooling == "cls":
        return hidden[torch.arange(len(hidden)), mask.argmax(1)]  # the first attended one, whatever side is padded
    if pooling == "last":
        places = torch.arange(mask.shape[1], device=mask.device)
        return hidden[torch.arange(len(hidden)), (mask * places).argmax(1)]
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def _digest(row: Array) -> bytes:
    """16 bytes that tell an input from all others."""
    if row.dtype == object:
        data = row[0] if isinstance(row[0], bytes) else json.dumps(row.tolist()).encode()
    else:
        data = row.astype("<f4").tobytes()
    return hashlib.blake2b(data, digest_size=16).digest()


def _stack(rows: list[Array]) -> Array:
    if rows[0].dtype != object:
        return np.stack(rows)
    return np.array([row.tolist() for row in rows], dtype=object).reshape(len(rows), -1)
