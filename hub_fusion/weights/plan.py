"""The plan of a fuse, from headers alone: what is read, what is written, what it needs; impossible ones end here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hub_fusion import __version__
from hub_fusion.errors import HubFusionError, WeightsError
from hub_fusion.merge import BoundMethod, find_method
from hub_fusion.merge.method import STATISTICS
from hub_fusion.weights.adapter_config import CONFIG
from hub_fusion.weights.added_rows import Added, plan_added, plan_tokens
from hub_fusion.weights.checkpoint import FLOATS, WRITABLE, Checkpoint, TensorSpec
from hub_fusion.weights.deltas import Deltas, Source, sharing_opener
from hub_fusion.weights.journal import plan_id
from hub_fusion.weights.kinds import quantized_names
from hub_fusion.weights.names import LEFT_OUT, MismatchError, kind_of, some
from hub_fusion.weights.residual import open_residual, plan_residual
from hub_fusion.weights.statistics import check, turned_names
from hub_fusion.weights.writer import plan_layout

if TYPE_CHECKING:
    from hub_fusion.records import AddedToken
    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.places import Place
    from hub_fusion.weights.tensors import TensorWork

PROGRAM_BYTES = 100_000_000  # interpreter, numpy and compiled code; torch, for methods without any, brings 150 MB more


@dataclass(frozen=True)
class FusePlan:
    """Everything that decides the bytes of a fused checkpoint."""

    base: Place
    out: Path
    sources: tuple[Source, ...]
    method: str = "mean"
    options: Mapping[str, Any] = field(default_factory=dict)
    step: float = 1.0  # part of the way from the base to the merged model
    heads: Literal["drop", "keep"] = "drop"
    dtype: str | None = None  # safetensors name of the output's float dtype; None: the base's
    seed: int = 0  # of methods with randomness
    residual: bool = False  # keep what rounding to 16 bits lost, for the next fuse
    vocab: Literal["drop", "keep"] = "drop"  # all rows of tokens that the base lacks
    tokens: tuple[AddedToken, ...] = ()  # or just those of these tokens, of finetunes


@dataclass(frozen=True)
class OpenPlan:
    """A plan whose headers have been read and found to fit together; sources in canonical order."""

    plan: FusePlan
    formula: BoundMethod
    base: Checkpoint
    deltas: list[Deltas]
    dropped: tuple[str, ...]  # task heads
    layout: dict[str, list[TensorSpec]]  # output file → its tensors
    kept: dict[str, list[TensorSpec]] = field(default_factory=dict)  # the same of the residual that is written
    residual: Checkpoint | None = None  # of the base
    added: Added | None = None  # rows of tokens that the base lacks
    turned: frozenset[str] = frozenset()  # linear layers' weights that are stored (in, out), where the method asks

    @cached_property
    def specs(self) -> list[TensorSpec]:
        """All tensors of the output, in the order of the files."""
        return [spec for file in self.layout.values() for spec in file]

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the contributions is not used, or used under another name."""
        found = (f"{d.source.key}: {note}" for d in self.deltas for note in d.notes)
        kept = {key for token in self.plan.tokens for key in token.rows}
        all_kept = self.added and not self.plan.tokens
        return tuple(note.replace(LEFT_OUT, "are kept") if all_kept or note.partition(": ")[0] in kept else note
                     for note in found)  # fmt: skip

    @cached_property
    def id(self) -> str:
        """What a killed fuse must have in common with the one that goes on: everything that decides the bytes."""
        plan = self.plan
        inputs = [
            [
                d.source.key,
                d.source.relation,
                d.source.weight,
                d.source.scale,
                repr(sorted(d.targets.items())),
                *map(identity, (d.files, d.origin, *([d.statistics.files] if d.statistics else []))),
            ]
            for d in self.deltas
        ]
        rest = [plan.method, dict(plan.options), plan.step, plan.heads, plan.dtype, plan.seed, identity(self.base)]
        kept = [list(self.kept), identity(self.residual) if self.residual else None]
        tokens = [token.model_dump() for token in plan.tokens]
        return plan_id([__version__, inputs, rest, kept, [vars(spec) for spec in self.specs], tokens])


