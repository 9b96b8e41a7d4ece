"""From what passed the screen to the candidate that is judged: fuse, measure, search, and a control to hold it against.

`best_candidate` is what a round calls; the search itself is evaluate/search.py, the judgement evaluate/gate.py. Every
measurement is kept by the sha256 of the weights and the suite, so a round that was killed repeats the fuses (which are
quick and give the same bytes) and none of the measurements.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.contributions.relations import among, part_of_step
from hub_fusion.contributions.screen import Screened
from hub_fusion.errors import HubError, RecordError
from hub_fusion.evaluate.canaries import Held, check_canaries, find_culprits, watch_canaries
from hub_fusion.evaluate.gate import Rival, find_rivals, gate_mean, judge, with_canaries
from hub_fusion.evaluate.scores import Measurement, compare, compare_likelihoods
from hub_fusion.evaluate.search import Found, Tried, search
from hub_fusion.evaluate.suite import cheapest, gather_up, measure, occurring, recall
from hub_fusion.events import Event, Say, named
from hub_fusion.hub import Hub
from hub_fusion.provenance import Clock
from hub_fusion.publish.state import BaseState, read_record
from hub_fusion.recipe import Evaluate, Recipe
from hub_fusion.records import Analysis, CanaryCheck, Contribution, Control, Refusal, Trial, Verdict
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.frozen import FrozenBase
from hub_fusion.weights.fuse import FusePlan, FuseReport, Progress, folder_sha256, fuse
from hub_fusion.weights.random_steps import random_step
from hub_fusion.weights.remote import fetch_checkpoint

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute


@dataclass(frozen=True)
class Chosen:
    """The candidate that lies in ``work/candidate``, what the gate said of it, and what it is held against."""

    report: FuseReport
    verdict: Verdict
    parent: Measurement
    candidate: Measurement
    contributions: list[Contribution]  # that went in, with their weights
    refusals: list[Refusal]  # of those that made it worse
    control: Control | None
    analysis: Analysis | None


@dataclass
class Workshop:
    """Where candidates are made. `frozen` is the base where a generation is an adapter of it."""

    recipe: Recipe
    hub: Hub
    compute: Compute
    state: BaseState
    base: Path  # the parent, with the configuration of today
    screened: Screened
    work: Path
    clock: Clock
    say: Say
    progress: Progress | None = None
    frozen: FrozenBase | None = None
    fused: tuple[tuple[str, ...], float] | None = field(default=None, init=False)  # what lies in work/candidate
    report: FuseReport | None = field(default=None, init=False)
    before: tuple[Path, str] | None = field(default=None, init=False)  # what `parent` gave
    whole: Path = field(default=Path(), init=False)  # what is measured of it, and the sha256 of its weights
    digest: str = field(default="", init=False)

    def parent(self) -> tuple[Path, str]:
        """The parent as a whole model, and the sha256 of its weights."""
        if self.before:
            return self.before
        if self.frozen:
            adapter, heads = self.frozen.adapters.get(self.state.generation), self.recipe.merge.heads
            self.before = self.frozen.whole(adapter, self.compute, heads, self.progress, "whole-parent")
        else:
            self.before = self.base, folder_sha256(self.base)
        return self.before

    def root(self) -> Path:
        """Gen-0, as a whole model."""
        return self.frozen.root if self.frozen else fetch_checkpoint(self.hub, self.state.repo, self.state.revisions[0])

    def fuse(self, members: Sequence[str], step: float) -> FuseReport:
        """These contributions into ``work/candidate``, a part of the way; what lies there already is not made again."""
        if self.report and self.fused == (tuple(members), step):
            return self.report
        words = f"fusing {len(members)} contributions, step {step:g}"
        self.say(Event("fuse", words, contributions=len(members), step=step))
        merge, sources = self.recipe.merge, self.sources(members)
        with self.clock("fuse"):
            plan = FusePlan(self.base, self.work / "candidate", sources, merge.method, merge.options, step, merge.heads,
                            seed=merge.seed, residual=merge.residual,
                            tokens=self.screened.tokens.of(members))  # fmt: skip
            if self.frozen:
                rank = self.recipe.publish.rank
                report = self.frozen.fuse(self.state.generation, sources, step, rank, plan.out, self.say)
                self.whole, self.digest = self.frozen.whole(plan.out, self.compute, merge.heads, self.progress)
            else:
                report = self.compute.together(fuse, plan, progress=self.progress)
                self.whole, self.digest = plan.out, report.weights_sha256
        self.report, self.fused = report, (tuple(members), step)
        return report

    def sources(self, members: Sequence[str]) -> tuple[Source, ...]:
        """These contributions as inputs of a fuse, with the votes that they have among themselves."""
        kept, _ = among(self.screened, members, self.recipe.merge)
        weights = {c.key: float(c.weight or 0) for c in kept}
        return tuple(replace(s, weight=weights[s.key]) for s in self.screened.sources if s.key in weights)

    def measure(self, folder: Path, digest: str, evaluate: Evaluate | None = None) -> Measurement:
        """What a checkpoint answers, from the cache where it was asked before."""
        with self.clock("evaluate"):
            return measure(folder, evaluate or self.recipe.evaluate, weights_sha256=digest, cache=self.work / "scores",
                           device=self.compute.device, progress=named(self.say, "evaluate"))  # fmt: skip

    def canaries(self, folder: Path, digest: str) -> Held:
        """Where the recipe's canaries hold with a checkpoint."""
        if not self.recipe.evaluate.canaries:
            return {}
        with self.clock("evaluate"):
            return watch_canaries(folder, self.recipe.evaluate, weights_sha256=digest, cache=self.work / "scores",
                                  device=self.compute.device, progress=named(self.say, "evaluate"))  # fmt: skip

    def check_canaries(self) -> tuple[CanaryCheck, ...]:
        """What becomes of them with what lies in ``work/candidate``."""
        ours, theirs = self.canaries(self.whole, self.digest), self.canaries(*self.parent())
        return check_canaries(ours, theirs, self.recipe.evaluate.canaries)


