"""Which held-out tasks contributors say that they have trained on.

Known from what cards declare alone (datasets, and the task that hub_fusion's tools write): names are compared without
owner, case and punctuation, so that mirrors count and namesakes do too. Not covered: who says nothing, and how much of
a collection such as glue was used; one that is declared taints every task that comes from it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hub_fusion.recipe.tasks import Task
from hub_fusion.records import Contamination, Credit, data_name

NAMED = 20


def trained_on(credit: Credit, tasks: Iterable[Task]) -> dict[str, str]:
    """Name of each held-out task → what the contribution declares that is, or holds, its data."""
    declared = {data_name(name): name for name in (*credit.datasets, credit.task or "") if data_name(name)}
    found = {}
    for task in tasks:
        names = {data_name(name) for name in task.data_names} & set(declared)
        if task.role != "seen" and names:
            found[task.name] = declared[min(names)]
    return found


def contaminations(
    tasks: Iterable[Task], contributions: Iterable[tuple[int | None, Credit]]
) -> tuple[Contamination, ...]:
    """The held-out tasks that are none any more. `contributions` come with their generation, oldest first."""
    held_out = [task for task in tasks if task.role != "seen"]
    found: dict[str, list[tuple[int | None, str]]] = {}
    for generation, credit in contributions:
        for task in trained_on(credit, held_out):
            found.setdefault(task, []).append((generation, credit.key))
    return tuple(
        Contamination(task=task, contributions=tuple(key for _, key in said[:NAMED]), since=said[0][0])
        for task, said in sorted(found.items())
    )