def open_plan(plan: FusePlan) -> OpenPlan:
    """Read all headers and check everything. Raises WeightsError, listing all offenders, or MergeError."""
    formula = find_method(plan.method).bind(plan.options)
    sources = sorted(plan.sources, key=lambda s: s.key)
    _check(plan, sources, formula)
    opener = sharing_opener()
    base, opened, faults = opener(plan.base), list[Deltas](), list[HubFusionError]()
    _check_base(base, plan)
    for source in sources:
        try:
            opened.append(Deltas(source, base, plan.base, opener))
        except WeightsError as error:
            faults.append(_named(source, error))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise WeightsError(f"{len(faults)} contributions do not fit: " + "; ".join(map(str, faults)))
    asks = "activations" in formula.method.inputs
    turned = turned_names((plan.base / "config.json").read_text, base) if asks else frozenset[str]()
    _check_statistics(formula, opened, turned)
    dropped = tuple(sorted(n for n in base if plan.heads == "drop" and kind_of(n) == "task"))
    added = plan_added(base, opened, dropped, plan.base) if plan.vocab == "keep" else None
    if plan.tokens:
        added = plan_tokens(base, opened, dropped, plan.tokens)
    layout = plan_layout(base, dropped, plan.dtype, added.more if added else None)
    kept = plan_residual(layout) if plan.residual else {}
    return OpenPlan(plan, formula, base, opened, dropped, layout, kept,
                    open_residual(base, plan.base), added, turned)  # fmt: skip


def _named(source: Source, error: WeightsError) -> WeightsError:
    """The error, which says first whose it is."""
    if str(error).startswith((source.key, str(source.folder))):
        return error
    told = f"{source.key}: {error}"
    return MismatchError(error.code, told) if isinstance(error, MismatchError) else WeightsError(told)


