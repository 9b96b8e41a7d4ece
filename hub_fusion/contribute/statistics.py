"""Statistics of a finetune on its author's own data, for bases that fuse by Fisher merging or RegMean.

They are computed where the data is and written beside the weights, ``fusion/statistics.safetensors``; the data itself
stays there, but statistics say something about it: see docs/statistics.md. Importing this needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hub_fusion.errors import HubFusionError, WeightsError
from hub_fusion.provenance import versions
from hub_fusion.weights.checkpoint import ITEM_BYTES, TensorSpec
from hub_fusion.weights.statistics import FACTOR, MAX_RANK, REST, STATISTICS

if TYPE_CHECKING:
    import torch

    from hub_fusion.contribute.gram import Batch, Batches, Layer
    from hub_fusion.contribute.open_model import Opened
    from hub_fusion.hub import Hub

Kind = Literal["gram", "fisher", "both"]
LIBRARIES = ("hub-fusion", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Collected:
    """What was computed, or with `dry_run` would be. `whole_bytes`: were every matrix whole, unshared, in float32."""

    file: Path
    bytes: int
    whole_bytes: int
    memory_bytes: int  # besides the model
    passes: int
    tensors: int
    about: Mapping[str, str]


@dataclass(frozen=True)
class Settings:
    """What is computed, and how. `layers`: patterns of weights' names on disk, all by default; `rank`: short form."""

    kind: Kind = "gram"
    layers: tuple[str, ...] = ()
    rank: int | None = None
    labels: int = 10
    seed: int = 0
    memory_bytes: int = 4 * 10**9

    def check(self) -> None:
        """Raises HubFusionError for what cannot be."""
        if self.kind not in ("gram", "fisher", "both"):
            raise HubFusionError(f"kind is gram, fisher or both, not {self.kind!r}")
        if self.rank is not None and not 1 <= self.rank <= MAX_RANK:
            raise HubFusionError(f"rank is between 1 and {MAX_RANK}, not {self.rank}")
        if self.labels < 1 or self.memory_bytes < 1:
            raise HubFusionError(f"labels and memory are positive, not {self.labels} and {self.memory_bytes}")

    def covers(self, name: str) -> bool:
        """Whether a tensor is asked for."""
        return not self.layers or any(fnmatchcase(name, pattern) for pattern in self.layers)


def collect_statistics(
    folder: Path, task: Path, *, hub: Hub | None = None, kind: Kind = "gram", examples: int = 256,
    layers: Sequence[str] = (), rank: int | None = None, labels: int = 10, batch_size: int = 8, max_length: int = 128,
    seed: int = 0, memory_bytes: int = 4 * 10**9, out: Path | None = None, dry_run: bool = False,
) -> Collected:  # fmt: skip
    """Compute statistics of the model in `folder` on the training examples of a task folder (see evaluate/tasks.py).

    Writes ``fusion/statistics.safetensors`` into `out` (default: `folder`). `rank` keeps the largest eigenpairs of a
    Gram matrix and the diagonal; `labels` is the budget for exact Fisher information. Raises HubFusionError.

    Example:
        >>> collect_statistics(Path("my-finetune"), Path("my-task"), kind="both", rank=64)
    """
    from hub_fusion.contribute.open_model import open_model
    from hub_fusion.contribute.task_batches import task_batches
    from hub_fusion.hub import Hub

    settings = Settings(kind, tuple(layers), rank, labels, seed, memory_bytes)
    settings.check()
    opened = open_model(folder, hub or Hub())
    batches, count = task_batches(opened, task, examples, batch_size, max_length, seed)
    return write_statistics(opened, batches, count, settings, out or folder, dry_run=dry_run)


def write_statistics(
    opened: Opened, batches: Batches, examples: int, settings: Settings, out: Path, *, dry_run: bool = False
) -> Collected:
    """As `collect_statistics`, of a model and batches that are there; `batches` gives the same ones at every call."""
    from hub_fusion.contribute.fisher import estimator, find_parameters
    from hub_fusion.contribute.gram import find_layers, passes
    from hub_fusion.contribute.open_model import output_of

    output = output_of(opened.model)
    classes = int(getattr(opened.model.config, "num_labels", 0)) if output == "classes" else None
    if settings.kind != "gram" and (output == "none" or classes == 1):
        raise WeightsError(f"Fisher information needs a classifier or a causal language model, not a "
                           f"{type(opened.model).__name__} with {classes} outputs: collect --kind gram")  # fmt: skip
    first = next(iter(batches()))
    found = [] if settings.kind == "fisher" else find_layers(opened.model, opened.names, _one(first))
    gram = [layer for layer in found if any(map(settings.covers, (layer.name, *layer.others)))]
    parameters = {} if settings.kind == "gram" else find_parameters(opened.model, opened.names)
    fisher = {name: p for name, p in parameters.items() if settings.covers(name)}
    if not gram and not fisher:
        raise HubFusionError(f"none of the model's tensors matches {', '.join(settings.layers) or 'what is covered'}")
    specs = [
        *_gram_specs(gram, settings.rank),
        *(_spec(f"fisher/{n}", "BF16", tuple(p.shape)) for n, p in fisher.items()),
    ]
    parts = passes(gram, settings.memory_bytes)
    about = {
        "format": "pt", "kinds": " ".join(k for k, has in (("activations", gram), ("fisher", fisher)) if has),
        "examples": str(examples), "tokens": str(_tokens(batches)), "rank": str(settings.rank or "whole"),
        "covers": f"{sum(1 + len(x.others) for x in gram)} of {sum(1 + len(x.others) for x in found)} linear layers, "
                  f"Fisher information of {len(fisher)} of {len(parameters)} tensors",
        "shared": json.dumps({other: layer.name for layer in gram for other in layer.others}),
        "versions": json.dumps({k: v for k, v in versions().items() if k in LIBRARIES}),
    }  # fmt: skip
    if fisher:
        about["estimator"] = estimator(classes, settings.labels)
    if opened.weights_sha256:
        about["weights_sha256"] = opened.weights_sha256
    whole = sum(4 * (1 + len(x.others)) * x.columns**2 for x in gram) + sum(4 * p.numel() for p in fisher.values())
    needed = max((sum(x.sum_bytes for x in part) for part in parts), default=0) + max(
        (3 * x.sum_bytes for x in gram), default=0
    )
    needed = max(needed, min(sum(12 * p.numel() for p in fisher.values()), settings.memory_bytes))
    file = out / "fusion" / STATISTICS
    if not dry_run:
        _write(file, specs, about, _tensors(opened, gram, fisher, batches, settings, tokens=classes is None))
    size = sum(s.size_bytes for s in specs)
    return Collected(file, file.stat().st_size if not dry_run else size, whole, needed, len(parts), len(specs), about)


