"""Fuse a published generation again from its record, and compare: the record is enough, or it says what is missing.

The gate is not asked again: bytes are compared, not scores. Not covered: a parent whose commit was squashed away.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import RecordError
from hub_fusion.events import Say
from hub_fusion.hub import Hub
from hub_fusion.provenance import hardware, versions
from hub_fusion.recipe import Recipe, Screen
from hub_fusion.records import Contribution, Generation, generation_number
from hub_fusion.replan import Found, find_contributions, formula_of, open_generation, plan_again
from hub_fusion.weights.checkpoint import SINGLE
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.distance import distance
from hub_fusion.weights.frozen import FrozenBase
from hub_fusion.weights.fuse import FuseReport, Progress, fuse
from hub_fusion.weights.remote import ADAPTER, Spool, fetch_checkpoint

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute

DECISIVE = ("hub-fusion", "torch", "numpy", "numba")  # what may move the last bits of a fuse


@dataclass(frozen=True)
class Reproduction:
    """What came of fusing a generation again. `published` and `fused` map weight files to sha256."""

    repo: str
    generation: int
    revision: str
    published: dict[str, str]
    fused: dict[str, str]
    archived: tuple[str, ...]  # ``repo@sha`` of what had to be read from an archive
    remarks: tuple[str, ...]  # what differs between then and now and may explain a difference of bytes
    apart: float | None  # if not equal: the largest difference of any weight

    @property
    def equal(self) -> bool:
        """Whether every weight file has the same bytes."""
        return self.published == self.fused


def reproduce(
    hub: Hub, repo: str, tag: str, compute: Compute, work: Path, *, say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Reproduction:  # fmt: skip
    """Fuse the generation `tag` (``gen-N``) of `repo` again in the folder `work`, and compare its weight files.

    What was fused again stays in ``work/candidate`` if it is not equal. Raises RepoMissing naming every contribution
    that is gone and not archived, RecordError for records that do not say enough, MergeError, WeightsError, HubError.
    """
    record, revision = open_generation(hub, repo, tag)
    notes = remarks(record, compute)
    for note in notes:
        say(note)
    found = find_contributions(hub, repo, [record])
    out, spool = work / "candidate", Spool(work / "spool", Screen().spool_bytes)
    if ADAPTER in record.weights:
        report = fuse_adapters(hub, repo, record, out, found, spool, say)
    else:
        base = fetch_checkpoint(hub, repo, str(formula_of(record).base_revision), residual=True)
        plan = plan_again(hub, repo, record, base, out, found, spool, say)
        say(f"fusing {len(plan.sources)} contributions by {plan.method}, step {plan.step:g}")
        report = compute.together(fuse, plan, progress=progress)
    apart = None
    if report.files == record.weights:
        shutil.rmtree(out)
    else:
        published = fetch_checkpoint(hub, repo, revision)
        apart = distance(out, published, published, ADAPTER if ADAPTER in record.weights else SINGLE).largest
    spool.empty()
    archived = tuple(f.credit.key for f in found.values() if f.inside)
    return Reproduction(repo, record.generation, revision, record.weights, report.files, archived, notes, apart)


def fuse_adapters(
    hub: Hub, repo: str, record: Generation, out: Path, found: dict[str, Found], spool: Spool, say: Say
) -> FuseReport:  # fmt: skip
    """A generation that is an adapter, in `out`: the parent's, and what was learned since the origins."""
    revisions = {n: sha for tag, sha in hub.tags(repo).items() if (n := generation_number(tag)) is not None}
    parent = record.parent_generation or 0
    needed = {0, parent, *(c.generation or 0 for c in record.contributions)}
    if lost := sorted(needed - set(revisions)):
        raise RecordError(f"{repo} has no tags {', '.join(f'gen-{n}' for n in lost)}, which {record.tag} was made from")
    rank = formula_of(record).rank
    if rank is None:
        rank = Recipe.from_text(record.recipe, source=f"the recipe in the record of {record.tag}").publish.rank
    frozen = FrozenBase.open(hub, repo, revisions, needed, out.parent)
    sources = []
    for credit in record.contributions:
        say(f"fetching {credit.key}")
        source = Source(credit.key, found[credit.key].fetch(hub, spool), frozen.root, credit.relation,
                        float(credit.weight or 0), credit.scale)  # fmt: skip
        sources.append(frozen.since_origin(Contribution.model_validate(credit.model_dump()), source)[1])
    say(f"fusing {len(sources)} adapters, step {record.step:g}, rank {rank}")
    report = frozen.fuse(parent, sources, record.step, rank, out, say)
    shutil.rmtree(out.parent / "changes", ignore_errors=True)
    return report


def remarks(record: Generation, compute: Compute) -> tuple[str, ...]:
    """What is different here from where the generation was made, as sentences."""
    then, here = record.hardware, hardware(compute.device, compute.processes)
    found = []
    kinds = [str(h.get("device", "an unknown device")).partition(":")[0] for h in (then, here)]
    keys = ("device", "name", "machine")
    if kinds[0] != kinds[1] or any(k in then and k in here and then[k] != here[k] for k in keys[1:]):
        was, now = (", ".join(str(h[k])[:60] for k in keys if k in h) for h in (then, here))
        found.append(f"{record.tag} was fused on another kind of device ({was}; here {now}): equal bytes are claimed "
                     "on the same kind only")  # fmt: skip
    old = {name.replace("_", "-"): str(version)[:40] for name, version in record.versions.items()}
    new = versions()
    other = [f"{n} {old[n]} (here {new.get(n, 'none')})" for n in DECISIVE if n in old and old[n] != new.get(n)]
    if other:
        found.append(f"{record.tag} was fused with other versions, which may round otherwise: {', '.join(other)}")
    return tuple(found)
