"""How long a fuse will take on this machine, from timing one block of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hub_fusion.weights.names import kind_of
from hub_fusion.weights.places import HubFolder
from hub_fusion.weights.tensors import TensorWork, works_of

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.plan import OpenPlan

PASS_SHARE = {"keep": 2.5, "gram": 1.0}  # what a threshold or a Gram matrix costs, as a share of merging


def expected_seconds(opened: OpenPlan, compute: Compute) -> float | None:
    """Seconds of the fuse in one process of this machine, to within a factor of two or so.

    None where that cannot be told from one block: for sources that are on the Hub, and for methods that take whole
    tensors. One block is read, merged and thrown away.
    """
    places = [p for s in opened.plan.sources for p in (s.folder, s.origin)]
    if opened.formula.method.whole or any(isinstance(p, HubFolder) for p in places):
        return None
    arithmetic = compute.arithmetic(opened.formula, opened.plan)
    works = [w for w in works_of(opened, arithmetic.elements) if w.taking and w.blocks]
    body = [w for w in works if kind_of(w.name) == "body"]
    if not body or opened.formula.method.inputs & {"fisher", "gram"}:
        return None
    sample = max(body, key=_elements)
    with compute.one_thread_each(torch_too=not arithmetic.twin):
        for _ in range(2):  # the first time code is loaded and files are opened
            began = time.perf_counter()
            arithmetic.fuse(sample, opened.base, *sample.blocks[0])
            seconds = time.perf_counter() - began
    rate = seconds / _elements(sample)
    passes = 1 + sum(share for name, share in PASS_SHARE.items() if name in opened.formula.method.inputs)
    total = sum(w.size * len(w.taking) for w in works) * rate * passes
    blocks = sum(len(w.blocks) for w in works) * 100e-6  # of the interpreter, which threads do not share
    return max(total / compute.threads, blocks)


def _elements(work: TensorWork) -> int:
    """Of the first block, of all contributions together."""
    first, last = work.range(*work.blocks[0])
    return (last - first) * len(work.taking)
