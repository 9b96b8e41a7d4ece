"""Which of the base's tensors an adapter changes, and by what: from headers alone, before a weight is read.

Refused by name: DoRA whose norms run down the columns (embeddings, GPT-2's transposed layers), convolutions in
groups, modules that are changed in several ways, and of tensors that the base stores in several parts all but experts
(see adapter_experts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from math import prod
from typing import Literal

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter_config import FIX, AdapterConfig, first_match
from hub_fusion.weights.adapter_experts import Experts, plan_parameter
from hub_fusion.weights.adapter_modules import Module, modules_of, settle_ties
from hub_fusion.weights.checkpoint import FLOATS, TensorSpec
from hub_fusion.weights.names import MismatchError, kind_of

MAX_RANK = 1024  # or four times the smaller side, beyond which factors hold nothing that a smaller rank does not
MemoryNames = Callable[[], Mapping[str, list[str]]]


@dataclass(frozen=True)
class Target:
    """How one of the base's tensors changes: by factors (`a` and what goes with it), to the tensor `saved`, or both."""

    module: str
    a: str | None = None
    b: str | None = None
    scaling: float = 1.0
    transposed: bool = False
    saved: str | None = None
    kind: Literal["product", "scaled", "tokens", "shift"] = "product"
    magnitude: str | None = None  # of a DoRA
    along_rows: bool = True  # of an (IA)³
    tokens: tuple[int, ...] = ()  # rows that are replaced
    experts: Experts | None = None  # what of the factors is its own

    @property
    def has_direction(self) -> bool:
        """Whether fan_in_fan_out matters to it: PEFT's embeddings lie one way only."""
        return self.kind == "scaled" or bool(self.b and not self.b.endswith("lora_embedding_B"))

    @property
    def reads(self) -> tuple[str, ...]:
        """The adapter's tensors that it is made of."""
        return tuple(name for name in (self.a, self.b, self.magnitude, self.saved) if name)


def plan_adapter(
    config: AdapterConfig, tensors: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec], memory: MemoryNames
) -> dict[str, Target]:
    """The base's on-disk name → its change, from headers alone. Task heads are left out.

    `memory` gives the in-memory names of the base (asked once, if a target is not among the on-disk names).
    Raises MismatchError for targets the base does not have, or of the wrong shape, WeightsError for what is refused.
    """
    targets: dict[str, Target] = {}
    unknown: list[str] = []
    modules, memory = modules_of(tensors, config.kind), cache(memory)
    tops = _tops(base), cache(lambda: _tops(memory()))
    adapted = {_top(module) for module, parts in modules.items() if parts.factors}
    settle_ties(config, modules, base)
    for module, parts in modules.items():
        kinds = {kind_of(module), kind_of(module.partition(".")[2])}
        if "task" in kinds:
            continue
        stored_as = partial(_stored_as, base=base, memory=memory, tops=tops[0], memory_tops=tops[1])
        if found := plan_parameter(module, parts, tensors, base, config, stored_as):
            targets |= {f.name: Target(module, f.a, f.b, f.scaling, experts=f.experts) for f in found}
            continue
        for leaf, target in _changes(module, parts, tensors, config):
            name = _on_disk(f"{module}.{leaf}" if module else leaf, base, memory, *tops)
            if name is None and ("shared" in kinds or (target.a is None and _top(module) not in adapted)):
                continue  # a pooler or language-model head that the base does not have, or the adapter's own head
            if name is None:
                unknown.append(f"{module}.{leaf}"[:160])
                continue
            if target.kind == "scaled":
                targets |= _scaled(name, base, target, tensors, config)
                continue
            target = _turned(target, base[name], tensors)
            _check_shape(name, base[name], target, tensors)
            targets[name] = target
    if unknown or not targets:
        detail = ", ".join(sorted(unknown)[:3]) or "no target at all"
        raise MismatchError("architecture_mismatch", f"{len(unknown)} targets are not tensors of the base ({detail})")
    _check_directions(targets, base, config)
    return targets


