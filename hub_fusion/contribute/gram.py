"""Gram matrices XᵀX/n of the inputs of every linear layer, over the tokens that are not padding.

Layers that get the very same tensor (queries, keys, values) share a matrix. Sums are float64; where they would not fit
into memory together, the examples pass several times and each pass looks at some of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import WeightsError
from hub_fusion.weights.kinds import kind_of

if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]
    Batches = Callable[[], Iterable[Batch]]


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer and all others that get its inputs; `name` is its weight's on disk."""

    name: str
    module: torch.nn.Module
    columns: int
    others: tuple[str, ...] = ()

    @property
    def sum_bytes(self) -> int:
        """What its sum takes in float64."""
        return 8 * self.columns**2


def find_layers(model: torch.nn.Module, names: Mapping[str, str], sample: Batch) -> list[Layer]:
    """The linear layers that are fused, in the order in which `sample` (one small batch) passes them.

    Task heads are nobody else's, and layers that the sample does not reach have no inputs here.
    """
    linear = _linear(model, names)
    seen: dict[str, list[Any]] = {name: [] for name in linear}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
        for name, (module, _) in linear.items()
    ]
    try:
        _forward(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    alike: dict[tuple[int, ...], list[str]] = {}  # `seen` holds the tensors, so that no id is given twice
    for name, inputs in seen.items():
        if inputs:
            alike.setdefault(tuple(map(id, inputs)), []).append(name)
    return [Layer(first, *linear[first], tuple(rest)) for first, *rest in alike.values()]


def gram_matrices(
    model: torch.nn.Module, layers: Sequence[Layer], batches: Batches, memory_bytes: int
) -> Iterator[tuple[Layer, torch.Tensor]]:
    """Each layer with its matrix, float64 (in, in). Raises WeightsError for one that no token reached."""
    for part in passes(layers, memory_bytes):
        yield from _one_pass(model, part, batches)


def passes(layers: Sequence[Layer], memory_bytes: int) -> list[list[Layer]]:
    """Layers whose sums fit into memory together, at least one in each part."""
    parts: list[list[Layer]] = []
    room = 0
    for layer in layers:
        if not parts or layer.sum_bytes > room:
            parts.append([])
            room = memory_bytes
        parts[-1].append(layer)
        room -= layer.sum_bytes
    return parts


def _one_pass(model: torch.nn.Module, layers: list[Layer], batches: Batches) -> Iterator[tuple[Layer, torch.Tensor]]:
    import torch

    sums: list[torch.Tensor | None] = [None] * len(layers)
    counts = [0] * len(layers)
    mask: torch.Tensor | None = None

    def look(number: int, inputs: torch.Tensor) -> None:
        rows = real_rows(inputs, mask).double()
        product = rows.T @ rows
        sums[number] = product if sums[number] is None else sums[number].add_(product)  # type: ignore[union-attr]
        counts[number] += len(rows)

    handles = [
        layer.module.register_forward_pre_hook(lambda _, args, number=number: look(number, args[0]))
        for number, layer in enumerate(layers)
    ]
    try:
        for batch in batches():
            mask = batch.get("attention_mask")
            _forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    for number, layer in enumerate(layers):
        total = sums[number]
        if total is None or not counts[number]:
            raise WeightsError(
                f"no token reached the layer {layer.name}: give more examples, or leave it out (--layers)"
            )
        if not torch.isfinite(total).all():
            raise WeightsError(f"the inputs of {layer.name} are not finite: is the model well?")
        sums[number] = None
        yield layer, total / counts[number]


def real_rows(inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The inputs (rows, in) without those of padding tokens, wherever they can be told by their shape.

    (batch, tokens, in) and (batch·tokens, in) hold tokens; everything else, such as pooled vectors and image patches,
    holds no padding.
    """
    flat = inputs.detach().reshape(-1, inputs.shape[-1])
    if mask is None or len(flat) != mask.numel() or mask.dim() != 2:
        return flat
    return flat[mask.reshape(-1).bool()]


def _forward(model: torch.nn.Module, batch: Batch) -> None:
    import torch

    with torch.no_grad():
        model(**batch)


def _linear(model: torch.nn.Module, names: Mapping[str, str]) -> dict[str, tuple[torch.nn.Module, int]]:
    """Name of the weight on disk → the module and how many inputs it has."""
    import torch
    from transformers.pytorch_utils import Conv1D

    found: dict[str, tuple[torch.nn.Module, int]] = {}
    for path, module in model.named_modules():
        name = names.get(f"{path}.weight", "")
        if not name or kind_of(name) == "task" or not isinstance(module, torch.nn.Linear | Conv1D):
            continue
        found[name] = (module, int(module.weight.shape[0 if isinstance(module, Conv1D) else 1]))
    return found
