"""What changed from one generation to another: task by task, who came and went, the recipe."""

from __future__ import annotations

import difflib
from collections.abc import Container
from typing import Any

from charts.bars import diverging
from lineage import Attempt, Record, Score
from view import View, marked, not_held_out
from words import day, metric_words, repo_url

MOST = 200  # contributions or lines of a recipe's difference that are listed


def compare(view: View, a: Attempt, b: Attempt) -> dict[str, Any]:
    """All that is shown of the step from `a` to `b`."""
    before, after = view.record(a), view.record(b)
    tainted = not_held_out(before, after)
    return {
        "a": a, "b": b, "comparable": not a.scores or a.suite == b.suite,
        "means": _means(a, b), "tasks": _tasks(view, a, b, tainted), "tainted": tainted,
        **_people(view, before, after),
        "facts": _facts(a, b), "recipe": _recipe(before, after),
        "unknown": [x.name for x in (a, b) if x.generation and not view.record(x)],
    }  # fmt: skip


def _means(a: Attempt, b: Attempt) -> list[dict[str, Any]]:
    """The change of every mean: the paired one where b was made from a, else the difference of the two."""
    paired = b.differences if b.parent is not None and b.parent == a.generation else {}
    return diverging([(metric_words(m), paired.get(m) or _minus(b.scores[m], a.scores[m])) for m in b.scores
                      if m in a.scores])  # fmt: skip


def _tasks(view: View, a: Attempt, b: Attempt, tainted: Container[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """By metric: the change on every task, largest gain first."""
    keys = [key for key in view.metrics.values() if len(key) == 3]
    found: dict[str, list[tuple[str, Score]]] = {}
    for key in keys:
        before, after = view.score(a, key), view.score(b, key)
        if before and after:
            change = _minus(after, before)
            found.setdefault(metric_words((key[0], key[1])), []).append((marked(key[2], tainted), change))
    return [(words, diverging(sorted(rows, key=lambda r: -r[1].mean))) for words, rows in found.items()]


def _minus(after: Score, before: Score) -> Score:
    """The difference of two scores, with the interval that independent measurements would have."""
    mean = after.mean - before.mean
    below = ((after.mean - after.low) ** 2 + (before.high - before.mean) ** 2) ** 0.5
    above = ((after.high - after.mean) ** 2 + (before.mean - before.low) ** 2) ** 0.5
    return Score(mean, mean - below, mean + above)


def _people(view: View, before: Record | None, after: Record | None) -> dict[str, Any]:
    """Accounts that gave to one and not to the other, and what was fused in the second."""
    mine = {c.author for c in before.credits} if before else set()
    theirs = {c.author for c in after.credits} if after else set()
    return {
        "joined": sorted(theirs - mine)[:MOST], "left": sorted(mine - theirs)[:MOST],
        "stayed": sorted(mine & theirs)[:MOST],
        "given": [(c, repo_url(view.data.endpoint, c.repo, c.sha)) for c in (after.credits if after else ())][:MOST],
    }  # fmt: skip


def _facts(a: Attempt, b: Attempt) -> list[tuple[str, str, str]]:
    """What both cards say of themselves: name, before, after."""
    rows = (
        ("Made on", day(a.created_at), day(b.created_at)), ("Made from", _parent(a), _parent(b)),
        ("Method", a.method or "–", b.method or "–"), ("Step", f"{a.step:g}", f"{b.step:g}"),
        ("Contributions", str(a.contributions), str(b.contributions)), ("Refused", str(a.refusals), str(b.refusals)),
        ("Commit", (a.revision or "–")[:10], (b.revision or "–")[:10]),
        ("Suite of tasks", a.suite[:10] or "–", b.suite[:10] or "–"),
    )  # fmt: skip
    return [row for row in rows if row[1] != "–" or row[2] != "–"]


def _parent(attempt: Attempt) -> str:
    return "–" if attempt.parent is None else f"gen-{attempt.parent}"


def _recipe(before: Record | None, after: Record | None) -> list[tuple[str, str]] | None:
    """Lines of the difference, each with its kind (add, drop, keep); None where a recipe is not known."""
    if not (before and after and before.recipe and after.recipe):
        return None
    kinds = {"+": "add", "-": "drop", " ": "keep"}
    lines = list(difflib.unified_diff(before.recipe, after.recipe, lineterm="", n=2))[2:]
    return [(kinds[line[0]], line) for line in lines if line[0] in kinds][:MOST]
