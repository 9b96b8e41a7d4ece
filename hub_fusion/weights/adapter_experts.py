"""Adapters on parameters (PEFT's ``target_parameters``): the experts of a mixture, stacked in one tensor in memory.

PEFT has one pair of factors for a stack of E experts: A is (r·E, inputs), by experts and in each by ranks, B is
(outputs, r·E), by ranks and in each by experts. A module with several such parameters is wrapped once for each, and the
names tell levels, not parameters; shapes do. On disk a stack is one tensor (experts, outputs, inputs) or (experts,
inputs, outputs), or it is a tensor for each expert, or two of them that lie side by side in memory (gate and up).
A stack of square matrices, as gpt-oss has, lies as the gates beside it do.
Not covered: square ones (outputs, inputs), which releases of PEFT read one way or the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter_config import CONFIG, FIX, AdapterConfig
from hub_fusion.weights.checkpoint import FLOATS, TensorSpec
from hub_fusion.weights.names import MismatchError

if TYPE_CHECKING:
    from hub_fusion.weights.adapter_modules import Module

Array = Any  # numpy.ndarray or torch.Tensor
SIDE_BY_SIDE = (("gate_proj", "up_proj"), ("w1", "w3"))  # first and second half of the outputs
NUMBERED = re.compile(r"(.*)\.(\d+)\.(\w+)\.weight")


@dataclass(frozen=True)
class Experts:
    """Which part of a pair of factors changes one tensor: all of `total` experts, or rows of one of them."""

    total: int
    number: int | None = None  # None: a stack of all
    rows: tuple[int, int] = (0, 0)  # of one expert's outputs
    transposed: bool = False  # a stack of (inputs, outputs)


@dataclass(frozen=True)
class Found:
    """A tensor of the base that a pair of factors changes."""

    name: str
    a: str
    b: str
    scaling: float
    experts: Experts | None  # None: a parameter that is one matrix


def plan_parameter(
    module: str, parts: Module, tensors: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec],
    config: AdapterConfig, stored_as: Callable[[str], Sequence[str]],
) -> list[Found]:  # fmt: skip
    """What an adapter's pair of factors on a parameter changes; nothing for those on an ordinary module.

    `stored_as` gives the base's tensors that make up one in memory. Raises WeightsError, MismatchError.
    """
    keys = config.parameters_of(module)
    if not keys or not parts.factors:
        return []
    where = f"adapter module {module[:200]!r}"
    a, b = factors_on_parameter(parts, tensors, config, where)
    first, second = tensors[a].shape, tensors[b].shape
    fitting = []
    for key in keys:
        specs = [base[name] for name in stored_as(key)]
        if places := _places(specs, second[0], first[1], where, base):
            total = places[0][1].total if places[0][1] else 1
            if first[0] % total or first[0] // total > max(4 * min(second[0], first[1]), 1024):
                raise WeightsError(f"{where}: {first[0]} ranks do not belong to {total} experts: {FIX}")
            scaling = config.scaling(key, first[0] // total)
            fitting.append([Found(name, a, b, scaling, experts) for name, experts in places])
    if not fitting:
        given = f"{where} gives {list(second)} by {list(first)}"
        raise MismatchError(
            "shape_mismatch", f"{given}, which is the shape of none of the base's {', '.join(keys)[:300]}"
        )
    if len(fitting) > 1:
        raise WeightsError(f"{where} fits more than one of {', '.join(keys)[:300]}, and nothing tells which: {FIX}")
    return fitting[0]


def factors_on_parameter(
    parts: Module, tensors: Mapping[str, TensorSpec], config: AdapterConfig, where: str
) -> tuple[str, str]:
    """A and B of a parameter. Raises WeightsError if they are no pair, or not alone."""
    a, b = parts.factors.get("lora_A"), parts.factors.get("lora_B")
    if a is None or b is None or len(parts.factors) != 2 or config.fan_in_fan_out:
        raise WeightsError(
            f"{where}: a parameter is changed by lora_A and lora_B alone, not by {sorted(parts.factors)}"
        )
    first, second = tensors[a].shape, tensors[b].shape
    if len(first) != 2 or len(second) != 2 or first[0] != second[1] or 0 in first + second:
        raise WeightsError(f"{where}: A is {first}, B is {second}")
    if not FLOATS.issuperset({tensors[a].dtype, tensors[b].dtype}):
        raise WeightsError(f"{where}: factors are {tensors[a].dtype} and {tensors[b].dtype}: save them as floats")
    return a, b


def stack_of(
    module: str, parts: Module, tensors: Mapping[str, TensorSpec], config: AdapterConfig, where: str
) -> tuple[int, int, float] | None:
    """How many experts a pair of factors is for, the rank and scaling of each; None for an ordinary module's.

    By the configuration's rank, as the base is not at hand. Raises WeightsError where that leaves it open.
    """
    keys = config.parameters_of(module)
    if not keys:
        return None
    a, _ = factors_on_parameter(parts, tensors, config, where)
    rows, ranks = tensors[a].shape[0], {config.rank_of(key) for key in keys}
    rank = ranks.pop() if len(ranks) == 1 else None
    if rank is None or rows % rank:
        raise WeightsError(f"{where}: {rows} rows of A are no whole number of experts of the rank that {CONFIG} has "
                           f"for {', '.join(keys)[:300]}: {FIX}")  # fmt: skip
    scalings = {config.scaling(key, rank) for key in keys}
    if len(scalings) > 1:
        raise WeightsError(f"{where} is {' or '.join(keys)[:300]}, whose alphas differ, and nothing tells which: {FIX}")
    return rows // rank, rank, scalings.pop()


def unpacked(total: int, a: Array, b: Array) -> list[tuple[Array, Array]]:
    """(rank, inputs) and (outputs, rank) of each expert."""
    right, left = a.reshape(total, -1, a.shape[-1]), b.reshape(b.shape[0], -1, total)
    return [(right[number], left[:, :, number]) for number in range(total)]


def packed(experts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The two factors of a stack from those of each expert, all of one rank."""
    import numpy as np

    a = np.concatenate([right for right, _ in experts])
    left = np.stack([left for _, left in experts], axis=-1)  # (outputs, rank, experts)
    return a, left.reshape(len(left), -1)


