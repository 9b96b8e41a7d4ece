"""The straight line between two checkpoints, and the barrier on it.

A picture for people, never a gate: the shape of the path says little about how good its ends are (Vlaar and Frankle
2022, arXiv 2106.16004, for networks trained from scratch on images). At every point everything that is not body is made
anew: a probe or a head is fitted to that point, so the line is that of bodies, and ends with different heads compare.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import RecordError
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute


def points(count: int) -> list[float]:
    """`count` evenly spaced numbers from 0 to 1, both ends among them."""
    if count < 2:
        raise RecordError(f"a path has two ends, so at least 2 points, not {count}")
    return [i / (count - 1) for i in range(count)]


def interpolate(first: Path, second: Path, at: float, out: Path, compute: Compute) -> Path:
    """The checkpoint (1 − at)·first + at·second in the folder `out`, in float32; heads that differ are left out.

    Raises WeightsError if the two do not have the same body.
    """
    shutil.rmtree(out, ignore_errors=True)
    source = Source("second", second if at else first, first)
    plan = FusePlan(first, out, (source,), step=at or 1.0, dtype="F32")
    compute.together(fuse, plan)
    return out


def accuracies_along(
    first: Path, second: Path, work: Path, compute: Compute, accuracy: Callable[[Path], float], count: int = 5
) -> list[float]:
    """``accuracy(folder)`` at `count` points of the line, the ends among them; `work` holds one point at a time."""
    found = []
    for at in points(count):
        found.append(accuracy(interpolate(first, second, at, work / "point", compute)))
        shutil.rmtree(work / "point")
    return found


def barrier(accuracies: Sequence[float]) -> float:
    """How far the accuracy falls below the chord between its ends, at the worst of evenly spaced points; 0 if nowhere.

    The error barrier of Entezari et al. 2022 (arXiv 2110.06296) with the chord in place of the ends' mean, which is
    right where the ends differ, as those of different tasks do. Example: 0.8, 0.6, 0.9 gives 0.25.
    """
    last = len(accuracies) - 1
    if last < 1:
        raise RecordError(f"a barrier needs the accuracies of both ends, not {len(accuracies)} of them")
    chord = [((last - i) * accuracies[0] + i * accuracies[-1]) / last for i in range(last + 1)]
    return max(0.0, *(c - a for c, a in zip(chord, accuracies, strict=True)))


def instability(accuracies: Sequence[float]) -> float:
    """The same with the mean of both ends in place of the chord: Frankle et al. 2020, arXiv 1912.05671, section 2.

    Networks count as stable below 0.02. It can be positive without a fall: ends 0.5 and 0.9 give 0.2.
    """
    return (accuracies[0] + accuracies[-1]) / 2 - min(accuracies)
