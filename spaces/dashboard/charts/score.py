"""Score over generations: a line with its band, every attempt a mark, rejected ones hollow and off the line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lineage import Attempt, Score, Unreadable
from view import Key, View
from words import STATUS_WORDS, full_name, percent, span

from charts.axis import Axis, polyline, thinned, ticks

MOST_MARKS = 250  # the newest attempts; more would lie on each other


@dataclass(frozen=True)
class Size:
    """Of a chart in its own units."""

    name: str
    width: int
    height: int
    left: int = 46
    right: int = 18
    top: int = 18
    bottom: int = 34


SIZES = (Size("wide", 960, 330), Size("narrow", 390, 300, left=38, right=12))
Column = tuple[Attempt | Unreadable, Score | None]


def score_charts(view: View, key: Key | None, chosen: Attempt | None) -> list[dict[str, Any]]:
    """The chart for wide and for narrow screens; none where nothing was measured."""
    columns: list[Column] = [(a, view.score(a, key)) for a in view.data.attempts[-MOST_MARKS:]]
    measured = [score for _, score in columns if score]
    if not measured:
        return []
    steps = ticks(min(s.low for s in measured), max(s.high for s in measured))
    return [_drawn(size, columns, steps, chosen) for size in SIZES]


def breaks(view: View) -> bool:
    """Whether attempts were measured by different suites, so that their scores do not compare."""
    return len({a.suite for a in view.data.attempts if isinstance(a, Attempt) and a.scores}) > 1


def _drawn(size: Size, columns: list[Column], steps: list[float], chosen: Attempt | None) -> dict[str, Any]:
    x = Axis(-0.5, len(columns) - 0.5, size.left, size.width - size.right)
    y = Axis(steps[0], steps[-1], size.height - size.bottom, size.top)
    radius = max(2.0, min(6.0, 0.36 * (size.width - size.left) / len(columns)))
    marks = []
    for place, (attempt, score) in enumerate(columns):
        if score is None or isinstance(attempt, Unreadable):
            continue
        said = f"{full_name(attempt)}, {STATUS_WORDS[attempt.status]}: "
        said += f"{percent(score.mean)} %, 95 % interval {span(score)}"
        marks.append({
            "x": x(place), "y": y(score.mean), "low": y(score.low), "high": y(score.high), "label": said,
            "status": attempt.status, "name": attempt.name if attempt.generation is not None else "",
            "chosen": attempt is chosen, "value": percent(score.mean),
        })  # fmt: skip
    runs = [[(x(n), score) for n, score in run] for run in _runs(columns) if len(run) > 1]
    named = [(n, a.name.removeprefix("gen-")) for n, (a, _) in enumerate(columns) if a.name.startswith("gen-")]
    return {
        "size": size, "marks": marks, "radius": round(radius, 1),
        "lines": [polyline([(at, y(s.mean)) for at, s in run]) for run in runs],
        "bands": [polyline([(at, y(s.high)) for at, s in run] + [(at, y(s.low)) for at, s in reversed(run)])
                  for run in runs],
        "ticks": [{"y": y(step), "text": f"{100 * step:g}"} for step in steps],
        "labels": [{"x": x(named[n][0]), "text": named[n][1]} for n in thinned(len(named), size.width // 48)],
    }  # fmt: skip


def _runs(columns: list[Column]) -> list[list[tuple[int, Score]]]:
    """Generations that a line may join: neighbours measured by one suite, with nothing unreadable between them."""
    runs: list[list[tuple[int, Score]]] = []
    suite: str | None = None
    for place, (attempt, score) in enumerate(columns):
        if isinstance(attempt, Unreadable) or (score is None and attempt.generation is not None):
            suite = None
        elif score is not None and attempt.generation is not None:
            if suite is None or attempt.suite != suite:
                runs.append([])
            suite = attempt.suite
            runs[-1].append((place, score))
    return runs
