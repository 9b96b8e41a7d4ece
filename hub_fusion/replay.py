"""A whole lineage once more with another merge method, from what is still there of it.

A contribution that was trained from the published gen-k keeps its task vector τ = c − gen-k; in the replay τ is added
to the *replayed* parent, whose weights its author never saw. So a replay answers what the method makes of the very same
changes, not what the loop would have become: people would have trained from other weights, and the gate might have
decided otherwise (it is not asked). The further a replayed parent lies from the published one, the less its τs fit it;
the distances say how far. With the methods, options and steps of the records, the replay is the published lineage, bit
by bit. Not covered: configuration files that changed between generations; the replayed ones have those of gen-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import MergeError, RecordError, RepoMissing
from hub_fusion.evaluate.suite import measure, suite_id
from hub_fusion.events import Say
from hub_fusion.hub import Hub
from hub_fusion.merge import find_method
from hub_fusion.publish.state import BaseState, open_base
from hub_fusion.recipe import Evaluate, Screen
from hub_fusion.records import Generation, Scores
from hub_fusion.replan import Found, find_contributions, formula_of, open_generation, plan_again
from hub_fusion.weights.distance import Distance, distance
from hub_fusion.weights.fuse import FusePlan, Progress, folder_sha256, fuse, weights_sha256
from hub_fusion.weights.remote import ADAPTER, Spool, fetch_checkpoint

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute


@dataclass(frozen=True)
class Replayed:
    """One generation of a replay; without contributions that are left, it is its parent again."""

    generation: int
    parent: int
    folder: Path
    fused: int
    missing: tuple[str, ...]  # ``repo@sha`` of what was left out
    weights_sha256: str  # one hash for the whole checkpoint
    equal: bool  # to the published one, bit by bit
    distance: Distance  # of the replayed and the published weights, seen from the root
    scores: Scores | None = None
    published_scores: Scores | None = None


@dataclass(frozen=True)
class Variation:
    """What a replay does otherwise than the records; None is as recorded."""

    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    step: float | None = None

    def applied(self, plan: FusePlan) -> FusePlan:
        """The plan with it."""
        if self.method is not None:
            plan = replace(plan, method=self.method, options=dict(self.options))
        return plan if self.step is None else replace(plan, step=self.step)


def replay(
    hub: Hub, repo: str, compute: Compute, out: Path, work: Path, *, method: str | None = None,
    options: Mapping[str, Any] | None = None, step: float | None = None, skip_missing: bool = False,
    evaluate: Evaluate | None = None, say: Say = lambda _: None, progress: Progress | None = None,
) -> list[Replayed]:  # fmt: skip
    """Make all generations of `repo` again in ``out/gen-N``, by `method` with `options` (default: as recorded).

    Weights, caps, seeds and, unless `step` is given, steps are those of the records. With `evaluate` (a recipe's
    section) the replayed generations and the published ones are measured. Raises RepoMissing naming what is gone,
    unless `skip_missing` leaves it out: then the weights of the others grow in proportion. RecordError, MergeError.
    """
    if method is not None:
        find_method(method).bind(options or {})
    if step is not None and not 0 < step <= 1:
        raise MergeError(f"a step is a part of the way, in (0, 1], not {step}")
    state = open_base(hub, repo, mend=False)
    records = [open_generation(hub, repo, f"gen-{e.generation}")[0] for e in state.index.generations if e.generation]
    if not records:
        raise RecordError(f"{repo} is at gen-0: there is nothing to replay")
    if adapters := [str(r.tag) for r in records if ADAPTER in r.weights]:
        raise RecordError(f"{', '.join(adapters)} of {repo} are adapters, whose mean no other method replaces: "
                          "hub-fusion reproduce fuses one of them again")  # fmt: skip
    try:
        found = find_contributions(hub, repo, records, partly=skip_missing)
    except RepoMissing as error:
        raise RepoMissing(f"{error}. A replay without them: --skip-missing") from None
    made: dict[int, Replayed] = {}
    variation, spool = Variation(method, options or {}, step), Spool(work / "spool", Screen().spool_bytes)
    for record in records:
        done = _replay_one(hub, state, record, made, found, compute, out, spool, variation, say, progress)
        made[record.generation] = _measured(hub, state, record, done, evaluate, compute, work, say)
    return list(made.values())


def _replay_one(
    hub: Hub, state: BaseState, record: Generation, made: Mapping[int, Replayed], found: dict[str, Found],
    compute: Compute, out: Path, spool: Spool, variation: Variation, say: Say, progress: Progress | None,
) -> Replayed:  # fmt: skip
    """One generation onto its replayed parent."""
    number, root = record.generation, fetch_checkpoint(hub, state.repo, state.revisions[0])
    parent = number - 1 if record.parent_generation is None else record.parent_generation
    if parent and parent not in made:
        raise RecordError(
            f"the record of gen-{number} of {state.repo} names the parent gen-{parent}, which is not older"
        )
    at = str(formula_of(record).base_revision)
    onto = made[parent].folder if parent else fetch_checkpoint(hub, state.repo, at, residual=True)
    missing = tuple(c.key for c in record.contributions if c.key not in found)
    if missing:
        say(f"{record.tag}: {len(missing)} of {len(record.contributions)} contributions are gone and left out: "
            f"{', '.join(missing)}")  # fmt: skip
    plan = variation.applied(plan_again(hub, state.repo, record, onto, out / f"gen-{number}", found, spool, say))
    folder, equal = onto, False
    if plan.sources:
        say(f"fusing gen-{number}: {len(plan.sources)} contributions by {plan.method}, step {plan.step:g}")
        equal = compute.together(fuse, plan, progress=progress).files == record.weights
        folder = plan.out
    spool.empty()
    published = fetch_checkpoint(hub, state.repo, state.revisions[number])
    far = distance(folder, published, root)
    return Replayed(number, parent, folder, len(plan.sources), missing, folder_sha256(folder), equal, far)


def _measured(
    hub: Hub, state: BaseState, record: Generation, done: Replayed, evaluate: Evaluate | None, compute: Compute,
    work: Path, say: Say,
) -> Replayed:  # fmt: skip
    """With the scores of both, if there are tasks; those of the record serve where the suite is the same."""
    if evaluate is None or not evaluate.tasks:
        return done
    cache, device = work / "scores", compute.device

    def scores(folder: Path, sha256: str) -> Scores:
        return measure(folder, evaluate, weights_sha256=sha256, cache=cache, device=device, progress=say).scores

    known = record.candidate_scores
    if known is None or known.suite != suite_id(evaluate):
        published = fetch_checkpoint(hub, state.repo, state.revisions[record.generation])
        known = scores(published, weights_sha256(record.weights))
    return replace(done, scores=scores(done.folder, done.weights_sha256), published_scores=known)
