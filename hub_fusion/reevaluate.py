"""Published generations, measured again by a larger suite: does what the gate said still hold?

The gate decides by a suite that is cheap enough for every round, and it chose the best of several candidates by that
suite: losses too small for it, tasks that are not in it and the winner's luck get past. Here the same rules (evaluate/
gate.py) look at the published weights again: the parent, gen-0, and the best of the older generations that are
measured, whose answers are all at hand, so that every comparison is paired. Every measurement is kept by weights and
task, so a killed run goes on. Not covered: report parts never decide here either, so for data that the gate has not
seen give more tasks.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import RecipeError, RecordError
from hub_fusion.evaluate.gate import Rival, find_rivals, gate_mean, judge
from hub_fusion.evaluate.scores import Measurement, compare, compare_likelihoods
from hub_fusion.evaluate.suite import measure, suite_id
from hub_fusion.events import Say
from hub_fusion.hub import Hub
from hub_fusion.publish.rollback import roll_back, withdrawn_by
from hub_fusion.publish.state import BaseState, fused_credits, open_base, read_record
from hub_fusion.recipe import Gate, Recipe, contaminations
from hub_fusion.records import Contamination, Difference, Generation, Index, IndexEntry, Scores, Verdict
from hub_fusion.weights.frozen import FrozenBase
from hub_fusion.weights.fuse import folder_sha256
from hub_fusion.weights.remote import ADAPTER, fetch_checkpoint

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute


@dataclass(frozen=True)
class Size:
    """How large the deciding part of a suite is; `answers`, right or wrong, are over all its protocols and seeds."""

    tasks: int
    examples: int
    answers: int

    @classmethod
    def of(cls, scores: Scores | None) -> Size:
        """Of what was measured; all 0 where nothing was."""
        gate = [s for s in (*scores.tasks, *scores.likelihoods) if s.task and s.role == "gate"] if scores else []
        return cls(len({s.task for s in gate}), sum({s.task: s.examples for s in gate}.values()),
                   sum(s.examples * len(s.per_seed) for s in gate))  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.tasks} task{'' if self.tasks == 1 else 's'}, {self.examples} test examples, {self.answers} answers"
        )


@dataclass(frozen=True)
class Judged:
    """A generation, what the gate said when it was published, and what it says by the later suite."""

    record: Generation
    verdict: Verdict
    over_parent: tuple[Difference, ...]  # all roles and protocols
    over_root: tuple[Difference, ...]
    then: Size
    now: Size

    @property
    def generation(self) -> int:
        """Its number."""
        return self.record.generation

    @property
    def disagrees(self) -> bool:
        """Whether it would not have been published by the later suite."""
        return not self.verdict.accepted

    @property
    def larger(self) -> bool:
        """Whether the later suite is the larger one."""
        return self.now.answers > self.then.answers

    @property
    def reason(self) -> str:
        """What to say when it is withdrawn."""
        return f"a later evaluation disagrees with the gate ({self.now}; then {self.then}): {self.verdict.reason}"


@dataclass(frozen=True)
class Reevaluation:
    """What was measured, by generation, and what follows for those that were asked for."""

    suite: str
    measured: Mapping[int, Measurement]
    judged: tuple[Judged, ...]  # the newest first
    contaminated: tuple[Contamination, ...]  # tasks that flatter: contributions name their data

    @property
    def disagrees(self) -> bool:
        """Whether any verdict does not hold."""
        return any(judged.disagrees for judged in self.judged)


def reevaluate(
    hub: Hub, repo: str, recipe: Recipe, compute: Compute, *, work: Path, cache: Path,
    generations: Collection[int] = (), say: Say = lambda _: None,
) -> Reevaluation:  # fmt: skip
    """Measure `generations` (default: the newest) and what they are held against; judge them by ``recipe.gate``.

    `recipe` brings the larger suite. `cache` keeps measurements, `work` holds what is made to be measured. Changes
    nothing on the Hub. Raises RecipeError without gate tasks, RecordError for generations that cannot be judged.
    """
    if not any(task.role in (None, "gate") for task in recipe.evaluate.tasks):
        raise RecipeError("nothing to judge by: give tasks that decide (--tasks, or evaluate.tasks with role gate)")
    suite = suite_id(recipe.evaluate)
    state = open_base(hub, repo, mend=False)
    chosen = _chosen(state, generations)
    records = {number: read_record(hub, repo, number, state.revisions[number]) for number in chosen}
    measured: dict[int, Measurement] = {}
    for number in _order(state.index, records, recipe.gate):
        if number not in measured:
            say(f"measuring gen-{number}")
            measured[number] = _measure(hub, state, number, recipe, compute, work, cache, say)
            gate_mean(measured[number].scores, recipe.gate)  # what cannot decide is told now, not after hours
    judged = tuple(_judge(records[number], measured, state.index, recipe.gate) for number in chosen)
    fused = [(number, credit) for number, credit in fused_credits(hub, state) if number <= max(chosen)]
    return Reevaluation(suite, measured, judged, contaminations(recipe.evaluate.tasks, fused))


def withdraw(hub: Hub, repo: str, judged: Judged, suite: str) -> tuple[str, int]:
    """Withdraw a generation whose verdict does not hold; gives the commit and the generation that main returns to.

    The base is read anew. Raises RecordError if the later suite is not the larger one, if a generation was built on
    this one in the meantime, or if it was withdrawn; HubConflict if main moves.
    """
    number = judged.generation
    if not judged.larger:
        raise RecordError(
            f"gen-{number} is not withdrawn: a suite of {judged.now} cannot overrule the gate's, {judged.then}; "
            "give more tasks, seeds or test examples"
        )
    state = open_base(hub, repo)
    gone, _ = withdrawn_by(state.index, number)
    if later := sorted(gone - {number}):
        names = ", ".join(f"gen-{n}" for n in later)
        raise RecordError(
            f"gen-{number} is not withdrawn: {names} built on it would go too, unjudged. Re-evaluate gen-{later[-1]}, "
            f"or withdraw all of them: hub-fusion rollback {repo} gen-{number} --reason …"
        )
    return roll_back(hub, state, number, judged.reason, verdict=judged.verdict, suite=suite)


def _chosen(state: BaseState, generations: Collection[int]) -> list[int]:
    """The generations to be judged, the newest first."""
    there = {entry.generation: entry for entry in state.index.generations if entry.generation is not None}
    good = [number for number, entry in there.items() if number and entry.status != "yanked"]
    chosen = sorted(set(generations or good[-1:]) - {0}, reverse=True)  # gen-0 is measured in any case
    if bad := [f"gen-{number}" for number in chosen if number not in good]:
        known = ", ".join(f"gen-{number}" for number in good) or "none"
        raise RecordError(f"{state.repo} has no {', '.join(bad)} that is in use; there are {known}")
    if not chosen:
        raise RecordError(f"{state.repo} is at gen-0, which no gate has judged: there is no verdict to look at again")
    return chosen


def _order(index: Index, records: Mapping[int, Generation], gate: Gate) -> list[int]:
    """What is measured: those to be judged with their parents, gen-0, and the best before each by what is on record."""
    order = [n for number, record in records.items() for n in (number, _parent(record))] + [0]
    for number, record in records.items():
        scores = record.parent_scores or record.candidate_scores
        if scores is not None:
            before = index.model_copy(update={"entries": _before(index, number)})
            order += [int(rival.tag[4:]) for rival in find_rivals(before, scores, gate) if rival.name == "best"]
    return order


def _before(index: Index, number: int) -> tuple[IndexEntry, ...]:
    """The older generations that are in use."""
    return tuple(e for e in index.generations if (e.generation or 0) < number and e.status != "yanked")


def _parent(record: Generation) -> int:
    return record.generation - 1 if record.parent_generation is None else record.parent_generation


def _measure(
    hub: Hub, state: BaseState, number: int, recipe: Recipe, compute: Compute, work: Path, cache: Path, say: Say
) -> Measurement:
    """What a generation answers; of one that is an adapter, the whole model that it makes."""
    record = read_record(hub, state.repo, number, state.revisions[number]) if number else None
    if record and ADAPTER in record.weights:
        frozen = FrozenBase.open(hub, state.repo, state.revisions, [number], work)
        heads = record.formula.heads if record.formula else "drop"
        folder, digest = frozen.whole(frozen.adapters[number], compute, heads, None)
    else:
        folder = fetch_checkpoint(hub, state.repo, state.revisions[number])
        digest = folder_sha256(folder)
    found = measure(folder, recipe.evaluate, weights_sha256=digest, cache=cache, device=compute.device, progress=say)
    shutil.rmtree(work / "whole", ignore_errors=True)
    return found


def _judge(record: Generation, measured: Mapping[int, Measurement], index: Index, gate: Gate) -> Judged:
    """The gate's verdict as if this suite had been the round's."""
    candidate, parent = measured[record.generation], measured[_parent(record)]
    older = {e.generation for e in _before(index, record.generation)}
    means = {number: gate_mean(m.scores, gate) for number, m in measured.items() if number in older}
    best = max(means, key=lambda number: (means[number], number))
    rivals = [Rival("root", "gen-0", means[0], measured[0]), Rival("best", f"gen-{best}", means[best], measured[best])]
    verdict = judge(candidate, parent, gate, record.step, rivals=rivals, parent_tag=f"gen-{_parent(record)}")
    return Judged(record, verdict, _changes(candidate, parent), _changes(candidate, measured[0]),
                  Size.of(record.candidate_scores), Size.of(candidate.scores))  # fmt: skip


def _changes(candidate: Measurement, other: Measurement) -> tuple[Difference, ...]:
    return (*compare(candidate, other), *compare_likelihoods(candidate, other))