def identity(checkpoint: Checkpoint) -> list[Any]:
    """What tells a checkpoint from another one without reading it: its files, their sizes and times."""
    known = getattr(checkpoint.store, "identity", None)
    if known is not None:
        return list(known)
    paths = [checkpoint.folder / file for file in checkpoint.files]
    return [[str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in paths]


def describe(plan: FusePlan, compute: Compute | None = None) -> dict[str, Any]:
    """What a plan would read, write and need, from headers. Raises as `fuse` does before it reads weights.

    With `compute`, whose threads count, one block is tried out to tell how long it will take.
    """
    from hub_fusion.weights.estimate import expected_seconds
    from hub_fusion.weights.tensors import works_of
    from hub_fusion.weights.twins import block_elements

    opened = open_plan(plan)
    works = works_of(opened, block_elements(opened.formula))
    return {
        "method": plan.method,
        "step": plan.step,
        "tensors": len(opened.specs),
        "bytes": sum(s.size_bytes for s in opened.specs),
        "residual_bytes": sum(s.size_bytes for specs in opened.kept.values() for s in specs),
        "dropped": list(opened.dropped),
        "notes": list(opened.notes),
        "memory_bytes": memory_bytes(works, compute.threads if compute else 1),
        "seconds": expected_seconds(opened, compute) if compute else None,
        "sources": [{"key": d.source.key, "relation": d.source.relation, "weight": d.source.weight,
                     "scale": d.source.scale, "bytes": sum(d.files[n].size_bytes for n in d.used)}
                    for d in opened.deltas],
    }  # fmt: skip


def memory_bytes(works: list[TensorWork], threads: int = 1) -> int:
    """About how much private memory a fuse takes: deltas of all contributions, a few buffers as long, the program."""
    largest = max((_elements(w) for w in works if w.blocks), default=0)
    factors = max((sum(prod(d.files[n].shape) for d in w.taking if (t := d.targets.get(w.name)) and t.a
                       for n in t.reads) for w in works), default=0)  # fmt: skip
    return PROGRAM_BYTES + 4 * (threads * largest + 2 * factors)


def _elements(work: TensorWork) -> int:
    """How many float32 a thread holds for a tensor."""
    most = max(stop - start for start, stop in work.blocks) * work.columns
    if not work.one_by_one:
        return most * (len(work.taking) + 6)
    inputs = work.stored.shape[0 if work.turned else -1]
    return 10 * most + 10 * inputs**2  # an array or two in float32, four in float64, of the tensor and of Gram matrices


def _check_statistics(formula: BoundMethod, opened: list[Deltas], turned: frozenset[str]) -> None:
    """A method that asks for statistics needs some from everybody, unless its option `missing` says otherwise.

    Shapes are those of the tensors they belong to.
    """
    kinds = sorted(formula.method.inputs & STATISTICS)
    for kind in kinds if formula.settings.get("missing") != "pool" else ():
        lacking = [d.source.key for d in opened if not (d.statistics and d.statistics.has(kind))]
        if lacking:
            raise WeightsError(f"{formula.method.name} needs {kind} statistics (fusion/statistics.safetensors) of "
                               f"every contribution; {', '.join(lacking[:5])} have none: compute them (hub-fusion "
                               "statistics), set the option missing to pool, or fuse by mean")  # fmt: skip
    for d in opened if kinds else ():
        if d.statistics is not None:
            own, origin = {n: d.own_name(n) for n in d.origin}, d.origin.whole
            shapes = {o: origin[n].shape for n, o in own.items()} | {n: s.shape for n, s in d.files.whole.items()}
            try:
                check(d.statistics.files, d.statistics.shared, shapes, {own[n] for n in turned if n in own})
            except WeightsError as error:
                raise WeightsError(f"{d.source.key}: {error}") from None


def _check(plan: FusePlan, sources: list[Source], formula: BoundMethod) -> None:
    keys = [s.key for s in sources]
    if not keys:
        raise WeightsError("nothing to fuse: give at least one contribution")
    if len(set(keys)) != len(keys):
        raise WeightsError(f"a contribution is named twice: {', '.join(sorted(k for k in keys if keys.count(k) > 1))}")
    weights = [s.weight for s in sources]
    if not 0 < sum(map(abs, weights)) < math.inf:
        raise WeightsError(f"weights and their sum must be finite and not all zero: {weights}")
    if any(w < 0 for w in weights) and not formula.method.signed:
        raise WeightsError(f"weights of {plan.method} are not negative: {weights}; task_arithmetic takes them")
    if any(not 0 <= s.scale < math.inf for s in sources) or not 0 < plan.step <= 1:
        scales = [s.scale for s in sources]
        raise WeightsError(f"scales are finite and not negative, the step is in (0, 1]: {scales}, {plan.step}")
    if plan.dtype is not None and plan.dtype not in WRITABLE:
        raise WeightsError(f"there is no output dtype {plan.dtype!r}; there are {', '.join(sorted(WRITABLE))}")
    if plan.out.resolve() in {p.resolve() for s in sources for p in (s.folder, s.origin)} | {plan.base.resolve()}:
        raise WeightsError(f"{plan.out} is an input: choose another output folder")
    if plan.out.exists() and not plan.out.is_dir():
        raise WeightsError(f"{plan.out} is not a folder: choose another output folder")
    if (plan.out / CONFIG).exists():
        raise WeightsError(f"{plan.out} holds an adapter, which from_pretrained would put on top of the result: "
                           "choose another output folder")  # fmt: skip


def _check_base(base: Checkpoint, plan: FusePlan) -> None:
    if found := quantized_names(base):
        raise WeightsError(f"{plan.base} is quantised: {len(found)} tensors are scales and the like ({some(found)}); "
                           "fuse into the model in 16 or 32 bits, and quantise the result")  # fmt: skip
    eight = sorted(name for name, spec in base.items() if spec.dtype in FLOATS - WRITABLE)
    if eight and plan.dtype is None:
        stored = f"{plan.base} stores {len(eight)} tensors as {base[eight[0]].dtype}"
        raise WeightsError(f"{stored}, in which sums lose what training changed: ask for another output dtype (--dtype "
                           "bf16, fp16 or fp32)")  # fmt: skip
