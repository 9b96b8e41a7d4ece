"""THE MAIN PATH: one round, from the Hub's listing to the next generation.

discover → filter → choose → screen → fuse → evaluate → gate → publish. Everything a round needs to know is read from
the Hub at its beginning; everything it decides is written there at its end, in one commit. It can be killed anywhere
and run again: the same contributions give the same bytes, and a generation is published once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hub_fusion.budget import Meter
from hub_fusion.contributions.aside import set_aside
from hub_fusion.contributions.discover import choose, due, untried
from hub_fusion.contributions.listing import Listing
from hub_fusion.deeds import Deeds, Direct
from hub_fusion.errors import BudgetSpent
from hub_fusion.events import Event, Say, named
from hub_fusion.finish import Outcome, check_recipe, finish_round, headroom, round_id
from hub_fusion.forecast import check_room, forecast
from hub_fusion.hub import Hub
from hub_fusion.lock import alone
from hub_fusion.provenance import Clock
from hub_fusion.publish.channel import is_off
from hub_fusion.publish.commit import PublishConflict
from hub_fusion.publish.state import BaseState, check_base, fused_credits, open_base
from hub_fusion.publish.status import read_status, waiting
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Later, Status, now
from hub_fusion.screening import find_contributions, screen_round
from hub_fusion.weights.fuse import Progress

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute


def run_generation(
    recipe: Recipe, hub: Hub, compute: Compute, *, work: Path, say: Say = lambda _: None, dry_run: bool = False,
    progress: Progress | None = None, listing: Listing | None = None, deeds: Deeds | None = None,
) -> Outcome:  # fmt: skip
    """Try to make the next generation of ``recipe.base``. Call it in the main process; its peers ``compute.serve()``.

    `work` is a folder for downloads, candidates and cached measurements; it may be deleted between rounds. When
    somebody else publishes first the round starts over, once. `progress` follows a fuse. With a `listing` only what has
    changed is listed, and headers are read of all in the queue, not only of those chosen. What changes the Hub is left
    to `deeds`; without, it is done at once, with the token of `hub`. Raises HubFusionError.
    """
    check_recipe(recipe)
    deeds = deeds or Direct(recipe, hub, work, say)
    if dry_run:
        return _round(recipe, hub, deeds, compute, work, say, dry_run, progress, listing)
    with alone(work, say):
        try:
            return _round(recipe, hub, deeds, compute, work, say, dry_run, progress, listing)
        except PublishConflict as error:
            say(f"{error}; starting over")
            return _round(recipe, hub, deeds, compute, work, say, dry_run, progress, listing)


def _round(
    recipe: Recipe, hub: Hub, deeds: Deeds, compute: Compute, work: Path, say: Say, dry_run: bool,
    progress: Progress | None, listing: Listing | None,
) -> Outcome:  # fmt: skip
    state = open_base(hub, recipe.base, recipe.root, mend=False)
    if state.untagged and not dry_run:
        deeds.mend(state)
    say(Event("look", f"{recipe.base} is at gen-{state.generation}", generation=state.generation))
    check_base(hub, state)
    if recipe.publish.mode == "pull-request" and (open := deeds.proposal(state, dry_run=dry_run)):
        why = f"pull request {open.number} for gen-{open.generation} awaits a decision: merge or close it"
        return Outcome("waiting", why, recipe.base, state.generation)
    for _ in range(3):  # what is about to be fused may have gone or changed without being listed anew
        queue, refusals = find_contributions(recipe, hub, state, listing)
        status = read_status(hub, state, as_of_state=recipe.publish.mode == "commit")  # `proposal` may have changed it
        aside = set_aside(queue, status.aside, round_id(recipe, state, []), recipe.rescan)
        queue, refusals = aside.left, [*refusals, *aside.refusals]
        reason = due(queue, recipe.round, now())
        chosen, id = _next(recipe, state, queue, status)
        before = [attempt for attempt in status.rejected if attempt.id == id]
        judged = {*(entry.id for entry in state.index.entries), *(other.id for other in status.proposed)}
        known = bool(before) or id in judged
        if listing is None or known or reason is None or listing.confirm(hub, recipe, chosen):
            break
    if not dry_run and is_off(state, recipe.publish.hold_back, status.stable):
        deeds.keep_stable(state)
    later = _later(listing, recipe, hub, state, status, say) if listing and not dry_run else None
    meter = Meter.open(recipe.budget, work, state.next_generation, status)
    refusals += [refusal for attempt in before for refusal in attempt.refusals if refusal.stage == "screen"]
    if dry_run or known or reason is None:
        if not dry_run:
            deeds.tell_queue(state.generation, waiting(queue), refusals, headroom(meter, work, compute), later=later)
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
        failed = {r.key for r in screened.refusals}
        left = [c for c in queue if c.key not in failed]
        deeds.tell_queue(state.generation, waiting(left), refusals, headroom(meter, work, compute),
                         aside.with_more(screened.refusals), later)  # fmt: skip
        why = f"{_too_few(len(screened.contributions), recipe)}; {len(failed)} failed the screen"
        return Outcome("waiting", why, recipe.base, state.generation, queue=tuple(left), refusals=tuple(refusals))
    try:
        return finish_round(recipe, hub, compute, state, base, screened, refusals, id, work, clock, say, progress,
                            meter=meter, deeds=deeds)  # fmt: skip
    except BudgetSpent:
        deeds.tell_headroom(headroom(meter, work, compute))
        raise


def _later(listing: Listing, recipe: Recipe, hub: Hub, state: BaseState, status: Status, say: Say) -> tuple[Later, ...]:
    """Fused contributions that are not what they were; those that the status does not tell yet are said."""
    later = listing.later(hub, recipe, fused_credits(hub, state))
    for one in later:
        if one not in status.later:
            say(Event("later", f"{one.repo} is part of gen-{one.generation}. {one.reason} To take it out again: "
                               f"hub-fusion subtract {one.repo} --reason …", repo=one.repo, code=one.code))  # fmt: skip
    return later


def _next(
    recipe: Recipe, state: BaseState, queue: list[Contribution], status: Status
) -> tuple[list[Contribution], str]:
    """Who is chosen, and the attempt's id. Those whom the gate rejected let others go first, if there are enough."""
    chosen = choose(queue, recipe.round)
    id = round_id(recipe, state, [c.sha for c in chosen])
    others = untried(queue, status.rejected)
    if id not in {attempt.id for attempt in status.rejected} or due(others, recipe.round, now()) is None:
        return chosen, id
    chosen = choose(others, recipe.round)
    return chosen, round_id(recipe, state, [c.sha for c in chosen])


def _too_few(ready: int, recipe: Recipe) -> str:
    return f"{ready} contributions are ready, {recipe.round.min_contributions} are needed"
