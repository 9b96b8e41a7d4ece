"""From what passed the screen to a generation: fuse, measure, judge, publish, and tell how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hub_fusion.analysis import analyse, look_back
from hub_fusion.budget import Meter
from hub_fusion.candidates import Workshop, best_candidate
from hub_fusion.contributions.filters import QUIET
from hub_fusion.contributions.screen import Screened
from hub_fusion.deeds import Deeds, Direct
from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.canaries import canaries_id
from hub_fusion.evaluate.heads import fit_heads
from hub_fusion.evaluate.scores import compare, compare_likelihoods
from hub_fusion.evaluate.suite import suite_id
from hub_fusion.events import Event, Say
from hub_fusion.forecast import free_disk, free_memory
from hub_fusion.hub import Hub
from hub_fusion.merge import find_method
from hub_fusion.provenance import Clock, hardware, versions
from hub_fusion.publish.keep import keep_contributions
from hub_fusion.publish.state import BaseState, fused_credits
from hub_fusion.recipe import Recipe, contaminations
from hub_fusion.records import (
    Attempt,
    Contribution,
    Formula,
    Generation,
    Headroom,
    Refusal,
    attempt_id,
    now,
    tell_refusals,
)
from hub_fusion.weights.frozen import FrozenBase
from hub_fusion.weights.fuse import Progress
from hub_fusion.weights.remote import Spool

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute


@dataclass(frozen=True)
class Outcome:
    """What a round came to. `waiting`: too few contributions; `known`: just these were judged before."""

    status: Literal["published", "proposed", "rejected", "waiting", "known", "planned"]
    reason: str
    base: str
    generation: int
    record: Attempt | None = None
    revision: str | None = None
    queue: tuple[Contribution, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def headroom(meter: Meter, work: Path, compute: Compute) -> Headroom:
    """What this machine and the budget have left."""
    return Headroom(generation=meter.generation, disk_free=free_disk(work), memory_free=free_memory(compute.device),
                    spent=meter.spent, budget=meter.limits)  # fmt: skip


def round_id(recipe: Recipe, state: BaseState, shas: list[str]) -> str:
    """The id of the attempt to fuse these contributions (those chosen, before the screen) onto the base as it is."""
    asked = suite_id(recipe.evaluate) + canaries_id(recipe.evaluate)
    return attempt_id(state.revision, recipe.decisive(), asked, shas)


def finish_round(
    recipe: Recipe, hub: Hub, compute: Compute, state: BaseState, base: Path, screened: Screened,
    refusals: list[Refusal], id: str, work: Path, clock: Clock, say: Say, progress: Progress | None = None, *,
    dry_run: bool = False, meter: Meter | None = None, onto: str | None = None, beside: Mapping[str, str] | None = None,
    deeds: Deeds | None = None,
) -> Outcome:  # fmt: skip
    """Fuse, measure, judge and publish what passed the screen. `dry_run` stops before the Hub is changed.

    `onto` is the commit that `base` was read at, if it is not main's; `beside` are texts for the generation's commit.
    Without `deeds` they are done at once.
    """
    check_recipe(recipe)
    deeds = deeds or Direct(recipe, hub, work, say)
    refusals = [refusal for refusal in refusals if refusal.code not in QUIET]
    frozen = None
    if recipe.publish.kind == "adapter":
        frozen = FrozenBase.open(hub, recipe.base, state.revisions, [state.generation], work)
    shop = Workshop(recipe, hub, compute, state, base, screened, work, clock, say, progress, frozen)
    chosen = best_candidate(shop)
    refusals += chosen.refusals
    verdict = chosen.verdict
    credits = tuple(c.to_credit() for c in chosen.contributions)
    tainted = contaminations(recipe.evaluate.tasks, [*fused_credits(hub, state), *((None, c) for c in credits)])
    if tainted:
        say(f"no longer held out, by what contributions say of their data: {', '.join(t.task for t in tainted)}")
    told = tell_refusals(refusals)
    record = Attempt(
        id=id, status="rejected", base=recipe.base, root=recipe.root or state.index.root, created_at=now(),
        parent_generation=state.generation, parent_revision=state.revision, recipe=recipe.to_yaml(),
        contributions=credits, refusals=told.refusals, refused=told.refused,
        method=recipe.merge.method, step=verdict.step,
        formula=Formula(options=find_method(recipe.merge.method).options | recipe.merge.options,  # defaults may change
                        seed=recipe.merge.seed, heads=recipe.merge.heads, base_revision=onto or state.head,
                        residual=recipe.merge.residual,
                        rank=recipe.publish.rank if frozen else None),
        tokens=shop.screened.tokens.of([c.key for c in chosen.contributions]),
        parent_scores=chosen.parent.scores, candidate_scores=chosen.candidate.scores,
        analysis=analyse(shop, chosen), retention=look_back(shop),
        differences=compare(chosen.candidate, chosen.parent),
        likelihood_differences=compare_likelihoods(chosen.candidate, chosen.parent), control=chosen.control,
        verdict=verdict, contaminated=tainted, weights=chosen.report.files, versions=versions(),
        hardware=hardware(compute.device, compute.processes), seconds=clock.seconds, spent=meter.spent if meter else {},
    )  # fmt: skip
    if not verdict.accepted:
        if not dry_run:
            deeds.tell_rejected(record, headroom(meter, work, compute) if meter else None)
        return Outcome("rejected", verdict.reason, recipe.base, state.generation, record, refusals=tuple(refusals))
    generation = Generation(**{**dict(record), "status": "published", "generation": state.next_generation})
    if dry_run:
        return Outcome("planned", verdict.reason, recipe.base, state.generation, generation, refusals=tuple(refusals))
    spool = Spool(work / "spool", recipe.screen.spool_bytes)
    kept = keep_contributions(deeds, hub, recipe, state, chosen.contributions, spool, say)
    generation = generation.model_copy(update={"archive": kept})
    generation = fit_heads(recipe, generation, work / "candidate", work / "scores", compute.device, say)
    say(Event("commit", f"publishing {generation.tag}", generation=generation.generation))
    revision = deeds.publish(state, generation, beside)
    if revision.startswith("refs/pr/"):
        number = revision.rpartition("/")[2]
        return Outcome("proposed", f"pull request {number} awaits a decision; {verdict.reason}", recipe.base,
                       state.generation, generation, revision, refusals=tuple(refusals))  # fmt: skip
    spool.empty()
    return Outcome("published", verdict.reason, recipe.base, generation.generation, generation, revision,
                   refusals=tuple(refusals))  # fmt: skip


def check_recipe(recipe: Recipe) -> None:
    """Before anything is downloaded: MergeError for a bad method or option, RecipeError if nothing would be measured.

    That is allowed where the recipe says that it is meant.
    """
    find_method(recipe.merge.method).bind(recipe.merge.options)
    if recipe.publish.kind == "adapter" and recipe.merge.method != "mean":
        raise RecipeError(f"merge.method is {recipe.merge.method}, but adapters are fused by their mean: "
                          "set it to mean, or publish.kind to weights")  # fmt: skip
    if recipe.publish.kind == "adapter" and recipe.merge.residual:
        raise RecipeError("merge.residual keeps what rounding of weights lost, and generations here are adapters: "
                          "set it to false, or publish.kind to weights")  # fmt: skip
    if recipe.publish.kind == "adapter" and recipe.merge.vocab == "keep":
        raise RecipeError("merge.vocab is keep, and generations here are adapters, which have no rows of new tokens: "
                          "set it to drop, or publish.kind to weights")  # fmt: skip
    if recipe.gate.require_tasks and not recipe.evaluate.tasks:
        raise RecipeError("evaluate.tasks is empty, so nothing says whether the result is a better base: "
                          "name held-out tasks, or set gate.require_tasks: false to publish unmeasured")  # fmt: skip
    roles = {str(task.role) for task in recipe.evaluate.tasks}
    if roles and not roles & {"None", "gate"}:
        raise RecipeError(f"evaluate.tasks has none that decides, only {' and '.join(sorted(roles))} tasks: "
                          "give one that no contributor trains on role: gate, or leave its role out")  # fmt: skip
