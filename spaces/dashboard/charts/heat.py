"""Tables whose cells are coloured by their number, which stands in them: charts that are their own table twin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

MOST_ROWS, MOST_COLUMNS, MOST_VECTORS = 48, 12, 16
BLOCK = re.compile(r"(.*?(?:layers?|blocks?|h|stages?)\.\d+)\b.*")


def cosines(names: Sequence[str], table: Sequence[Sequence[float]], order: Sequence[str]) -> dict[str, Any]:
    """The pairwise cosines of the first contributions in `order`; ``shade`` is |cosine| in percent."""
    place = {name: n for n, name in enumerate(names)}
    chosen = [place[name] for name in order if name in place][:MOST_VECTORS]
    rows = [
        {"name": names[i].partition("@")[0], "cells": [cell(table[i][j], 1.0) if i != j else None for j in chosen]}
        for i in chosen
    ]
    off = [table[i][j] for n, i in enumerate(chosen) for j in chosen[:n]]
    return {"rows": rows, "hidden": len(names) - len(chosen), "mean": fmean(off) if off else None,
            "least": min(off) if off else None, "most": max(off) if off else None}  # fmt: skip


def drift(columns: Sequence[tuple[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Relative change by layer (rows) and generation (columns, newest last), in percent of the parent's norm.

    Layers of one block are averaged where there are too many for a table.
    """
    columns = columns[-MOST_COLUMNS:]
    layers = list(dict.fromkeys(layer for _, values in columns for layer in values))
    grouped = len(layers) > MOST_ROWS
    found: dict[str, list[str]] = {}
    for layer in layers:
        match = BLOCK.fullmatch(layer) if grouped else None
        found.setdefault(match[1] if match else layer, []).append(layer)
    values = [[_mean(column, members) for _, column in columns] for members in found.values()]
    top = max((v for row in values for v in row if v is not None), default=0.0)
    prefix = _common(list(found))
    rows = [{"name": name.removeprefix(prefix), "cells": [None if v is None else cell(v, top) for v in row]}
            for name, row in zip(found, values, strict=True)]  # fmt: skip
    return {"names": [name for name, _ in columns], "rows": rows[:MOST_ROWS], "hidden": max(0, len(rows) - MOST_ROWS),
            "grouped": grouped}  # fmt: skip


def _common(names: Sequence[str]) -> str:
    """The dotted beginning that all deep names share, which a table can do without."""
    deep = [name.split(".") for name in names if name.count(".") > 1]
    shared: list[str] = []
    for parts in zip(*deep, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) + "." if shared and len(deep) > 1 else ""


def cell(value: float, top: float) -> dict[str, Any]:
    """A number with how strongly it is coloured, in percent of the strongest."""
    shade = min(100, round(100 * abs(value) / top)) if top else 0
    return {"value": value, "shade": shade, "sign": "down" if value < 0 else "up"}


def _mean(column: Mapping[str, float], members: Sequence[str]) -> float | None:
    known = [column[m] for m in members if m in column]
    return fmean(known) if known else None
