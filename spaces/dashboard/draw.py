"""The data as HTML: numbers are put into words and places here, Jinja templates put them into tags and escape them.

The templates are rendered on the server, and gr.HTML gets the result as its value. Data must not reach gr.HTML through
its own `{{ }}` templates: what they produce is evaluated once more, as a JavaScript template literal, so that
``${alert(1)}`` in a contributor's text would run (gradio 6.31).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from lineage import Attempt, Metric, Record, Score, Status, Unreadable
from reader import Data

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
HEADLINES: list[Metric] = [(role, protocol) for role in ("report", "gate") for protocol in ("fewshot", "probe")]
PROTOCOLS = {"fewshot": "few-shot finetuning", "probe": "linear probe"}
ROLES = {"gate": "the gate's examples", "report": "examples that the gate never saw"}
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
MAX_ROWS = 500
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 64, 20, 16, 40  # of the chart, in its own units


@dataclass(frozen=True)
class Page:
    """The parts of the page, each as HTML but the snippet, which is Python."""

    head: str
    chart: str
    snippet: str
    generation: str
    attempts: str


def draw(data: Data, wanted: str | None, now: datetime) -> Page:
    """The page with the generation called `wanted` (``gen-N``), or the newest that was not withdrawn."""
    known = {a.name: a for a in data.generations}
    usable = [a for a in data.generations if a.status != "yanked"] or data.generations
    chosen = known.get(wanted or "") or (usable[-1] if usable else None)
    notice = ""
    if wanted and wanted not in known:
        notice = f"{wanted if re.fullmatch('gen-[0-9]{1,6}', wanted) else 'That generation'} does not exist here."
        notice += f" This is {chosen.name}." if chosen else ""
    metric = headline(data, chosen)
    return Page(
        head=TEMPLATES.get_template("head.html").render(
            base=data.base or "No base is set", url=repo_url(data, data.base), strip=strip(data, now),
            verdict=verdict(data, chosen, metric), notice=notice,
            withdrawn=chosen.name if chosen and chosen.status == "yanked" else "",
        ),
        chart=TEMPLATES.get_template("chart.html").render(chart(data, chosen, metric)),
        snippet=snippet(data, chosen),
        generation=TEMPLATES.get_template("generation.html").render(generation(data, chosen)),
        attempts=TEMPLATES.get_template("attempts.html").render(attempts(data, chosen, metric)),
    )  # fmt: skip


def headline(data: Data, chosen: Attempt | None) -> Metric | None:
    """What the chart shows: the report examples where they were measured, since the gate chose by its own."""
    measured = set(chosen.scores) if chosen and chosen.scores else set()
    for attempt in data.attempts:
        measured |= set(attempt.scores) if isinstance(attempt, Attempt) and not measured else set()
    return next((m for m in [*HEADLINES, *sorted(measured)] if m in measured), None)


def strip(data: Data, now: datetime) -> list[dict[str, str]]:
    """The lines of the status strip, each with a kind (ok, warn) and its text."""
    lines = []
    if data.trouble:
        shown = f" Showing data of {moment(data.read_at)}." if data.read_at else " There is nothing to show yet."
        lines.append({"kind": "warn", "text": data.trouble + (shown if data.base else "")})
    elif data.read_at is None:
        lines.append({"kind": "warn", "text": "The Hub has not been read yet. Reload the page in a few seconds."})
    else:
        lines.append({"kind": "ok", "text": f"Data of {moment(data.read_at)}, {ago(data.read_at, now)}."})
    if lost := sum(isinstance(a, Unreadable) for a in data.attempts):
        lines.append(
            {
                "kind": "warn",
                "text": f"{count(lost, 'entry', 'entries')} of the lineage cannot be read; see All attempts.",
            }
        )
    if isinstance(data.status, Unreadable):
        lines.append({"kind": "warn", "text": f"The watcher's status cannot be read: {data.status.problem}."})
    elif isinstance(data.status, Status):
        waiting = count(data.status.queue, "contribution is", "contributions are") + " waiting"
        lines.append({"kind": "ok", "text": f"Watcher last seen {ago(data.status.heartbeat, now)}; {waiting}."})
        if data.status.last_error:
            lines.append({"kind": "warn", "text": f"Its last error: {data.status.last_error}"})
    return lines


def verdict(data: Data, chosen: Attempt | None, metric: Metric | None) -> str:
    """One sentence or two about a generation; without one, what there is instead."""
    if chosen is None:
        if any(isinstance(a, Attempt) and a.status == "rejected" for a in data.attempts):
            return "No generation has passed the gate yet."
        if data.attempts:
            return "No generation of this lineage can be read."
        return "" if data.read_at is None else "No generation yet: gen-1 is made once enough contributions are in."
    if chosen.generation == 0:
        text = "gen-0: the weights from before the first fuse."
    else:
        people = f" by {count(len(chosen.authors), 'account')}" if 0 < len(chosen.authors) < 20 else ""
        into = f" into gen-{chosen.parent}" if chosen.parent is not None else ""
        what = count(chosen.contributions, "contribution")
        text = f"{chosen.name}: {what}{people} fused{into}, {day(chosen.created_at)}."
    score = chosen.scores.get(metric) if metric else None
    if metric and score:
        text += f" Mean accuracy, {words(metric)}: {percent(score.mean)} % (95 % interval {span(score)})"
        if change := chosen.differences.get(metric):
            text += f", {signed(change.mean)} points over gen-{chosen.parent} ({span(change, sign=True)}"
            text += "; the interval holds 0, so this may be chance)" if change.low <= 0 <= change.high else ")"
        text += "."
    return text + (f" What the gate said: {chosen.reason}." if chosen.reason else "")


def snippet(data: Data, chosen: Attempt | None) -> str:
    """Python that loads the generation; a comment where there is none. Holds no stranger's text."""
    if chosen is None or not REPO.fullmatch(data.base):
        return "# There is no generation to load yet."
    hub = "" if data.endpoint == "https://huggingface.co" else f"# with HF_ENDPOINT={data.endpoint}\n"
    pinned = f"\n# the same, pinned: revision={chosen.revision!r}" if chosen.revision else ""
    return (f"{hub}from transformers import AutoModel\n\n"
            f'model = AutoModel.from_pretrained("{data.base}", revision="{chosen.name}"){pinned}')  # fmt: skip