def _tensors(
    opened: Opened, gram: Sequence[Layer], fisher: Mapping[str, Any], batches: Batches, settings: Settings, *,
    tokens: bool,
) -> Iterator[tuple[str, torch.Tensor]]:  # fmt: skip
    """All tensors of the file, in its order."""
    from hub_fusion.contribute.fisher import fisher_diagonals
    from hub_fusion.contribute.gram import gram_matrices

    for layer, matrix in gram_matrices(opened.model, gram, batches, settings.memory_bytes):
        if settings.rank is None or settings.rank >= layer.columns:
            yield f"activations/{layer.name}", matrix
            continue
        factor, rest = shorten(matrix, settings.rank)
        yield f"{FACTOR}/{layer.name}", factor
        yield f"{REST}/{layer.name}", rest
    diagonals = fisher_diagonals(opened.model, fisher, batches, tokens=tokens, labels=settings.labels,
                                 seed=settings.seed, memory_bytes=settings.memory_bytes)  # fmt: skip
    yield from ((f"fisher/{name}", diagonal) for name, diagonal in diagonals)


def shorten(gram: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest `rank` eigenpairs as a factor (in, rank), as bfloat16 has it, and what is missing on the diagonal.

    The diagonal of F·Fᵀ + diag(rest) is the matrix's own, but where rounding made F·Fᵀ longer than it.
    """
    import torch

    values, vectors = torch.linalg.eigh(gram)
    factor = (vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()).bfloat16()
    return factor, (gram.diagonal() - factor.double().square().sum(dim=1)).clamp_min(0)


def _gram_specs(layers: Sequence[Layer], rank: int | None) -> Iterator[TensorSpec]:
    for layer in layers:
        if rank is None or rank >= layer.columns:
            yield _spec(f"activations/{layer.name}", "F32", (layer.columns, layer.columns))
        else:
            yield _spec(f"{FACTOR}/{layer.name}", "BF16", (layer.columns, rank))
            yield _spec(f"{REST}/{layer.name}", "F32", (layer.columns,))


def _spec(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, dtype, shape, STATISTICS, 0, prod(shape) * ITEM_BYTES[dtype])


def _write(
    file: Path, specs: list[TensorSpec], about: dict[str, str], tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """One tensor after another into a partial file, which gets its name at the end."""
    import torch

    from hub_fusion.weights.checkpoint import TORCH_NAMES
    from hub_fusion.weights.writer import allocate, place

    placed = {s.name: s for s in place(specs, about)}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.parent / f"{file.name}.partial"
    try:
        allocate(file.parent, file.name, list(placed.values()), about)
        with partial.open("r+b") as handle:
            for name, tensor in tensors:
                stored = tensor.cpu().to(getattr(torch, TORCH_NAMES[placed[name].dtype])).contiguous()
                handle.seek(placed[name].start)
                handle.write(stored.reshape(-1).view(torch.uint8).numpy().data)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _one(batch: Batch) -> Batch:
    return {name: values[:1] for name, values in batch.items()}


def _tokens(batches: Batches) -> int:
    """Of texts the tokens that are not padding, of images one each."""
    total = 0
    for batch in batches():
        mask, ids = batch.get("attention_mask"), batch.get("input_ids")
        images = len(next(iter(batch.values())))
        total += int(mask.sum()) if mask is not None else ids.numel() if ids is not None else images
    return total


def read_about(file: Path) -> dict[str, str]:
    """The metadata of a statistics file. Raises WeightsError, also for one that says nothing."""
    from hub_fusion.weights.checkpoint import read_header

    about = read_header(file)[1]
    if not {"kinds", "examples", "tokens"} <= about.keys():
        raise WeightsError(f"{file} does not say its kinds, examples and tokens: hub-fusion statistics writes it")
    return about
