"""What must be known of whole task vectors before the first tensor is merged: thresholds, and norms of statistics.

Each process surveys its share of the contributions, several at once; all of them learn everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hub_fusion.errors import WeightsError
from hub_fusion.weights.cuts import Cut
from hub_fusion.weights.deltas import Deltas

if TYPE_CHECKING:
    from hub_fusion.weights.arithmetic import Arithmetic
    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.tensors import TensorWork

T = TypeVar("T")


def survey(arithmetic: Arithmetic, works: Sequence[TensorWork], compute: Compute) -> None:
    """Give all tensors of the output what their method asks for. Raises WeightsError for statistics that cannot be."""
    contributions = list({id(d): d for work in works for d in work.taking}.values())
    threads = arithmetic.threads(compute.threads)
    if arithmetic.over_model and "keep" in arithmetic.formula.method.inputs:
        _spread(works, contributions, _of_all(partial(_cuts, arithmetic, works), contributions, compute, threads))
    if "fisher" in arithmetic.formula.method.inputs:
        norms = _of_all(partial(_norm, arithmetic), contributions, compute, threads)
        arithmetic.norms = {d.source.key: norm for d, norm in zip(contributions, norms, strict=True)}


def _of_all(look: Callable[[Deltas], T], contributions: Sequence[Deltas], compute: Compute, threads: int) -> list[T]:
    """``look(contribution)`` of each, whoever does it."""
    mine = range(compute.rank, len(contributions), compute.processes)
    with ThreadPoolExecutor(threads) as pool:
        found = list(zip(mine, pool.map(look, [contributions[i] for i in mine]), strict=True))
    everything = dict(pair for pairs in compute.gather(found) for pair in pairs)
    return [everything[i] for i in range(len(contributions))]


def _cuts(arithmetic: Arithmetic, works: Sequence[TensorWork], contribution: Deltas) -> tuple[Cut, Cut]:
    """The thresholds of a whole task vector: its tensors one after another, in the order of the output's files."""
    places = [(work, i) for work in works for i, d in enumerate(work.taking) if d is contribution]
    size = sum(work.size for work, _ in places)

    def blocks() -> Iterator[np.ndarray]:
        for work, i in places:
            try:
                yield from arithmetic.blocks(work, i)
            finally:
                contribution.forget(work.name)  # factors of a whole adapter may be many

    return arithmetic.thresholds(blocks, arithmetic.formula.ranks(size), size)


def _spread(works: Sequence[TensorWork], contributions: Sequence[Deltas], cuts: Sequence[tuple[Cut, Cut]]) -> None:
    """Tell every tensor the thresholds, counted from its own first element."""
    of = {id(d): pair for d, pair in zip(contributions, cuts, strict=True)}
    passed = dict.fromkeys(of, 0)
    for work in works:
        for i, d in enumerate(work.taking):
            lead, last = of[id(d)]
            at = passed[id(d)]
            work.cuts[i] = replace(lead, index=lead.index - at), replace(last, index=last.index - at)
            passed[id(d)] += work.size


def _norm(arithmetic: Arithmetic, contribution: Deltas) -> float:
    """The L2 norm of a contribution's whole Fisher information."""
    if contribution.statistics is None:
        return 1.0
    files, total = contribution.statistics.files, 0.0
    for name in (n for n in files if n.startswith("fisher/")):
        values = arithmetic.whole(files, name)
        if not np.isfinite(values).all() or (values < 0).any():
            raise WeightsError(f"{files.folder}: {name} must be finite and not negative: compute it again")
        total += float((values.astype(np.float64) ** 2).sum())
    return float(total**0.5) or 1.0
