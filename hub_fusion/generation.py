"""THE MAIN PATH: one round, from the Hub's listing to the next generation.

discover → filter → choose → screen → fuse → evaluate → gate → publish. Everything a round needs to know is read from
the Hub at its beginning; everything it decides is written there at its end, in one commit. It can be killed anywhere
and run again: the same contributions give the same bytes, and a generation is published once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hub_fusion.analysis import analyse, look_back
from hub_fusion.budget import Meter
from hub_fusion.candidates import Workshop, best_candidate
from hub_fusion.contributions.discover import EPOCH, choose, discover, due
from hub_fusion.contributions.filters import QUIET, Circumstances, filter_contributions
from hub_fusion.contributions.listing import Listing
from hub_fusion.contributions.nearest import Nearest
from hub_fusion.contributions.origin import Generations, identify_weights, resolve_origin, too_old
from hub_fusion.contributions.screen import Screened, screen
from hub_fusion.errors import BudgetSpent, RecipeError
from hub_fusion.evaluate.heads import fit_heads
from hub_fusion.evaluate.scores import compare, compare_likelihoods
from hub_fusion.evaluate.suite import suite_id
from hub_fusion.events import Event, Say, named
from hub_fusion.forecast import check_room, forecast, free_disk, free_memory
from hub_fusion.hub import Hub
from hub_fusion.merge import find_method
from hub_fusion.provenance import Clock, hardware, versions
from hub_fusion.publish.channel import keep_stable
from hub_fusion.publish.commit import PublishConflict, publish
from hub_fusion.publish.keep import keep_contributions
from hub_fusion.publish.proposal import open_proposal
from hub_fusion.publish.state import BaseState, check_base, fused_credits, fused_keys, open_base
from hub_fusion.publish.status import (
    read_status,
    tell_headroom,
    tell_proposed,
    tell_published,
    tell_queue,
    tell_rejected,
)
from hub_fusion.recipe import Recipe, contaminations
from hub_fusion.records import Attempt, Contribution, Formula, Generation, Headroom, Proposed, Refusal, attempt_id, now
from hub_fusion.weights.frozen import FrozenBase
from hub_fusion.weights.fuse import Progress
from hub_fusion.weights.remote import ADAPTER, Spool, fetch_checkpoint

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


def run_generation(
    recipe: Recipe, hub: Hub, compute: Compute, *, work: Path, say: Say = lambda _: None, dry_run: bool = False,
    progress: Progress | None = None, listing: Listing | None = None,
) -> Outcome:  # fmt: skip
    """Try to make the next generation of ``recipe.base``. Call it in the main process; its peers ``compute.serve()``.

    `work` is a folder for downloads, candidates and cached measurements; it may be deleted between rounds. When
    somebody else publishes first the round starts over, once. `progress` follows a fuse. With a `listing` only what has
    changed is listed, and headers are read of all in the queue, not only of those chosen. Raises HubFusionError.
    """
    check_recipe(recipe)
    if dry_run:
        return _round(recipe, hub, compute, work, say, dry_run, progress, listing)
    with alone(work, say):
        try:
            return _round(recipe, hub, compute, work, say, dry_run, progress, listing)
        except PublishConflict as error:
            say(f"{error}; starting over")
            return _round(recipe, hub, compute, work, say, dry_run, progress, listing)


def _round(
    recipe: Recipe, hub: Hub, compute: Compute, work: Path, say: Say, dry_run: bool, progress: Progress | None,
    listing: Listing | None,
) -> Outcome:  # fmt: skip
    state = open_base(hub, recipe.base, recipe.root, mend=not dry_run)
    say(Event("look", f"{recipe.base} is at gen-{state.generation}", generation=state.generation))
    check_base(hub, state)
    if recipe.publish.mode == "pull-request" and (open := open_proposal(hub, state, say, dry_run=dry_run)):
        why = f"pull request {open.number} for gen-{open.generation} awaits a decision: merge or close it"
        return Outcome("waiting", why, recipe.base, state.generation)
    for _ in range(3):  # what is about to be fused may have gone or changed without being listed anew
        queue, refusals = find_contributions(recipe, hub, state, listing)
        chosen = choose(queue, recipe.round)
        reason = due(queue, recipe.round, now())
        id = round_id(recipe, state, [c.sha for c in chosen])
        status = read_status(hub, state)
        before = [attempt for attempt in status.rejected if attempt.id == id]
        judged = {*(entry.id for entry in state.index.entries), *(other.id for other in status.proposed)}
        known = bool(before) or id in judged
        if listing is None or known or reason is None or listing.confirm(hub, recipe, chosen):
            break
    if not dry_run:
        keep_stable(hub, state, recipe.publish.hold_back, status.stable, say)
    meter = Meter.open(recipe.budget, work, state.next_generation, status)
    refusals += [refusal for attempt in before for refusal in attempt.refusals if refusal.stage == "screen"]
    if dry_run or known or reason is None:
        if not dry_run:
            tell_queue(hub, state, queue, refusals, headroom(meter, work, compute))
        word: Literal["known", "waiting", "planned"] = "known" if known else "planned" if reason else "waiting"
        why = "just these contributions were judged before" if known else reason or _too_few(len(queue), recipe)
        return Outcome(word, why, recipe.base, state.generation, queue=tuple(queue), refusals=tuple(refusals))
    needs = forecast(recipe, hub, state, chosen, work)
    meter.afford(needs.seconds, needs.downloaded)
    check_room(needs, work, hub.cache_dir, compute.device)
    meter.book(needs.downloaded)
    clock, say = Clock(meter), meter.watching(say)
    say(Event("screen", f"screening {len(chosen)} contributions", contributions=len(chosen)))
    with clock("screen"):
        base, screened = screen_round(recipe, hub, compute, state, chosen, work, named(say, "screen"))
        refusals += screened.refusals
    if listing:
        listing.remember(hub, screened.refusals)
    if due(screened.contributions, recipe.round, now()) is None:
        tell_queue(hub, state, screened.contributions, refusals, headroom(meter, work, compute))
        why = f"{_too_few(len(screened.contributions), recipe)}; {len(screened.refusals)} failed the screen"
        left = tuple(screened.contributions)
        return Outcome("waiting", why, recipe.base, state.generation, queue=left, refusals=tuple(refusals))
    try:
        return finish_round(recipe, hub, compute, state, base, screened, refusals, id, work, clock, say, progress,
                            meter=meter)  # fmt: skip
    except BudgetSpent:
        tell_headroom(hub, state.repo, headroom(meter, work, compute))
        raise


def headroom(meter: Meter, work: Path, compute: Compute) -> Headroom:
    """What this machine and the budget have left."""
    return Headroom(generation=meter.generation, disk_free=free_disk(work), memory_free=free_memory(compute.device),
                    spent=meter.spent, budget=meter.limits)  # fmt: skip


def round_id(recipe: Recipe, state: BaseState, shas: list[str]) -> str:
    """The id of the attempt to fuse these contributions (those chosen, before the screen) onto the base as it is."""
    return attempt_id(state.revision, recipe.decisive(), suite_id(recipe.evaluate), shas)


def find_contributions(
    recipe: Recipe, hub: Hub, state: BaseState, listing: Listing | None = None
) -> tuple[list[Contribution], list[Refusal]]:
    """What the Hub offers for the next generation, and what metadata rules refuse (but for the quiet refusals).

    With a `listing` that has been kept also what headers refuse.
    """
    fused = fused_keys(hub, state)
    if listing:
        weights_at = state.revisions[0] if recipe.publish.kind == "adapter" else state.head
        queue, refusals = listing.look(hub, recipe, fused, weights_at)
    else:
        found, refusals = discover(hub, recipe)
        queue, more = filter_contributions(found, Circumstances.of(hub, recipe, fused))
        refusals += more
    return queue, [r for r in refusals if r.code not in QUIET]


def screen_round(
    recipe: Recipe, hub: Hub, compute: Compute, state: BaseState, chosen: list[Contribution], work: Path, say: Say
) -> tuple[Path, Screened]:
    """The folder of the newest generation, and what of the chosen contributions passes the screen, spooled."""
    check_base(hub, state)
    is_adapter = recipe.publish.kind == "adapter"
    if not is_adapter and ADAPTER in hub.files(recipe.base, state.head):
        raise RecipeError(f"the generations of {recipe.base} are adapters: set publish.kind to adapter")
    generations = Generations.of(hub, recipe.base)
    if not generations.commits:  # nobody has tagged the root yet: a stage that runs alone does not
        generations = Generations(((0, state.revision, EPOCH),), {state.revision: 0})
    fused, refusals, fresh = fused_keys(hub, state), list[Refusal](), list[Contribution]()
    nearest = None if is_adapter else Nearest(hub, recipe.base, {number: sha for number, sha, _ in generations.commits})
    for c in chosen:
        found = resolve_origin(identify_weights(c, hub), generations, hub, frozen=is_adapter, nearest=nearest)
        if isinstance(found, Contribution):
            if found.known_by == "tensors" and found.base_revision:
                say(f"{c.repo} says it started from {found.base_revision}; its weights say gen-{found.generation}")
            found = too_old(found, state.generation, recipe.round) or found
        if isinstance(found, Refusal):
            refusals.append(found)
        elif found.weights_sha256 in fused:
            refusals.append(found.refuse(
                "screen", "already_fused", "These weights are part of a generation already, or are a generation's own.",
                "Nothing to do; publish the weights of a new training to contribute again."))  # fmt: skip
        else:
            fresh.append(found)
    chosen = fresh
    needed = sorted({c.generation or 0 for c in chosen})
    if is_adapter:
        return _screen_frozen(recipe, hub, compute, state, generations, fresh, refusals, work, say)
    folders = {n: fetch_checkpoint(hub, recipe.base, generations.revision(n)) for n in needed}
    spool = Spool(work / "spool", recipe.screen.spool_bytes)
    spool.retain(c.key for c in chosen)
    base = fetch_checkpoint(hub, recipe.base, state.head, residual=True)  # its weights, with the configuration of today
    screened = screen(hub, chosen, recipe, base, folders, spool, compute, say, newest=state.generation)
    return base, replace(screened, refusals=[*refusals, *screened.refusals])


def _screen_frozen(
    recipe: Recipe, hub: Hub, compute: Compute, state: BaseState, generations: Generations,
    chosen: list[Contribution], refusals: list[Refusal], work: Path, say: Say,
) -> tuple[Path, Screened]:  # fmt: skip
    """`screen_round` where generations are adapters: what is screened is what each learned since its origin."""
    shutil.rmtree(work / "changes", ignore_errors=True)
    revisions = {number: sha for number, sha, _ in generations.commits}
    frozen = FrozenBase.open(hub, recipe.base, revisions, {c.generation or 0 for c in chosen}, work)
    spool = Spool(work / "spool", recipe.screen.spool_bytes)
    spool.retain(c.key for c in chosen)
    origins = dict.fromkeys(revisions, frozen.root)
    screened = screen(hub, chosen, recipe, frozen.root, origins, spool, compute, say, frozen.since_origin,
                      newest=state.generation)  # fmt: skip
    return frozen.root, replace(screened, refusals=[*refusals, *screened.refusals])


def finish_round(
    recipe: Recipe, hub: Hub, compute: Compute, state: BaseState, base: Path, screened: Screened,
    refusals: list[Refusal], id: str, work: Path, clock: Clock, say: Say, progress: Progress | None = None, *,
    dry_run: bool = False, meter: Meter | None = None, onto: str | None = None, beside: Mapping[str, str] | None = None,
) -> Outcome:  # fmt: skip
    """Fuse, measure, judge and publish what passed the screen. `dry_run` stops before the Hub is changed.

    `onto` is the commit that `base` was read at, if it is not main's; `beside` are texts for the generation's commit.
    """
    check_recipe(recipe)
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
    record = Attempt(
        id=id, status="rejected", base=recipe.base, root=recipe.root or state.index.root, created_at=now(),
        parent_generation=state.generation, parent_revision=state.revision, recipe=recipe.to_yaml(),
        contributions=credits, refusals=tuple(refusals),
        method=recipe.merge.method, step=verdict.step,
        formula=Formula(options=find_method(recipe.merge.method).options | recipe.merge.options,  # defaults may change
                        seed=recipe.merge.seed, heads=recipe.merge.heads, base_revision=onto or state.head,
                        residual=recipe.merge.residual,
                        rank=recipe.publish.rank if frozen else None),
        parent_scores=chosen.parent.scores, candidate_scores=chosen.candidate.scores,
        analysis=analyse(shop, chosen), retention=look_back(shop),
        differences=compare(chosen.candidate, chosen.parent),
        likelihood_differences=compare_likelihoods(chosen.candidate, chosen.parent), control=chosen.control,
        verdict=verdict, contaminated=tainted, weights=chosen.report.files, versions=versions(),
        hardware=hardware(compute.device, compute.processes), seconds=clock.seconds, spent=meter.spent if meter else {},
    )  # fmt: skip
    if not verdict.accepted:
        if not dry_run:
            tell_rejected(hub, state, record, headroom(meter, work, compute) if meter else None)
        return Outcome("rejected", verdict.reason, recipe.base, state.generation, record, refusals=tuple(refusals))
    generation = Generation(**{**dict(record), "status": "published", "generation": state.next_generation})
    if dry_run:
        return Outcome("planned", verdict.reason, recipe.base, state.generation, generation, refusals=tuple(refusals))
    spool = Spool(work / "spool", recipe.screen.spool_bytes)
    kept = keep_contributions(hub, recipe, state, chosen.contributions, spool, say)
    generation = generation.model_copy(update={"archive": kept})
    generation = fit_heads(recipe, generation, work / "candidate", work / "scores", compute.device, say)
    say(Event("commit", f"publishing {generation.tag}", generation=generation.generation))
    rejected = tuple(attempt for attempt in read_status(hub, state).rejected if attempt.id != id)
    revision = publish(hub, state, work / "candidate", generation, rejected, license=recipe.license,
                       keep_formats=recipe.publish.keep_formats, keep_heads=recipe.heads.kind == "keep",
                       beside=beside, propose=recipe.publish.mode == "pull-request", say=say)  # fmt: skip
    if revision.startswith("refs/pr/"):
        proposed = Proposed(id=id, generation=generation.generation, number=int(revision.rpartition("/")[2]))
        tell_proposed(hub, state.repo, add=proposed)
        return Outcome("proposed", f"pull request {proposed.number} awaits a decision; {verdict.reason}", recipe.base,
                       state.generation, generation, revision, refusals=tuple(refusals))  # fmt: skip
    tell_published(hub, state, generation, rejected)
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
    if recipe.gate.require_tasks and not recipe.evaluate.tasks:
        raise RecipeError("evaluate.tasks is empty, so nothing says whether the result is a better base: "
                          "name held-out tasks, or set gate.require_tasks: false to publish unmeasured")  # fmt: skip
    roles = {str(task.role) for task in recipe.evaluate.tasks}
    if roles and not roles & {"None", "gate"}:
        raise RecipeError(f"evaluate.tasks has none that decides, only {' and '.join(sorted(roles))} tasks: "
                          "give one that no contributor trains on role: gate, or leave its role out")  # fmt: skip


@contextmanager
def alone(work: Path, say: Say) -> Iterator[None]:
    """One round at a time in a work folder: others wait here. The lock ends with the process, however it ends."""
    from filelock import FileLock, Timeout

    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another round is running in {work}; waiting for it (--work names another folder)")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _too_few(ready: int, recipe: Recipe) -> str:
    return f"{ready} contributions are ready, {recipe.round.min_contributions} are needed"
