"""Small line charts: numbers along the way from the parent to the candidate, or over generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from charts.axis import Axis, polyline, thinned, ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 240, 46, 16, 22, 30  # in the chart's own units


def path(points: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """Accuracy by step, the chord between parent (0) and full step (1), and the barrier: how far the way dips below it.

    Values below 0 are log-likelihoods: their ticks are in nats, not in percent. The barrier is None where no step
    between was measured; the chart is None where there are fewer than two points.
    """
    if len(points) < 2:
        return None
    known = dict(points)
    chord = (known[0.0], known[1.0]) if 0.0 in known and 1.0 in known else None
    dips = [(s, chord[0] + s * (chord[1] - chord[0]) - v) for s, v in points if chord and 0 < s < 1]
    worst = max(dips, key=lambda dip: dip[1], default=None)
    steps = ticks(min(v for _, v in points), max(v for _, v in points), 5)
    x = Axis(0, max(1.0, points[-1][0]), LEFT, WIDTH - RIGHT)
    y = Axis(steps[0], steps[-1], HEIGHT - BOTTOM, TOP)
    nats = any(v < 0 for _, v in points)
    found = _frame(steps, y, 1 if nats else 100) | {
        "nats": nats, "line": polyline([(x(s), y(v)) for s, v in points]),
        "dots": [{"x": x(s), "y": y(v), "step": s, "value": v} for s, v in points],
        "labels": [{"x": x(s), "text": f"{s:g}"} for s in (0, 0.25, 0.5, 0.75, 1) if x.end >= s],
        "chord": polyline([(x(0), y(chord[0])), (x(1), y(chord[1]))]) if chord else "",
        "barrier": None if worst is None else max(0.0, worst[1]), "dip": None,
    }  # fmt: skip
    if worst and chord and worst[1] > 0:
        on_chord = chord[0] + worst[0] * (chord[1] - chord[0])
        found["dip"] = {"x": x(worst[0]), "y1": y(on_chord), "y2": y(known[worst[0]])}
    return found


def over_generations(points: Sequence[tuple[str, float]]) -> dict[str, Any] | None:
    """A line of one number over generations; None where there are fewer than two."""
    if len(points) < 2:
        return None
    steps = ticks(0.0, max(v for _, v in points), 5)
    x, y = Axis(0, len(points) - 1, LEFT + 8, WIDTH - RIGHT), Axis(steps[0], steps[-1], HEIGHT - BOTTOM, TOP)
    radius = 3.5 if len(points) <= 40 else 0
    return _frame(steps, y) | {
        "line": polyline([(x(n), y(v)) for n, (_, v) in enumerate(points)]), "chord": "", "dip": None,
        "dots": [{"x": x(n), "y": y(v)} for n, (_, v) in enumerate(points)] if radius else [],
        "labels": [{"x": x(n), "text": points[n][0].removeprefix("gen-")} for n in thinned(len(points), 8)],
    }  # fmt: skip


def _frame(steps: list[float], y: Axis, scale: int = 100) -> dict[str, Any]:
    return {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT,
            "ticks": [{"y": y(step), "text": f"{scale * step:g}"} for step in steps]}  # fmt: skip
