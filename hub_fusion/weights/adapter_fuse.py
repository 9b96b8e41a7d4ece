"""Adapters of one frozen base → one adapter, which ``PeftModel.from_pretrained(base_model, folder)`` loads.

The cheap road for large bases: only factors are read, module by module, and no dense change is ever made. With weights
wᵢ that add up to 1 the aim is the mean change Σ wᵢ·ΔWᵢ; a module that an adapter does not have counts as no change.

* ``cat``: exactly that mean, with rank Σr.
* ``svd``: its best approximation of a given rank; the report says what it costs.
* ``average``: A and B averaged by themselves (Poly-μ), same modules, ranks and scalings; cross terms, see the report.
* Stacks of experts (``target_parameters``), the same ones in all adapters: each of these expert by expert.
* (IA)³: the mean of l − 1 (`average`, which is exact).
* Soft prompts: the mean prompt (`average`), and only of prompts with one beginning, see adapter_prompt.py.

Refused by name: what needs the base's weights (adapter_members.py), kinds mixed, LoRA variants.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import MergeError, WeightsError
from hub_fusion.weights.adapter_config import PROMPTS, read_config
from hub_fusion.weights.adapter_members import Member, check_members, common_config
from hub_fusion.weights.adapter_plan import MAX_RANK
from hub_fusion.weights.adapter_prompt import fuse_prompts
from hub_fusion.weights.adapter_result import AdapterMethod, FusedIa3, FusedLora
from hub_fusion.weights.adapter_write import WEIGHTS, write_adapter
from hub_fusion.weights.local import checkpoint_folder, contribution_keys

if TYPE_CHECKING:
    from hub_fusion.hub import Hub

METHODS: tuple[AdapterMethod, ...] = ("cat", "average", "svd")


@dataclass(frozen=True)
class AdapterReport:
    """What came of it. `error` is ‖result − Σ wᵢ·ΔWᵢ‖ over ‖Σ wᵢ·ΔWᵢ‖, over all modules together."""

    out: Path
    kind: str
    method: AdapterMethod
    rank: int | None  # the largest
    modules: int
    error: float
    worst: tuple[str, float] | None  # the module where most is lost, and how much of it
    norm: float | None  # ‖Σ wᵢ·ΔWᵢ‖, of LoRA
    files: dict[str, str]  # weight file → sha256
    bytes_written: int
    dropped: tuple[str, ...]  # task heads left out
    seconds: float


@dataclass(frozen=True)
class Part:
    """One adapter of a fuse; coefficients may be negative and need not add up to 1.

    `names` maps its modules to the names that all parts share; None where they have these already.
    """

    key: str
    folder: Path
    coefficient: float
    names: Mapping[str, str] | None = None


def fuse_adapters(
    adapters: Sequence[str | Path], out: str | Path, *, method: AdapterMethod | None = None, rank: int | None = None,
    weights: Sequence[float] | None = None, base: str | None = None, hub: Hub | None = None,
) -> AdapterReport:  # fmt: skip
    """Fuse PEFT adapters of one frozen base into one adapter in the folder `out`.

    `adapters` are folders, or repositories as ``user/adapter[@revision]``. `method` is cat by default, for (IA)³ and
    prompts average; `rank` is svd's, by default the largest of the adapters'. `weights` are relative and equal by
    default. `base` is written into the configuration, by default what the adapters name. Raises WeightsError,
    MergeError, HubError.

    Example:
        >>> fuse_adapters(["ann/lora", "bob/lora"], Path("fused"), method="svd", rank=16).error
        0.031
    """
    if weights is not None and len(weights) != len(adapters):
        raise MergeError(f"{len(adapters)} adapters need as many weights, not {len(weights)}")
    shares = list(weights) if weights is not None else [1.0] * len(adapters)
    if not adapters or any(not 0 <= w < math.inf for w in shares) or not 0 < sum(shares) < math.inf:
        raise MergeError(f"give adapters, with finite weights that are not negative and not all zero: {shares}")
    if method not in (None, *METHODS):
        raise MergeError(f"there is no method {method!r} for adapters; there are {', '.join(METHODS)}")
    if rank is not None and (method != "svd" or not 0 < rank <= MAX_RANK):
        raise MergeError(f"a rank from 1 to {MAX_RANK} goes with the method svd, not {rank} with {method}")
    folders = [checkpoint_folder(str(adapter), hub) for adapter in adapters]
    keys = contribution_keys(adapters, folders)
    if len(set(keys)) != len(keys):
        raise WeightsError(f"an adapter is named twice: {', '.join(sorted(k for k in keys if keys.count(k) > 1))}")
    parts = [Part(key, folder, share / sum(shares)) for key, folder, share in zip(keys, folders, shares, strict=True)]
    return combine(parts, Path(out), method=method, rank=rank, base=base)


def combine(
    parts: Sequence[Part], out: Path, *, method: AdapterMethod | None = None, rank: int | None = None,
    base: str | None = None,
) -> AdapterReport:  # fmt: skip
    """Σ cᵢ·ΔWᵢ as one adapter in `out`, in the order of the keys. Raises WeightsError before `out` is touched."""
    began = time.monotonic()
    if out.resolve() in {part.folder.resolve() for part in parts}:
        raise WeightsError(f"{out} is an input: choose another output folder")
    if out.exists() and not out.is_dir():
        raise WeightsError(f"{out} is not a folder: choose another output folder")
    parts = sorted((part for part in parts if part.coefficient), key=lambda part: part.key)
    configs = {part.key: read_config(part.folder) for part in parts}
    if any(str(config.get("peft_type")).upper() in PROMPTS for config in configs.values()):
        _only_average(method, "a soft prompt")
        coefficients = [(part.key, part.folder, part.coefficient) for part in parts]
        digest, size, shape = fuse_prompts(coefficients, configs, out, base)
        return AdapterReport(out, "PROMPT", "average", None, shape[0], 0.0, None, None, {WEIGHTS: digest}, size, (),
                             time.monotonic() - began)  # fmt: skip
    members = [Member.open(part.key, part.folder, part.coefficient, part.names) for part in parts]
    check_members(members)
    kind = members[0].config.kind
    result: FusedIa3 | FusedLora
    common = common_config([m.config for m in members], base)
    if kind == "IA3":
        _only_average(method, "(IA)³")
        result = FusedIa3(members)
    else:
        result = FusedLora(members, method or "cat", rank)
    digest, size = write_adapter(out, result.shapes, result.tensors(), result.config(common))
    error, worst, largest, norm = result.cost()
    dropped = tuple(sorted({name for m in members for name in m.dropped}))
    return AdapterReport(out, kind, "average" if kind == "IA3" else method or "cat", largest, len(result.modules),
                         error, worst, norm, {WEIGHTS: digest}, size, dropped, time.monotonic() - began)  # fmt: skip


def _only_average(method: str | None, what: str) -> None:
    if method not in (None, "average"):
        raise MergeError(f"{what} has no factors that {method} could work on: leave --method out, or say average")