def _changes(
    module: str, parts: Module, tensors: Mapping[str, TensorSpec], config: AdapterConfig
) -> Iterator[tuple[str, Target]]:
    factors, leaves = dict(parts.factors), dict(parts.leaves)
    magnitude = factors.pop("lora_magnitude_vector", None)
    shift = factors.pop("lora_B.bias", None)
    pairs = [(kind, flip) for kind, flip in (("lora_", config.fan_in_fan_out), ("lora_embedding_", True))
             if f"{kind}A" in factors or f"{kind}B" in factors]  # fmt: skip
    where = f"adapter module {module[:200]!r}"
    if len(pairs) + ("ia3_l" in factors) + ("trainable_tokens_delta" in factors) > 1:
        raise WeightsError(f"{where} is changed in several ways ({', '.join(factors)}): {FIX}")
    if (magnitude is None) == (config.dora and bool(pairs)):
        raise WeightsError(f"{where}: use_dora is {config.dora}, but it has {'a' if magnitude else 'no'} magnitude")
    for kind, flip in pairs:
        rank = check_factors(where, factors.get(f"{kind}A"), factors.get(f"{kind}B"), kind, tensors)
        scaling = config.scaling(module, rank)
        yield "weight", Target(module, factors[f"{kind}A"], factors[f"{kind}B"], scaling, flip,
                               leaves.pop("weight", None), magnitude=magnitude)  # fmt: skip
        if shift:
            yield "bias", Target(module, shift, scaling=scaling, saved=leaves.pop("bias", None), kind="shift")
    if "ia3_l" in factors:
        yield "weight", Target(module, factors["ia3_l"], kind="scaled", saved=leaves.pop("weight", None))
    if delta := factors.get("trainable_tokens_delta"):
        yield "weight", Target(module, delta, kind="tokens", tokens=_rows_of(module, config),
                               saved=leaves.pop("weight", None))  # fmt: skip
    for leaf, name in leaves.items():
        yield leaf, Target(module, saved=name)


def check_factors(where: str, a: str | None, b: str | None, kind: str, tensors: Mapping[str, TensorSpec]) -> int:
    """The rank of a pair of factors. Raises WeightsError if they are no pair."""
    if a is None or b is None:
        raise WeightsError(f"{where} has only one of {kind}A and {kind}B")
    first, second = tensors[a].shape, tensors[b].shape
    if len(first) < 2 or len(first) != len(second) or prod(second[2:]) != 1:
        raise WeightsError(f"{where} is neither a linear layer nor a convolution: A is {first}, B is {second}")
    rank = first[0]
    if not rank or second[1] != rank or not prod(first) or not prod(second):
        raise WeightsError(f"{where}: A is {first}, B is {second}")
    most = max(4 * min(prod(first[1:]), second[0]), MAX_RANK)
    if rank > most:
        raise WeightsError(f"{where} has rank {rank}; its shape allows {most}: {FIX}")
    return rank


def _rows_of(module: str, config: AdapterConfig) -> tuple[int, ...]:
    return config.tokens.get(first_match(config.tokens, module) or "", ())


def _scaled(
    name: str, base: Mapping[str, TensorSpec], target: Target, tensors: Mapping[str, TensorSpec], config: AdapterConfig
) -> dict[str, Target]:
    """(IA)³ on a weight, and on its bias where outputs are scaled."""
    shape, given = base[name].shape, tensors[str(target.a)].shape
    size, feedforward = prod(given), any(target.module.endswith(end) for end in config.feedforward or ())
    if len(given) == 2 and len(shape) == 2 and size > 1:
        feedforward = given[0] == 1  # PEFT shapes the vector like the side it scales
    elif config.feedforward is None or len(given) == 2:
        raise WeightsError(f"adapter module {target.module[:200]!r}: whether (IA)³ scales inputs or outputs is unknown "
                           f"(a vector of shape {given}, feedforward_modules is no list): {FIX}")  # fmt: skip
    fits = [rows for rows in (True, False) if len(shape) > 1 and shape[0 if rows else 1] == size]
    turned = config.fan_in_fan_out if len(fits) != 1 else fits[0] == feedforward
    if len(shape) != 2:
        turned, fits = False, [rows for rows in fits if rows != feedforward]
    target = replace(target, along_rows=feedforward == turned, transposed=turned)
    dtypes = {tensors[read].dtype for read in target.reads}
    if not fits or not FLOATS.issuperset(dtypes) or (target.saved and tensors[target.saved].shape != shape):
        raise MismatchError("shape_mismatch", f"{name}: the adapter gives {list(given)}, the base has {list(shape)}")
    bias = f"{name.removesuffix('weight')}bias"
    if feedforward or bias not in base:
        return {name: target}
    return {name: target, bias: Target(target.module, target.a, kind="scaled")}