def _places(
    specs: Sequence[TensorSpec], outputs: int, inputs: int, where: str, base: Mapping[str, TensorSpec]
) -> list[tuple[str, Experts | None]]:  # fmt: skip
    """The tensors that make up a parameter, and what of the factors is theirs; nothing if the shapes differ."""
    if len(specs) == 1:
        (spec,) = specs
        if spec.shape == (outputs, inputs):
            return [(spec.name, None)]
        if len(spec.shape) != 3 or spec.shape[1:] not in ((outputs, inputs), (inputs, outputs)):
            return []
        if outputs == inputs and not _lies_by_inputs(spec, base):
            raise WeightsError(f"{where}: {spec.name} is a stack of square matrices, whose direction is unknown: {FIX}")
        return [(spec.name, Experts(spec.shape[0], transposed=spec.shape[1:] == (inputs, outputs)))]
    by_part: dict[str, dict[int, TensorSpec]] = {}
    for spec in specs:
        found = NUMBERED.fullmatch(spec.name)
        if found is None or len(spec.shape) != 2 or spec.shape[1] != inputs:
            return []
        by_part.setdefault(found[3], {})[int(found[2])] = spec
    order = next((pair for pair in SIDE_BY_SIDE if set(pair) == set(by_part)), tuple(by_part))
    total = len(by_part[order[0]]) if order else 0
    if (len(order) > 1 and order not in SIDE_BY_SIDE) or any(set(p) != set(range(total)) for p in by_part.values()):
        return []
    places: list[tuple[str, Experts | None]] = []
    at = 0
    for part in order:
        (shape, *others) = {spec.shape for spec in by_part[part].values()}
        if others:
            return []
        places += [(s.name, Experts(total, n, (at, at + shape[0]))) for n, s in sorted(by_part[part].items())]
        at += shape[0]
    return places if at == outputs else []


def _lies_by_inputs(square: TensorSpec, base: Mapping[str, TensorSpec]) -> bool:
    """Whether a stack of square matrices is one of (inputs, outputs): gates and ups beside it have twice the outputs.

    Every release of PEFT reads such a stack so.
    """
    total, size, _ = square.shape
    beside = base.get(f"{square.name.rpartition('.')[0]}.gate_up_proj")
    return beside is not None and beside.shape == (total, size, 2 * size)


def factors_of(experts: Experts, a: Array, b: Array, scaling: float) -> tuple[Array, Array]:
    """(rows, rank) and (rank, columns) of one expert, or both with the experts before; the left one holds `scaling`."""
    right = a.reshape((experts.total, -1, a.shape[-1]))  # (experts, rank, inputs)
    left = b.reshape((b.shape[0], -1, experts.total)) * scaling  # (outputs, rank, experts)
    if experts.number is not None:
        start, stop = experts.rows
        return left[start:stop, :, experts.number], right[experts.number]
    left = left.swapaxes(0, 2)  # (experts, rank, outputs)
    return (right.swapaxes(1, 2), left) if experts.transposed else (left.swapaxes(1, 2), right)
