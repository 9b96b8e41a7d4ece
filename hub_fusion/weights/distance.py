"""How far checkpoints lie from each other, as a whole and layer by layer; one block of one tensor in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod
from pathlib import Path

from hub_fusion.weights.checkpoint import FLOATS, SINGLE, Checkpoint
from hub_fusion.weights.directions import layer_of
from hub_fusion.weights.vocabulary import same_but_rows

BLOCK_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class Distance:
    """Euclidean norms over the tensors that all three have, and the largest difference of any element."""

    apart: float  # ‖a − b‖
    first: float  # ‖a − origin‖
    second: float  # ‖b − origin‖
    cosine: float  # of a − origin and b − origin; 0 where either is 0
    largest: float  # max |a − b|


def distance(a: Path, b: Path, origin: Path, name: str = SINGLE) -> Distance:
    """`a` and `b` seen from `origin`, three folders; heads that one of them lacks and integers do not count.

    `name` is that of their weights; an adapter's are its factors.

    Raises WeightsError for folders without a checkpoint.
    """
    import torch

    opened = first, second, start = [Checkpoint.open(folder, name) for folder in (a, b, origin)]
    names = [n for n in start if n in first and n in second and all(same_but_rows(n, start[n], c[n]) for c in opened)]
    apart = one = two = product = largest = 0.0
    for tensor in names:
        if not all(c[tensor].dtype in FLOATS for c in opened):
            continue
        size = min(prod(c[tensor].shape) for c in opened)  # of vocabularies the tokens that all have
        flat = [c.read(tensor).reshape(-1)[:size] for c in opened]
        for at in range(0, len(flat[0]), BLOCK_ELEMENTS):
            x, y, o = (t[at : at + BLOCK_ELEMENTS].to(torch.float64) for t in flat)
            difference = x - y
            apart += float(difference @ difference)
            largest = max(largest, float(difference.abs().max()))
            x, y = x - o, y - o
            one, two, product = one + float(x @ x), two + float(y @ y), product + float(x @ y)
    lengths = math.sqrt(one) * math.sqrt(two)
    return Distance(math.sqrt(apart), math.sqrt(one), math.sqrt(two), product / lengths if lengths else 0.0, largest)


def drift(parent: Path, candidate: Path) -> dict[str, float]:
    """Layer → ‖candidate − parent‖ / ‖parent‖ over the layer's float tensors that both have, in the parent's order.

    A layer whose parent is all zeros has the plain norm of its change. Raises WeightsError for folders without weights.
    """
    import torch

    before, after = Checkpoint.open(parent), Checkpoint.open(candidate)
    moved: dict[str, float] = {}
    length: dict[str, float] = {}
    for name in before:
        if name not in after or not same_but_rows(name, before[name], after[name]) or before[name].dtype not in FLOATS:
            continue
        size = min(prod(c[name].shape) for c in (before, after))
        layer, flat = layer_of(name), [c.read(name).reshape(-1)[:size] for c in (before, after)]
        for at in range(0, len(flat[0]), BLOCK_ELEMENTS):
            x, y = (t[at : at + BLOCK_ELEMENTS].to(torch.float64) for t in flat)
            length[layer] = length.get(layer, 0.0) + float(x @ x)
            moved[layer] = moved.get(layer, 0.0) + float((y - x) @ (y - x))
    return {layer: math.sqrt(moved[layer]) / (math.sqrt(length[layer]) or 1.0) for layer in moved}
