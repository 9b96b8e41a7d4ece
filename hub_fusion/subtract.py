"""The next generation without a contribution that was withdrawn: the newest one, fused again from its record.

What a generation was fused from can be left out of it. What later contributors *trained* on it cannot: their weights
hold what they learned from the withdrawn one too, and nothing here untrains them. So only the newest generation can be
subtracted from; for older ones the error says what is left to do. The result is judged by the gate against the newest
generation's own parent, with the newest one marked as withdrawn, in the same commit. Not covered: generations that are
adapters.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.contributions.relations import part_of_step
from hub_fusion.contributions.screen import Screened
from hub_fusion.errors import MergeError, RecordError
from hub_fusion.events import Event, Say
from hub_fusion.finish import Outcome, check_recipe, finish_round, round_id
from hub_fusion.hub import Hub
from hub_fusion.lock import alone
from hub_fusion.provenance import Clock
from hub_fusion.publish.proposal import open_proposal
from hub_fusion.publish.rollback import marked
from hub_fusion.publish.state import BaseState, check_base, fused_credits, open_base, record_path
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Credit, Generation, Refusal, Withdrawal, now
from hub_fusion.replan import find_contributions, formula_of, open_generation, plan_again, tokens_of
from hub_fusion.weights.fuse import Progress
from hub_fusion.weights.remote import ADAPTER, Spool, fetch_checkpoint
from hub_fusion.weights.tokens import NewTokens

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute

FIX = "Nothing to do; it was taken out at its author's or the maintainer's wish."


def subtract(
    recipe: Recipe, hub: Hub, compute: Compute, repo: str, reason: str, *, work: Path, say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Outcome:  # fmt: skip
    """Publish the newest generation again without what came from `repo`, as the next one, if the gate accepts it.

    Method, options, step and caps are the record's, votes are counted anew. Raises RecordError for a repository that
    is not in the newest generation or is alone in it, or while a pull request awaits a decision.
    """
    check_recipe(recipe)
    with alone(work, say):
        state = open_base(hub, recipe.base, recipe.root)
        check_base(hub, state)
        record, gone, left = _parted(hub, state, repo)
        try:
            tokens_of(record, {c.key for c in left})
        except RecordError as error:
            raise RecordError(f"{error}: hub-fusion rollback {state.repo} {record.tag}") from None
        if recipe.publish.mode == "pull-request" and (open := open_proposal(hub, state, say, dry_run=True)):
            raise RecordError(f"pull request {open.number} for gen-{open.generation} awaits a decision: merge it or "
                              "close it first")  # fmt: skip
        say(Event("subtract", f"fusing {record.tag} again without {', '.join(c.key for c in gone)}"))
        withdrawal = Withdrawal(reason=reason, at=now(), to_generation=state.next_generation)
        index = marked(state.index, {record.generation}, withdrawal)
        before = replace(state, index=index)  # as if it had not been: its parent is the newest
        onto = str(formula_of(record).base_revision)
        base = fetch_checkpoint(hub, recipe.base, onto, residual=True)
        spool = Spool(work / "spool", recipe.screen.spool_bytes)
        rest = record.model_copy(update={"contributions": tuple(left)})
        found = find_contributions(hub, recipe.base, [rest])
        plan = plan_again(hub, recipe.base, rest, base, work / "candidate", found, spool, say)
        fused = [Contribution.model_validate(c.model_dump()) for c in left]
        screened = Screened(fused, list(plan.sources), [], tokens=NewTokens.from_plan(plan.tokens))
        rules = _as_recorded(recipe, record, part_of_step(screened, recipe.merge))
        refusals = [_refusal(Contribution.model_validate(c.model_dump()), reason) for c in gone]
        yanked = record.model_copy(update={"status": "yanked", "withdrawn": withdrawal})
        return finish_round(rules, hub, compute, before, base, screened, refusals,
                            round_id(rules, before, [c.sha for c in left]), work, Clock(), say, progress, onto=onto,
                            beside={record_path(record.generation): yanked.to_json(indent=1) + "\n"})  # fmt: skip


def _parted(hub: Hub, state: BaseState, repo: str) -> tuple[Generation, list[Credit], list[Credit]]:
    """The newest record, and its contributions: those of `repo`, and the others."""
    older = sorted({n for n, c in fused_credits(hub, state) if n != state.generation and _same(c.repo, repo)})
    deeper = "" if not older else (
        f"{repo} went into {', '.join(f'gen-{n}' for n in older)}. What was trained on top of that cannot be "
        f"untrained: hub-fusion rollback {state.repo} gen-{older[0]} gives up everything since; hub-fusion replay "
        "--skip-missing fuses the lineage without it, from task vectors that were learned in its presence"
    )  # fmt: skip
    if not state.generation:
        raise RecordError(f"{state.repo} is at gen-0, which nothing was fused into")
    record, _ = open_generation(hub, state.repo, f"gen-{state.generation}")
    gone = [c for c in record.contributions if _same(c.repo, repo)]
    left = [c for c in record.contributions if not _same(c.repo, repo)]
    if not gone:
        raise RecordError(deeper or f"{repo} is in no generation of {state.repo}: there is nothing to subtract")
    if not left:
        raise RecordError(f"{record.tag} was fused from {repo} alone: hub-fusion rollback {state.repo} {record.tag}")
    if ADAPTER in record.weights:
        raise MergeError(f"{record.tag} is an adapter, and only whole models can be subtracted from: roll it back")
    if older:
        raise RecordError(deeper)
    return record, gone, left


def _same(one: str, other: str) -> bool:
    return one.lower() == other.lower()


def _as_recorded(recipe: Recipe, record: Generation, part: float) -> Recipe:
    """The recipe, with the formula of the record and its step, and nothing to search.

    `part` of a step is what a round lets those who are left take, of every step; the record's has such a part in it.
    """
    formula = formula_of(record)
    merge = recipe.merge.model_copy(update={"method": record.method, "options": formula.options, "seed": formula.seed,
                                            "heads": formula.heads, "residual": formula.residual,
                                            "steps": (min(1.0, record.step / part),)})  # fmt: skip
    search = recipe.search.model_copy(update={"contributions": "all"})
    return recipe.model_copy(update={"merge": merge, "search": search})


def _refusal(contribution: Contribution, reason: str) -> Refusal:
    return contribution.refuse("fuse", "subtracted", f"It was withdrawn: {reason}.", FIX)
