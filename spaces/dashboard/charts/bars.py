"""Diverging bars: changes in points around zero, as shares of a row's width, with an interval where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lineage import Score


def diverging(changes: Sequence[tuple[str, Score]]) -> list[dict[str, Any]]:
    """For every change where its bar starts, how long it is and where its interval lies, in percent of the width.

    Zero is where the smallest and the largest end of all rows leave it, so that nothing is cut off.
    """
    low = min([0.0, *(min(s.low, s.mean) for _, s in changes)])
    high = max([0.0, *(max(s.high, s.mean) for _, s in changes)])
    length = (high - low) or 1.0

    def place(value: float) -> float:
        return round(2 + 96 * (value - low) / length, 2)

    zero = place(0.0)
    return [
        {"name": name, "score": s, "zero": zero, "start": min(zero, place(s.mean)),
         "length": round(abs(place(s.mean) - zero), 2), "low": place(s.low), "high": place(s.high),
         "sign": "down" if s.mean < 0 else "up", "certain": s.low > 0 or s.high < 0} for name, s in changes
    ]  # fmt: skip