def _on_disk(
    name: str, base: Mapping[str, TensorSpec], memory: MemoryNames, tops: list[str],
    memory_tops: Callable[[], list[str]],
) -> str | None:  # fmt: skip
    """The base's tensor for a name in memory, if there is one."""
    found = _stored_as(name, base, memory, tops, memory_tops)
    if len(found) > 1:
        raise WeightsError(f"adapter target {name!r} is stored as {found} in the base: cannot be fused yet")
    return found[0] if found else None


def _stored_as(
    name: str, base: Mapping[str, TensorSpec], memory: MemoryNames, tops: list[str],
    memory_tops: Callable[[], list[str]],
) -> list[str]:  # fmt: skip
    """The base's tensors for a name in memory, also where the adapter's model had a prefix that the base lacks."""
    short = name.partition(".")[2]
    for candidate in (name, short, *(f"{top}.{name}" for top in tops)):
        if candidate in base:
            return [candidate]
    known = memory()
    for candidate in (name, short, *(f"{top}.{name}" for top in memory_tops())):
        if candidate in known:
            return known[candidate]
    return []


def _top(name: str) -> str:
    return name.partition(".")[0]


def _tops(names: Iterable[str]) -> list[str]:
    return sorted({_top(name) for name in names})


def _turned(target: Target, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> Target:
    """The target with `transposed` as the shapes tell it, where they do: PEFT's fan_in_fan_out is the last layer's."""
    if target.b is None or target.a is None:
        return target
    if len(tensors[target.a].shape) > 2 or target.a.endswith("lora_embedding_A"):
        return replace(target, transposed=len(tensors[target.a].shape) == 2)
    straight = (tensors[target.b].shape[0], tensors[target.a].shape[1])
    fits = [turned for turned, shape in ((False, straight), (True, straight[::-1])) if shape == spec.shape]
    return replace(target, transposed=fits[0]) if len(fits) == 1 else target


def _check_directions(targets: Mapping[str, Target], base: Mapping[str, TensorSpec], config: AdapterConfig) -> None:
    """Where some layers contradict fan_in_fan_out, nothing tells the direction of a square one."""
    linear = {name: t for name, t in targets.items() if len(base[name].shape) == 2 and t.has_direction}
    square = [name for name in linear if base[name].shape[0] == base[name].shape[1]]
    if square and any(t.transposed != config.fan_in_fan_out for t in linear.values()):
        raise WeightsError(f"the adapter's fan_in_fan_out is not that of all its layers, so that of the square "
                           f"{square[0]} is unknown: {FIX}")  # fmt: skip


def _check_shape(name: str, spec: TensorSpec, target: Target, tensors: Mapping[str, TensorSpec]) -> None:
    shapes = [tensors[target.saved].shape] if target.saved else []
    if target.kind == "product" and target.a and target.b:
        (rows, *_), (_, *columns) = tensors[target.b].shape, tensors[target.a].shape
        shapes.append((*columns, rows) if target.transposed else (rows, *columns))
    elif target.kind == "tokens" and target.a:
        shapes.append((spec.shape[0], *tensors[target.a].shape[1:]))
        if tensors[target.a].shape[0] != len(target.tokens) or max(target.tokens, default=0) >= spec.shape[0]:
            raise MismatchError(
                "shape_mismatch",
                f"{name}: the adapter replaces {len(target.tokens)} rows up to {max(target.tokens, default=0)} by "
                f"{list(tensors[target.a].shape)}, the base has {list(spec.shape)}",
            )
    elif target.a:
        shapes.append(tensors[target.a].shape)
    if target.magnitude and target.transposed:
        raise WeightsError(f"adapter module {target.module[:200]!r}: DoRA's norms run down the columns of {name} (an "
                           f"embedding or a transposed layer), which cannot be fused by rows: {FIX}")  # fmt: skip
    if target.magnitude and prod(tensors[target.magnitude].shape) != spec.shape[0]:
        shapes.append(tensors[target.magnitude].shape)
    dtypes = sorted({tensors[n].dtype for n in target.reads})
    if any(shape != spec.shape for shape in shapes) or not FLOATS.issuperset(dtypes):
        given = f"{list(shapes[-1])} in {', '.join(dtypes)}"
        raise MismatchError("shape_mismatch", f"{name}: the adapter gives {given}, the base has {list(spec.shape)}")
