"""Applying a merge method outside the engine: the inputs it asks for are made from the whole tensor at once."""

from __future__ import annotations

from typing import Any

import torch

from hub_fusion.merge import find_method
from hub_fusion.merge.inputs import find_cut, noise_like


def run(
    name: str, deltas: torch.Tensor, weights: torch.Tensor, names: list[str] | None = None, **options: Any
) -> torch.Tensor:  # fmt: skip
    """The method with its default options, and what it asks for; `names` are those of the contributions."""
    method = find_method(name).bind(options)
    names = names or [str(i) for i in range(len(deltas))]
    size = deltas[0].numel()
    inputs: dict[str, torch.Tensor | None] = {}
    if "gram" in method.method.inputs:
        flat = deltas.reshape(len(deltas), -1).double()
        inputs["gram"] = flat @ flat.T
    if "keep" in method.method.inputs:
        first, last = ([find_cut(lambda d=d: [d], rank, size) for d in deltas] for rank in method.ranks(size))
        borders = zip(deltas, first, last, strict=True)
        inputs["keep"] = torch.stack([b.before(d, 0) & ~a.before(d, 0) for d, a, b in borders])
    if "noise" in method.method.inputs:
        noise = [noise_like(d, 0, seed=0, tensor="t", contribution=c) for d, c in zip(deltas, names, strict=True)]
        inputs["noise"] = torch.stack(noise)
    if "fisher" in method.method.inputs:
        inputs["fisher"] = torch.stack([fisher_like(d, c) for d, c in zip(deltas, names, strict=True)])
    if "activations" in method.method.inputs and deltas.dim() == 3:
        inputs["activations"] = torch.stack([gram_of_inputs(deltas.shape[2], c) for c in names])
    return method(deltas, weights, **inputs)


def fisher_like(delta: torch.Tensor, contribution: str) -> torch.Tensor:
    """Positive numbers from 1e-8 to 1, the same for the same contribution."""
    return 10 ** (-8 * noise_like(delta, 0, seed=1, tensor="fisher", contribution=contribution))


def gram_of_inputs(columns: int, contribution: str) -> torch.Tensor:
    """XᵀX/n of n = columns/2 + 1 random inputs: positive semidefinite, and not of full rank."""
    x = noise_like(torch.zeros(columns // 2 + 1, columns), 0, seed=2, tensor="x", contribution=contribution) - 0.5
    return x.T @ x / len(x)