def best_candidate(shop: Workshop) -> Chosen:
    """Search, and leave the best candidate in ``work/candidate``."""
    recipe, state = shop.recipe, shop.state
    shutil.rmtree(shop.work / "candidate", ignore_errors=True)  # a killed round may have left anything there
    parent_folder, digest = shop.parent()
    parent = shop.measure(parent_folder, digest)
    if parent.likelihoods and (texts := {t.content for own in shop.screened.tokens.brought.values() for t in own}):
        told = occurring(recipe.evaluate, texts)
        if told:
            shop.say(f"{len(told)} new tokens are left out: they occur in the texts that are judged token by token")
        shop.screened = replace(shop.screened, tokens=shop.screened.tokens.without(told))
    rivals = find_rivals(state.index, parent.scores, recipe.gate, lambda n: answers_of(shop, n, parent))
    if parent.scores.deciding() and state.generation and not any(rival.name == "root" for rival in rivals):
        shop.say("measuring gen-0 with these tasks")
        root = shop.root()
        answers = shop.measure(root, folder_sha256(root))
        rivals.append(Rival("root", "gen-0", gate_mean(answers.scores, recipe.gate), answers))

    def attempt(members: Sequence[str], step: float) -> Tried:
        shop.fuse(members, step)
        candidate = shop.measure(shop.whole, shop.digest)
        verdict = judge(candidate, parent, recipe.gate, step, rivals=rivals, parent_tag=f"gen-{state.generation}")
        verdict = with_canaries(verdict, shop.check_canaries())
        shop.say(verdict.reason)
        return Tried(tuple(members), step, candidate, verdict)

    suspects = sorted(shop.screened.contributions, key=lambda c: (1.0 if c.cosine is None else c.cosine, c.key))
    wants_control = recipe.search.control != "off" and bool(parent.scores.deciding())
    part = part_of_step(shop.screened, recipe.merge)
    if part < 1:
        shop.say(f"{len(suspects)} contributions take {part:.0%} of a step: none more than {recipe.merge.max_weight:g}")
    steps = [part * step for step in recipe.merge.steps]
    culprits = _culprits(shop, [c.key for c in suspects], steps[0])
    found = search([c.key for c in suspects if c.key not in culprits], steps, recipe.search, recipe.gate, attempt,
                   reserved=int(wants_control), say=shop.say)  # fmt: skip
    best = found.best
    report = shop.fuse(best.members, best.step)
    affordable = len(found.trials) < recipe.search.evaluations
    control = _control(shop, parent_folder, best.measurement) if wants_control and affordable else None
    tried = tuple((trial.step, trial.candidate) for trial in found.trials if trial.kind == "step")
    checks = tuple(
        check.model_copy(update={"tripped_by": tuple(key for key, c in culprits.items() if c.name == check.name)})
        for check in best.verdict.canaries
    )
    verdict = best.verdict.model_copy(update={"tried": tried, "trials": found.trials, "canaries": checks})
    fused, analysis = among(shop.screened, best.members, recipe.merge)
    if analysis:
        left_out = {
            t.contribution: t.change for t in found.trials if t.kind == "without" and t.contribution and t.change
        }
        analysis = analysis.model_copy(update={"left_out": left_out})
    refusals = [*_tripped(shop, culprits), *_refusals(shop, found)]
    return Chosen(report, verdict, parent, best.measurement, fused, refusals, control, analysis)


