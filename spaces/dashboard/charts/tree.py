"""The lineage as a tree: generations down a spine, newest first; what was fused flows in from the right.

A ribbon is as wide as the contribution's share. Of a generation with many contributions the heaviest are drawn and the
others lie together in one cluster, which a link opens. Rejected attempts end beside the spine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lineage import Attempt, Credit, Unreadable
from view import View
from words import license_class, percent, repo_url

WIDTH, SPINE, LEAF, ROW, GAP, TOP = 960, 210, 470, 26, 30, 26  # in the chart's own units
FEW, MOST, REFUSED = 6, 60, 3  # contributions drawn of a closed and an open generation; refusals


@dataclass
class Node:
    """A generation or a rejected attempt, and what belongs to it."""

    attempt: Attempt | Unreadable
    leaves: list[dict[str, Any]]
    hidden: int
    refused: list[Any]
    more_refused: int
    opened: bool
    problem: str
    y: float = 0.0
    height: float = 0.0
    stub: float = 0.0  # where a rejected attempt leaves the spine


def nodes(view: View, attempts: list[Attempt | Unreadable], opened: str) -> list[Node]:
    """What is told of each attempt, newest first."""
    found = []
    for attempt in attempts:
        record = view.record(attempt) if isinstance(attempt, Attempt) else None
        is_open = isinstance(attempt, Attempt) and attempt.name == opened
        credits = sorted(record.credits, key=lambda c: (-(c.weight or 0), c.repo)) if record else []
        shown = credits[: MOST if is_open else FEW]
        if len(credits) == FEW + 1:
            shown = credits
        refused = list(record.refusals[: MOST if is_open else REFUSED]) if record else []
        parent = attempt.parent if isinstance(attempt, Attempt) else None
        told = isinstance(attempt, Attempt) and attempt.generation and not record
        found.append(Node(
            attempt, [leaf(view, c, parent) for c in shown], len(credits) - len(shown),
            [(r, repo_url(view.data.endpoint, r.repo, r.sha)) for r in refused],
            max(sum(record.refused.values()), len(record.refusals)) - len(refused) if record else 0, is_open,
            "its record was not read" if told else "",
        ))  # fmt: skip
    return found


def leaf(view: View, credit: Credit, parent: int | None) -> dict[str, Any]:
    """A contribution as it is drawn."""
    late = credit.generation is not None and parent is not None and credit.generation < parent
    return {
        "credit": credit, "url": repo_url(view.data.endpoint, credit.repo, credit.sha),
        "kind": license_class(credit.license), "late": f"from gen-{credit.generation}" if late else "",
        "share": "" if credit.weight is None else f"{percent(credit.weight)} %",
        "width": round(min(11.0, max(1.4, 26 * (credit.weight or 0.05))), 1),
    }  # fmt: skip


def tree(found: list[Node], *, goes_on: bool) -> dict[str, Any]:
    """Places of all nodes, leaves and ribbons; `goes_on` if older generations are not shown."""
    y = float(TOP)
    spine: list[float] = []
    for node in found:
        rows = max(2, len(node.leaves) + (1 if node.hidden or node.refused else 0))
        node.height = rows * ROW
        node.y = y + node.height / 2
        for place, item in enumerate(node.leaves):
            item["y"] = y + (place + 0.5) * ROW
            item["path"] = _ribbon(item["y"], node.y)
        y += node.height + GAP
        if _is_generation(node):
            spine.append(node.y)
    for place, node in enumerate(found):
        below = next((n.y for n in found[place:] if _is_generation(n)), node.y + 30)
        node.stub = min(below, node.y + 30) if spine and node.y > spine[0] else below
    bottom = y if goes_on else (spine[-1] if spine else y)
    return {"nodes": found, "width": WIDTH, "height": round(y), "spine": SPINE, "leaf": LEAF, "row": ROW,
            "from": spine[0] if spine else 0, "to": bottom, "has_spine": bool(spine)}  # fmt: skip


def _is_generation(node: Node) -> bool:
    return isinstance(node.attempt, Attempt) and node.attempt.generation is not None


def _ribbon(start: float, end: float) -> str:
    """From a leaf to its generation."""
    middle = (LEAF + SPINE) / 2
    return f"M{LEAF - 10} {start:g}C{middle:g} {start:g} {middle:g} {end:g} {SPINE + 12} {end:g}"
