"""Which of many models is the best base? Cheap scores for all, dear ones for those that are still in.

LogME on all models, the probe on the better half, few-shot finetuning (or full finetuning, where the settings have it)
on the best few; the reference goes all the way. Models that tie with the last one who stays, stay too. A model that
cannot be opened or measured is a row with the reason. Measurements are cached by weights and suite: a ranking that was
killed goes on, and one with a model more measures that model. What is chosen by these scores is flattered by them:
where a task has a gate part that is the one used, and its report part stays unseen. Not covered: whether the cheap
scores are right. Where features matter less than what finetuning makes of them they can order models backwards
(benchmarks/evaluate/ladder.py); settings without LogME and probe finetune all models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from hub_fusion.errors import HubFusionError, RecipeError
from hub_fusion.evaluate.ranking import Gain, Ranking, Row
from hub_fusion.evaluate.scores import Answers, Measurement, difference
from hub_fusion.evaluate.suite import measure, suite_id
from hub_fusion.evaluate.suspicion import Flag, find_flags
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import Evaluate
from hub_fusion.records import Role, Score
from hub_fusion.weights.fuse import folder_sha256
from hub_fusion.weights.local import checkpoint_folder

if TYPE_CHECKING:
    from hub_fusion.hub import Hub

PROTOCOLS = ("logme", "probe", "fewshot", "finetune")  # from cheap to dear; what ranks is the dearest a model got to
ROLE: Role = "gate"


@dataclass
class _Entrant:
    """A model on its way."""

    name: str
    folder: Path | None = None
    sha256: str | None = None
    found: dict[str, Measurement] = field(default_factory=dict)
    error: str | None = None

    def value(self, protocol: str) -> float:
        """The mean over the tasks by a protocol it was measured by."""
        answers = _answers(self.found[protocol])
        return float(np.mean([matrix.mean() for matrix in answers.values()]))


def rank(
    models: Sequence[str], evaluate: Evaluate, *, top: int = 3, reference: str | None = None, hub: Hub | None = None,
    cache: Path | None = None, device: str = "cpu", say: Callable[[str], None] = lambda _: None,
) -> Ranking:  # fmt: skip
    """Rank `models` (folders, or ``user/model[@revision]``) as bases on the tasks of `evaluate`.

    Protocols that `evaluate` leaves out are not run. With a `reference`, which is ranked among the others, every row
    has its gains over it. Raises RecipeError if there are no tasks, or malformed ones, or no protocol.
    """
    stages = [protocol for protocol in PROTOCOLS if getattr(evaluate, protocol)]
    if "finetune" in stages and "fewshot" in stages:
        stages.remove("fewshot")  # one of the two, on the same models
    if not evaluate.tasks or not stages:
        raise RecipeError("a ranking needs at least one task and one of the protocols " + ", ".join(PROTOCOLS))
    tasks = tuple(task.model_copy(update={"role": ROLE}).below(task._root) for task in evaluate.tasks)
    evaluate = evaluate.model_copy(update={"tasks": tasks})
    suite_id(evaluate)  # a task that cannot be read is nobody's failure but the asker's
    majority = {}
    for task in tasks:
        loaded = load_task(task, max_test=evaluate.max_test_examples)
        if loaded.kind == "plain":
            raise RecipeError(f"task {task.name!r} is plain text, and a ranking is by accuracy: give tasks with labels")
        labels = loaded.parts[ROLE].labels
        majority[task.name] = float(np.bincount(labels).max() / len(labels))
    entrants = [_Entrant(name) for name in dict.fromkeys([*models, *([reference] if reference else [])])]
    left = entrants
    for place, protocol in enumerate(stages):
        if place:
            keep = top if protocol == stages[-1] else max(top, -(-len(entrants) // 2))
            left = _best(left, stages[place - 1], keep, reference)
        say(f"{protocol} on {len(left)} of {len(entrants)} models")
        only = evaluate.model_copy(update={p: None for p in PROTOCOLS if p != protocol})
        for entrant in left:
            _measure(entrant, protocol, only, hub, cache, device, say)
        left = [entrant for entrant in left if entrant.error is None]
    rows = _with_ranks(entrants, stages, next((e for e in entrants if e.name == reference), None))
    flags = [found for protocol in stages if protocol != "logme"
             for found in find_flags(protocol, _table(rows, protocol), majority, reference)]  # fmt: skip
    flags += _copies(rows)
    rows = [row.model_copy(update={"flags": tuple(flag for name, flag in flags if name == row.model)}) for row in rows]
    return Ranking(reference=reference, tasks=tuple(task.name for task in tasks), rows=tuple(rows))


def _measure(
    entrant: _Entrant, protocol: str, evaluate: Evaluate, hub: Hub | None, cache: Path | None, device: str,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    def progress(text: str) -> None:
        say(f"{entrant.name}: {text}")

    try:
        if entrant.folder is None or entrant.sha256 is None:
            entrant.folder = checkpoint_folder(entrant.name, hub)
            entrant.sha256 = folder_sha256(entrant.folder)
        entrant.found[protocol] = measure(
            entrant.folder, evaluate, weights_sha256=entrant.sha256, cache=cache, device=device, progress=progress
        )
    except HubFusionError as error:
        entrant.error = str(error)
    except Exception as error:  # a stranger's configuration can make transformers fail in any way
        entrant.error = f"{entrant.name} cannot be measured: {type(error).__name__}: {error}"[:500]
    if entrant.error:
        progress(entrant.error)


def _best(entrants: list[_Entrant], protocol: str, keep: int, reference: str | None) -> list[_Entrant]:
    """The `keep` best by a protocol, whoever ties with the last of them, and the reference."""
    values = sorted((entrant.value(protocol) for entrant in entrants), reverse=True)
    if not values:
        return []
    least = values[min(keep, len(values)) - 1]
    return [entrant for entrant in entrants if entrant.value(protocol) >= least or entrant.name == reference]


def _with_ranks(entrants: list[_Entrant], stages: list[str], reference: _Entrant | None) -> list[Row]:
    """Who was measured by a dearer protocol comes first, then the mean decides; equal means share a rank."""

    def order(entrant: _Entrant) -> tuple[bool, int, float]:
        last = len(entrant.found) - 1
        return entrant.error is None, last, entrant.value(stages[last]) if last >= 0 else 0.0

    rows: list[Row] = []
    by_rank = sorted(entrants, key=order, reverse=True)
    for place, entrant in enumerate(by_rank):
        same = place > 0 and order(entrant) == order(by_rank[place - 1])
        protocol = stages[len(entrant.found) - 1] if entrant.found else None
        rows.append(
            Row(
                model=entrant.name, protocol=protocol, weights_sha256=entrant.sha256, error=entrant.error,
                rank=None if entrant.error else rows[-1].rank if same else place + 1,
                scores=tuple(s for m in entrant.found.values()
                             for s in (*m.scores.tasks, *m.scores.means, *m.scores.likelihoods)),
                gains=tuple(_gains(entrant, reference)) if reference and entrant is not reference else (),
            )
        )  # fmt: skip
    return rows


def _gains(entrant: _Entrant, reference: _Entrant) -> list[Gain]:
    found = []
    for protocol in (p for p in entrant.found if p in reference.found):
        ours, theirs = _answers(entrant.found[protocol]), _answers(reference.found[protocol])
        found.append(Gain(**difference(ours, theirs), protocol=protocol))
        found += [Gain(**difference({k: ours[k]}, {k: theirs[k]}), protocol=protocol, task=k[0]) for k in ours]
    return found


def _answers(measurement: Measurement) -> Answers:
    return measurement.correct or measurement.likelihoods


def _table(rows: list[Row], protocol: str) -> dict[str, dict[str, Score]]:
    """model → task → score of those that were measured by a protocol."""
    return {
        row.model: {cast(str, s.task): s for s in row.scores if s.protocol == protocol and s.task}
        for row in rows
        if row.mean(protocol)
    }


def _copies(rows: list[Row]) -> list[tuple[str, Flag]]:
    known: dict[str, str] = {}
    found = []
    for row in rows:
        if row.weights_sha256 and (first := known.setdefault(row.weights_sha256, row.model)) != row.model:
            found.append((row.model, Flag(code="same_weights", reason=f"has the weights of {first}")))
    return found
