"""Axes: round ticks that hold all values, and which labels have room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from at most `low` to at least `high`, two or more, about `most` at most."""
    for step in STEPS:
        first, last = int(low // step), -int(-high // step)
        if last - first <= most:
            return [round(n * step, 4) for n in range(first, max(last, first + 1) + 1)]
    return [round(low + (high - low) * n / 4, 4) for n in range(5)] if high > low else [low, low + 1]


@dataclass(frozen=True)
class Axis:
    """A linear scale: `start` in data is drawn at `near`, `end` at `far`."""

    start: float
    end: float
    near: float
    far: float

    def __call__(self, value: float) -> float:
        """Where `value` is drawn, in the chart's units, rounded to a tenth."""
        return round(self.near + (value - self.start) / (self.end - self.start) * (self.far - self.near), 1)


def thinned(count: int, room: int) -> list[int]:
    """The places of at most about `room` of `count` labels; the last is always among them."""
    every = max(1, -(-count // max(1, room)))
    return [n for n in range(count) if (count - 1 - n) % every == 0]


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Points as SVG writes them."""
    return " ".join(f"{x},{y}" for x, y in points)
