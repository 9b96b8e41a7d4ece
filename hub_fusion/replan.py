"""From a published record back to the plan that made it: what reproduce and replay share.

Every field of a record is a stranger's input: repositories have the form of one, methods come from the registry,
numbers and dtypes pass the engine's checks, and no field becomes a path. Contributions come from their repositories at
the commit that was fused, or from an archive; there they must have the same files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hub_fusion.errors import HubError, HubUnreachable, RecordError, RepoMissing, WeightsError
from hub_fusion.events import Say
from hub_fusion.hub import FileInfo, Hub
from hub_fusion.publish.archive import Archive, default_archive, files_read, folder_of
from hub_fusion.publish.state import read_record
from hub_fusion.recipe import Recipe
from hub_fusion.records import AddedToken, Credit, Formula, Generation, generation_number
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan
from hub_fusion.weights.remote import Spool, fetch_checkpoint

REPO = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Found:
    """Where a contribution's files are: its own repository, or a folder of an archive."""

    credit: Credit
    repo: str
    revision: str
    files: list[FileInfo]
    inside: str = ""

    def fetch(self, hub: Hub, spool: Spool) -> Path:
        """Its folder, downloaded and verified."""
        return spool.fetch(hub, self.repo, self.revision, self.files) / self.inside


def open_generation(hub: Hub, repo: str, tag: str) -> tuple[Generation, str]:
    """The record of ``gen-N``, and its commit. Raises RepoMissing for an unknown tag, RecordError for the root."""
    number, tags = generation_number(tag), hub.tags(repo)
    if number is None or tag not in tags:
        known = ", ".join(sorted((t for t in tags if generation_number(t)), key=lambda t: generation_number(t) or 0))
        raise RepoMissing(f"{repo} has no generation {tag!r}; there are {known or 'none yet'}")
    if number == 0:
        raise RecordError(f"gen-0 of {repo} is the root, which nothing was fused into: ask for gen-1 or later")
    record = read_record(hub, repo, number, tags[tag])
    strange = [c.repo[:100] for c in record.contributions if not REPO.fullmatch(c.repo) or ".." in c.repo]
    vague = [c.key for c in record.contributions if c.weight is None or (c.origin_revision or c.generation) is None]
    if strange or vague or not record.contributions or not record.weights:
        raise RecordError(
            f"the record of {tag} of {repo} does not say enough: it needs contributions and weight files "
            f"({len(record.contributions)}, {len(record.weights)}), names of repositories (not {strange[:3]}), and of "
            f"every contribution weight and origin (lacking for {vague[:3]})"
        )
    return record, tags[tag]


def formula_of(record: Generation) -> Formula:
    """What decided the bytes; from the recipe where the record is from before there was a formula in it."""
    found = record.formula
    if found is None:
        merge = Recipe.from_text(record.recipe, source=f"the recipe in the record of {record.tag}").merge
        found = Formula(options=merge.options, seed=merge.seed, heads=merge.heads, residual=merge.residual)
    base = found.base_revision or record.parent_revision
    if base is None:
        raise RecordError(f"the record of {record.tag} does not say which revision of the base was fused onto")
    return found.model_copy(update={"base_revision": base})


def find_contributions(hub: Hub, repo: str, records: Sequence[Generation], *, partly: bool = False) -> dict[str, Found]:
    """Where everything that went into these generations is now, by ``repo@sha``.

    Raises RepoMissing naming all that is nowhere; if `partly` they are left out instead.
    """
    names = {r.archive for r in records if r.archive and REPO.fullmatch(r.archive)} | {default_archive(repo)}
    archives = [archive for name in sorted(names) if (archive := Archive.open(hub, name))]
    found: dict[str, Found] = {}
    gone: dict[str, str] = {}
    for record in records:
        for credit in record.contributions:
            try:
                found[credit.key] = _find(hub, credit, archives)
            except HubUnreachable:
                raise
            except (HubError, WeightsError) as error:
                gone[credit.key] = f"{credit.key} ({record.tag}): {error}"
    if gone and not partly:
        looked = (
            ", ".join(a.repo for a in archives) or f"no archive ({', '.join(sorted(names))}) that this token may see"
        )
        raise RepoMissing(
            f"{repo} cannot be fused again: {len(gone)} of {len(found) + len(gone)} contributions cannot be read, and "
            f"{looked} has no copy: {'; '.join(gone.values())}"
        )
    return found


def _find(hub: Hub, credit: Credit, archives: Sequence[Archive]) -> Found:
    try:
        return Found(credit, credit.repo, credit.sha, files_read(hub, credit))
    except HubUnreachable:
        raise
    except (HubError, WeightsError):
        for archive in archives:
            if files := archive.copy_of(credit):
                return Found(credit, archive.repo, archive.head, files, folder_of(credit))
        raise


def plan_again(
    hub: Hub, repo: str, record: Generation, base: Path, out: Path, found: dict[str, Found], spool: Spool, say: Say
) -> FusePlan:  # fmt: skip
    """The plan that made a generation, onto `base`, of those of its contributions that were found; downloads them."""
    sources = []
    tags = hub.tags(repo)
    for credit in record.contributions:
        if credit.key not in found:
            continue
        say(f"fetching {credit.key}")
        origin = credit.origin_revision or tags.get(f"gen-{credit.generation}")
        if origin is None:
            raise RecordError(f"{repo} has no tag gen-{credit.generation}, which {credit.key} started from")
        sources.append(Source(credit.key, found[credit.key].fetch(hub, spool), fetch_checkpoint(hub, repo, origin),
                              credit.relation, float(credit.weight or 0), credit.scale))  # fmt: skip
    formula = formula_of(record)
    return FusePlan(base, out, tuple(sources), record.method, formula.options, record.step, formula.heads,
                    formula.dtype, formula.seed, formula.residual,
                    tokens=tokens_of(record, {s.key for s in sources}))  # fmt: skip


def tokens_of(record: Generation, keys: Collection[str]) -> tuple[AddedToken, ...]:
    """The new tokens of a generation with the rows of these contributions alone.

    Raises RecordError if nobody is left who has one of them: the ids of those after it would be others.
    """
    left = [t.model_copy(update={"rows": {k: n for k, n in t.rows.items() if k in keys}}) for t in record.tokens]
    gone = [t for t, kept in zip(record.tokens, left, strict=True) if not kept.rows]
    if gone:
        raise RecordError(
            f"{record.tag} has {len(gone)} tokens that only what is left out brought ({gone[0].content!a} of "
            f"{', '.join(gone[0].rows)[:200]}); without them later tokens would have other ids"
        )
    return tuple(left)