def chart(data: Data, chosen: Attempt | None, metric: Metric | None) -> dict[str, Any]:
    """Marks, the line and its band, axes, and the same numbers as a table.

    One column for every attempt, in order. The line joins generations that were measured by the same suite; it does not
    bridge what cannot be read.
    """
    columns = [(a, a.scores.get(metric) if isinstance(a, Attempt) and metric else None) for a in data.attempts]
    measured = [s for _, s in columns if s]
    metrics = sorted({m for a in data.attempts if isinstance(a, Attempt) for m in a.scores}, key=_rank)
    table = [{"name": a.name, "status": a.status, "cells": [_cell(a.scores.get(m)) for m in metrics]}
             for a in data.attempts if isinstance(a, Attempt)]  # fmt: skip
    head = {"metric": words(metric) if metric else "", "headers": [words(m) for m in metrics],
            "table": table[-MAX_ROWS:], "width": WIDTH, "height": HEIGHT}  # fmt: skip
    if not measured:
        return head | {"marks": [], "lines": [], "bands": [], "ticks": [], "labels": [], "suites": False, "summary": ""}
    ticks = _ticks(min(s.low for s in measured), max(s.high for s in measured))
    bottom, top = ticks[0], ticks[-1]

    def x(place: int) -> float:
        return round(LEFT + (place + 0.5) * (WIDTH - LEFT - RIGHT) / len(columns), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    marks, runs, suites = [], [], set()
    run: list[tuple[float, Score]] = []
    suite = ""
    for place, (attempt, score) in enumerate(columns):
        if isinstance(attempt, Unreadable) or (score is None and attempt.generation is not None):
            run = []
            continue
        if score is None:
            continue
        said = f"{attempt.name}, {attempt.status}: {percent(score.mean)} %, 95 % interval {span(score)}"
        marks.append({"x": x(place), "y": y(score.mean), "low": y(score.low), "high": y(score.high), "label": said,
                      "status": attempt.status, "name": attempt.name if attempt.generation is not None else "",
                      "chosen": attempt is chosen})  # fmt: skip
        suites.add(attempt.suite)
        if attempt.generation is not None:
            if not run or attempt.suite != suite:
                runs.append(run := [])
            suite = attempt.suite
            run.append((x(place), score))
    labels = [(x(n), a.name) for n, (a, _) in enumerate(columns) if a.name.startswith("gen-")]
    lines = [" ".join(f"{at},{y(s.mean)}" for at, s in run) for run in runs if len(run) > 1]
    bands = [[f"{at},{y(s.high)}" for at, s in run] + [f"{at},{y(s.low)}" for at, s in reversed(run)] for run in runs
             if len(run) > 1]  # fmt: skip
    return head | {
        "marks": marks, "lines": lines, "bands": [" ".join(band) for band in bands], "suites": len(suites) > 1,
        "ticks": [{"y": y(t), "text": f"{100 * t:g}"} for t in ticks], "labels": _thinned(labels),
        "left": LEFT, "right": WIDTH - RIGHT, "foot": HEIGHT - 12,
        "summary": count(len(marks), "attempt"),
    }  # fmt: skip


def generation(data: Data, chosen: Attempt | None) -> dict[str, Any]:
    """What went into a generation and what was refused."""
    record = data.records.get(chosen.generation) if chosen and chosen.generation is not None else None
    shown: dict[str, Any] = {
        "name": chosen.name if chosen else "",
        "problem": "",
        "credits": [],
        "refusals": [],
        "note": "",
    }
    if isinstance(record, Unreadable):
        return shown | {"problem": f"The record of {record.name} cannot be read: {record.problem}."}
    if not isinstance(record, Record):
        is_fused = chosen is not None and chosen.generation != 0
        return shown | {"problem": "Its record has not been read." if is_fused else ""}
    hidden = max(0, len(record.credits) - MAX_ROWS) + max(0, len(record.refusals) - MAX_ROWS)
    lost = f"{count(record.unreadable, 'row')} of its record cannot be read. " if record.unreadable else ""
    return shown | {
        "note": lost + (f"{count(hidden, 'further row')} in the record." if hidden else ""),
        "credits": [
            {"repo": c.repo, "url": repo_url(data, c.repo, c.sha), "author": c.author, "relation": c.relation,
             "task": c.task, "license": c.license, "weight": "" if c.weight is None else f"{percent(c.weight)} %",
             "capped": f"to {percent(c.scale)} %" if c.scale < 1 else ""} for c in record.credits[:MAX_ROWS]],
        "refusals": [
            {"repo": r.repo, "url": repo_url(data, r.repo, r.sha), "code": r.code, "reason": r.reason, "fix": r.fix}
            for r in record.refusals[:MAX_ROWS]],
    }  # fmt: skip


def attempts(data: Data, chosen: Attempt | None, metric: Metric | None) -> dict[str, Any]:
    """Every attempt, newest first."""
    rows: list[dict[str, Any]] = []
    for attempt in reversed(data.attempts[-MAX_ROWS:]):
        if isinstance(attempt, Unreadable):
            rows.append({"name": attempt.name, "problem": attempt.problem})
            continue
        change = attempt.differences.get(metric) if metric else None
        parent = "" if attempt.parent is None else f" over gen-{attempt.parent}"
        rows.append({
            "name": attempt.name, "problem": "", "status": attempt.status, "day": day(attempt.created_at),
            "link": attempt.generation is not None, "chosen": attempt is chosen,
            "score": _cell(attempt.scores.get(metric) if metric else None),
            "change": f"{signed(change.mean)}{parent} ({span(change, sign=True)})" if change else "",
            "contributions": attempt.contributions, "refusals": attempt.refusals, "reason": attempt.reason,
        })  # fmt: skip
    return {"rows": rows, "metric": words(metric) if metric else ""}


def repo_url(data: Data, repo: str, sha: str = "") -> str:
    """The address of a repository on the configured Hub; "" for a name that is none."""
    if not REPO.fullmatch(repo):
        return ""
    return f"{data.endpoint}/{repo}" + (f"/tree/{sha}" if sha else "")


def words(metric: Metric) -> str:
    """``few-shot finetuning, examples that the gate never saw``."""
    return f"{PROTOCOLS.get(metric[1], metric[1])}, {ROLES.get(metric[0], metric[0])}"


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * value:.1f}".replace("-", "−")


