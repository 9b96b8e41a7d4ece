"""What may enter the next generation: listed, filtered, its origin found, and screened into the spool."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.contributions.discover import EPOCH, discover
from hub_fusion.contributions.filters import QUIET, Circumstances, filter_contributions
from hub_fusion.contributions.listing import Listing
from hub_fusion.contributions.nearest import Nearest
from hub_fusion.contributions.origin import Generations, identify_weights, resolve_origin, too_old
from hub_fusion.contributions.screen import Screened, screen
from hub_fusion.errors import RecipeError
from hub_fusion.events import Say
from hub_fusion.hub import Hub
from hub_fusion.publish.state import BaseState, check_base, read_fused
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Refusal
from hub_fusion.weights.frozen import FrozenBase
from hub_fusion.weights.remote import ADAPTER, Spool, fetch_checkpoint

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute


def find_contributions(
    recipe: Recipe, hub: Hub, state: BaseState, listing: Listing | None = None
) -> tuple[list[Contribution], list[Refusal]]:
    """What the Hub offers for the next generation, and what metadata rules refuse (but for the quiet refusals).

    With a `listing` that has been kept also what headers refuse.
    """
    fused = read_fused(hub, state).keys
    if listing:
        weights_at = state.revisions[0] if recipe.publish.kind == "adapter" else state.head
        queue, refusals = listing.look(hub, recipe, fused, weights_at, state.revisions[0])
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
    fused, refusals, fresh = read_fused(hub, state), list[Refusal](), list[Contribution]()
    nearest = None if is_adapter else Nearest(hub, recipe.base, {number: sha for number, sha, _ in generations.commits})
    for c in chosen:
        found = resolve_origin(identify_weights(c, hub), generations, hub, frozen=is_adapter, nearest=nearest,
                               fused_into=fused.first)  # fmt: skip
        if isinstance(found, Contribution):
            if found.known_by == "tensors" and found.base_revision:
                say(f"{c.repo} says it started from {found.base_revision}; its weights say gen-{found.generation}")
            found = too_old(found, state.generation, recipe.round) or found
        if isinstance(found, Refusal):
            refusals.append(found)
        elif found.weights_sha256 in fused.keys:
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
