"""The change of one of the base's tensors by one adapter: rows of it, computed from its factors when asked for.

Each class is one formula; all hold factors only, so that no whole model ever exists. Arrays are numpy's on the CPU and
torch's on a GPU: the formulas use what both know and import neither.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from hub_fusion.weights.adapter_experts import factors_of

if TYPE_CHECKING:
    from hub_fusion.weights.adapter_plan import Target
    from hub_fusion.weights.checkpoint import Checkpoint

Array = Any  # numpy.ndarray or torch.Tensor, float32
Read = Callable[[str], Array]


class Change(Protocol):
    """Of one of the base's tensors by one adapter; what ``modules_to_save`` replaces is not part of it."""

    @property
    def needs_origin(self) -> bool:
        """Whether `rows` needs the rows of the generation that the adapter started from."""

    def rows(self, start: int, stop: int, origin: Array | None) -> Array:
        """Rows [start, stop) of the change in float32, shape (stop − start, *columns)."""


@dataclass(frozen=True)
class Product:
    """ΔW = s·B·A (Hu et al. 2021, arXiv 2106.09685, section 4.1). `left` holds s, `columns` the shape of one row."""

    left: Array  # (rows, rank)
    right: Array  # (rank, columns)
    columns: tuple[int, ...]
    needs_origin: bool = False

    def rows(self, start: int, stop: int, origin: Array | None) -> Array:
        """As Change.rows; `origin` is not looked at."""
        return (self.left[start:stop] @ self.right).reshape((-1, *self.columns))


@dataclass(frozen=True)
class Stack:
    """`Product` for each of many experts in one tensor; a row is an expert's matrix."""

    left: Array  # (experts, rows, rank)
    right: Array  # (experts, rank, columns)
    needs_origin: bool = False

    def rows(self, start: int, stop: int, origin: Array | None) -> Array:
        """As Change.rows; `origin` is not looked at."""
        return self.left[start:stop] @ self.right[start:stop]


@dataclass(frozen=True)
class Dora:
    """m/‖W + ΔW‖·(W + ΔW) − W, norms over rows (Liu et al. 2024, arXiv 2402.09353, equation 5)."""

    product: Product
    magnitude: Array  # (rows,)
    needs_origin: bool = True

    def rows(self, start: int, stop: int, origin: Array | None) -> Array:
        """As Change.rows. A row of zeros stays one."""
        assert origin is not None
        weight = origin.reshape((stop - start, -1))
        change = self.product.left[start:stop] @ self.product.right
        adapted = weight + change
        norm = (adapted * adapted).sum(1) ** 0.5
        factor = (self.magnitude[start:stop] / (norm + (norm == 0))).reshape((-1, 1))
        return (weight * (factor - 1) + change * factor).reshape((-1, *self.product.columns))


@dataclass(frozen=True)
class Scaled:
    """W·(l − 1): (IA)³ (Liu et al. 2022, arXiv 2205.05638), over outputs (rows) or inputs (columns)."""

    vector: Array
    along_rows: bool
    needs_origin: bool = True

    def rows(self, start: int, stop: int, origin: Array | None) -> Array:
        """As Change.rows."""
        assert origin is not None
        factor = self.vector[start:stop] if self.along_rows else self.vector
        axis = 0 if self.along_rows else 1
        return origin * (factor - 1).reshape([-1 if at == axis else 1 for at in range(origin.ndim)])


@dataclass(frozen=True)
class Replaced:
    """Some rows of an embedding replaced: zero but for `places` (ascending), where it is `values` − W."""

    values: Array  # (tokens, columns), in the order of `places`
    places: tuple[int, ...]
    needs_origin: bool = True

    def rows(self, start: int, stop: int, origin: Array | None) -> Array:
        """As Change.rows."""
        assert origin is not None
        change = origin * 0
        first, last = bisect_left(self.places, start), bisect_left(self.places, stop)
        if first < last:
            at = [place - start for place in self.places[first:last]]
            change[at] = self.values[first:last] - origin[at]
        return change


@dataclass(frozen=True)
class Shift:
    """A vector added to a bias (``lora_bias``)."""

    vector: Array
    needs_origin: bool = False

    def rows(self, start: int, stop: int, origin: Array | None) -> Array:
        """As Change.rows; `origin` is not looked at."""
        return self.vector[start:stop]


def load_change(adapter: Checkpoint, target: Target, read: Read) -> Change:
    """The change that a target of `plan_adapter` with factors (``target.a``) makes; each factor is read once.

    `read` gives a tensor of the adapter in float32, numpy's or torch's.
    """
    assert target.a is not None
    a = read(target.a)
    if target.kind == "scaled":
        return Scaled(a.reshape((-1,)), target.along_rows)
    if target.kind == "tokens":
        order = sorted(range(len(target.tokens)), key=target.tokens.__getitem__)
        return Replaced(a[order], tuple(sorted(target.tokens)))
    if target.kind == "shift":
        return Shift(a * target.scaling)
    assert target.b is not None
    if target.experts:
        left, right = factors_of(target.experts, a, read(target.b), target.scaling)
        return Stack(left, right) if target.experts.number is None else Product(left, right, (right.shape[1],))
    columns = adapter[target.a].shape[1:]
    rank = adapter[target.a].shape[0]
    left, right = read(target.b).reshape((-1, rank)), a.reshape((rank, prod(columns)))
    if target.transposed:
        left, right, columns = right.T, left.T, (left.shape[0],)
    product = Product(left * target.scaling, right, columns)
    return Dora(product, read(target.magnitude).reshape((-1,))) if target.magnitude else product