def signed(value: float) -> str:
    """A difference of fractions in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def span(score: Score, *, sign: bool = False) -> str:
    """An interval in words."""
    show = signed if sign else percent
    return f"{show(score.low)} to {show(score.high)}"


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def day(at: datetime) -> str:
    """The date in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d")


def moment(at: datetime) -> str:
    """Date and time in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def ago(at: datetime, now: datetime) -> str:
    """How long since, in one unit."""
    minutes = max(0, int((now - at).total_seconds() // 60))
    for unit, length in (("day", 1440), ("hour", 60), ("minute", 1)):
        if minutes >= length:
            return f"{count(minutes // length, unit)} ago"
    return "less than a minute ago"


def _cell(score: Score | None) -> str:
    return f"{percent(score.mean)} ({span(score)})" if score else ""


def _rank(metric: Metric) -> tuple[int, Metric]:
    return (HEADLINES.index(metric) if metric in HEADLINES else len(HEADLINES), metric)


def _ticks(low: float, high: float) -> list[float]:
    """Round values from below `low` to above `high`, at most seven."""
    for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        first, last = int(low / step + 1e-9), -int(-high / step + 1e-9)
        last += last * step < high - 1e-9
        if last - first <= 6:
            return [round(n * step, 4) for n in range(first, max(last, first + 1) + 1)]
    return [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def _thinned(labels: list[tuple[float, str]]) -> list[dict[str, Any]]:
    """About ten labels, of which about five are for narrow screens too; the newest is always among them."""
    few, more = (-(-len(labels) // n) for n in (5, 10))
    last = len(labels) - 1
    return [{"x": at, "text": text, "narrow": (last - n) % few == 0} for n, (at, text) in enumerate(labels)
            if (last - n) % few == 0 or (last - n) % more == 0]  # fmt: skip