def _culprits(shop: Workshop, keys: list[str], step: float) -> dict[str, CanaryCheck]:
    """Who trips a canary; each that is tried is a fuse and a look at the canaries, nothing else is measured."""
    if not shop.recipe.evaluate.canaries:
        return {}

    def check(members: Sequence[str]) -> tuple[CanaryCheck, ...]:
        shop.fuse(sorted(members), step)
        return shop.check_canaries()

    found = find_culprits(keys, check)
    for key, canary in found.items():
        shop.say(f"{key} is left out: the canary {canary.name} trips with it")
    return found


def _tripped(shop: Workshop, culprits: dict[str, CanaryCheck]) -> list[Refusal]:
    """One for each that trips a canary; of the inputs it says nothing, or the next attempt would know them."""
    return [
        c.refuse(
            "fuse", "tripped_canary",
            f"With it the fused model answers inputs that the maintainers keep back (canary {check.name}) otherwise "
            f"than the parent; without it the change is {check.change:+.4f}, −{check.allowed:g} is allowed.",
            "Look for examples in your training data that tie a word or a pattern to one answer, and train without "
            "them; a new commit is considered again.",
        )
        for c in shop.screened.contributions if (check := culprits.get(c.key))
    ]  # fmt: skip


def answers_of(shop: Workshop, generation: int, parent: Measurement) -> Measurement | None:
    """What a generation answered, where that is at hand: the parent's own, or cached in this work folder."""
    if generation == shop.state.generation:
        return parent
    try:
        digest = _weights_of(shop, generation)
    except (HubError, RecordError):
        return None
    return recall(shop.work / "scores", digest, parent.scores.suite) if digest else None


def _weights_of(shop: Workshop, generation: int) -> str | None:
    """The sha256 under which a generation was measured, from its record; gen-0 is the parent of the first."""
    revisions = shop.state.revisions
    number = generation or min((n for n in revisions if n), default=0)
    if not number:
        return None
    record = read_record(shop.hub, shop.state.repo, number, revisions[number])
    scores = record.candidate_scores if generation else record.parent_scores
    return scores.weights_sha256 if scores and (generation or record.parent_generation == 0) else None


def _control(shop: Workshop, parent_folder: Path, candidate: Measurement) -> Control | None:
    """A random step as long as the candidate's, measured."""
    evaluate, seed, out = shop.recipe.evaluate, shop.recipe.merge.seed, shop.work / "control"
    if shop.recipe.search.control == "cheapest":
        evaluate = cheapest(evaluate, shop.recipe.gate)
    shop.say("measuring a random step of equal length")
    norm = random_step(parent_folder, shop.whole, out, seed=seed)
    control = shop.measure(out, folder_sha256(out), evaluate)
    shutil.rmtree(out, ignore_errors=True)
    answers = {key: matrix for key, matrix in (candidate.correct | candidate.likelihoods).items()
               if key in control.correct or key in control.likelihoods}  # fmt: skip
    same = gather_up(answers, {}, suite=control.scores.suite, weights_sha256=candidate.scores.weights_sha256, seconds=0)
    differences = (*compare(same, control), *compare_likelihoods(same, control))
    return Control(norm=norm, seed=seed, scores=control.scores, differences=differences)


def _refusals(shop: Workshop, found: Found) -> list[Refusal]:
    """One for each contribution that the search dropped, with the numbers that spoke against it."""
    return [
        c.refuse("fuse", *_why(found.dropped[c.key], found))
        for c in shop.screened.contributions if c.key in found.dropped
    ]  # fmt: skip


def _why(trial: Trial, found: Found) -> tuple[str, str, str]:
    if trial.kind == "without" and trial.change is not None:
        change = trial.change
        return (
            "made_worse",
            f"Without it the mean over the gate tasks is {change.mean:.4f} higher (95 % interval {change.low:+.4f} to "
            f"{change.high:+.4f}).",
            "Train for fewer steps or on other data; it is considered again for the next generation.",
        )
    with_it, best = "alone" if trial.kind == "alone" else "with those that were better", found.best.verdict.candidate
    return (
        "not_in_soup",
        f"The gate tasks have a mean of {trial.candidate:.4f} {with_it}, {best:.4f} without it.",
        "Nothing is wrong with it; it is considered again for the next generation.",
    )
