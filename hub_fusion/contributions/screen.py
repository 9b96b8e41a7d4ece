"""What the weights must pass before they are fused: headers first (kilobytes), then every tensor once.

Headers: the format's laws, the base's names and shapes; of statistics too (see brought.py). Tensors: finite, changed,
not noise, not a copy of another contribution, of a length like the others' (far too long is refused, somewhat too long
is capped). Survivors stay in the spool.
Not covered: backdoors of normal length and clean accuracy. Such an attack passes; the gate may or may not notice it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.contributions.added import TokenScreen
from hub_fusion.contributions.brought import Brought, Wanted, check_brought, check_values
from hub_fusion.contributions.judgement import is_noise, judge_tensors
from hub_fusion.contributions.policy import refuse_standing
from hub_fusion.contributions.votes import capped, votes
from hub_fusion.errors import HeaderError, HubError, HubUnreachable, RepoMissing, WeightsError
from hub_fusion.events import Say
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Refusal, files_identity
from hub_fusion.weights.adapter import LoraConfig, MemoryNames, plan_adapter
from hub_fusion.weights.adapter_members import check_member
from hub_fusion.weights.checkpoint import Checkpoint, TensorSpec
from hub_fusion.weights.deltas import Deltas, Source, base_memory_names, sharing_opener
from hub_fusion.weights.measure import Measures, measure
from hub_fusion.weights.names import MismatchError, match_names
from hub_fusion.weights.noise import find_order
from hub_fusion.weights.remote import ADAPTER, ADAPTER_CONFIG, Spool, read_headers, weight_files
from hub_fusion.weights.statistics import BESIDE
from hub_fusion.weights.tokens import NO_TOKENS, NewTokens
from hub_fusion.weights.vocabulary import with_rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub_fusion.hub import FileInfo, Hub
    from hub_fusion.weights.compute import Compute

ROOM = 10**9  # bytes of weight files beyond four times the base in float32: heads of its own
ARCHITECTURE_FIX = "Train from this base without changing its layers; new heads are fine."
NOT_FETCHED = "not_fetched"  # no verdict on what it is: the next look may find it
FIXES = {"quantized": "Publish the weights in 16 or 32 bits, not quantised."}
Prepare = Callable[[Contribution, Source], tuple[Contribution, Source]]


@dataclass(frozen=True)
class Screened:
    """The survivors, ready to be fused, in canonical order."""

    contributions: list[Contribution]  # with norm, scale, weight and cosine
    sources: list[Source]
    refusals: list[Refusal]
    measures: Measures | None = None  # of the survivors, in their order; None if there are none
    tokens: NewTokens = NO_TOKENS  # that they bring, where the recipe keeps them


def check_headers(
    hub: Hub,
    c: Contribution,
    base: Mapping[str, TensorSpec],
    memory: MemoryNames,
    *,
    frozen: bool = False,
    wanted: Wanted | None = None,
) -> tuple[list[FileInfo], Refusal | None]:
    """The contribution's files for the fuse, and why its headers do not pass, if they do not. Reads kilobytes.

    `memory` gives the base's names in memory; it is asked only for adapters whose targets are not names on disk.
    `frozen`: the base's generations are adapters, which not all that can enter weights can be part of.
    `wanted`: the statistics that the recipe's method asks for.
    """
    paired: dict[str, str] = {}
    try:
        sizes = hub.files(c.repo, c.sha)
    except HubUnreachable:
        raise  # not the contribution's fault
    except HubError as error:
        return [], _not_fetched(c, error)
    try:
        names = [ADAPTER] if c.relation == "adapter" else weight_files(hub, c.repo, c.sha, sizes)
        size = sum(sizes[name].size for name in names)
        most = 4 * 4 * sum(prod(spec.shape) for spec in base.values()) + ROOM
        if size > most:
            reason = f"Its weight files have {size} bytes; for this base {most} are allowed."
            return [], c.refuse("screen", "too_large", reason, "Publish the weights alone, in float32 or smaller.")
        headers = read_headers(hub, c.repo, c.sha, names, sizes)
        if c.relation == "adapter":
            text = hub.read_text(c.repo, ADAPTER_CONFIG, revision=c.sha, max_bytes=1_000_000)
            config = LoraConfig.from_json(text, source=f"{c.repo}/{ADAPTER_CONFIG}")
            plan_adapter(config, headers, base, memory)
            if frozen:
                check_member(config, headers, c.repo)
            names.append(ADAPTER_CONFIG)
        else:
            paired = match_names(base, headers).names
        if wanted:
            brought = Brought.on_hub(hub, c, sizes)
            if refusal := check_brought(c, wanted, brought, base, headers, paired):
                return [], refusal
            names += [BESIDE] if brought else []
    except MismatchError as error:
        return [], misfit(c, error)
    except HeaderError as error:
        return [], c.refuse("screen", "malformed_weights", f"{error}.", "Save it again with safetensors and upload it.")
    except HubUnreachable:
        raise  # not the contribution's fault
    except (WeightsError, HubError, KeyError) as error:
        if isinstance(error, RepoMissing) and not _is_there(hub, c):  # what is at a commit may be known from before
            return [], _not_fetched(c, error)
        return [], c.refuse("screen", "unsupported_weights", f"{error}.", "Publish the full model in safetensors.")
    return [sizes[name] for name in names], None


def screen(
    hub: Hub, chosen: Sequence[Contribution], recipe: Recipe, base_folder: Path, origins: Mapping[int, Path],
    spool: Spool, compute: Compute, say: Say, prepare: Prepare = lambda c, source: (c, source), *, newest: int = 0,
) -> Screened:  # fmt: skip
    """Headers, download into the spool, one pass over all tensors. `origins` maps generations to their folders.

    `newest`: the generation that is fused onto, from which ages are counted.
    `prepare` may put something else in the place of a downloaded contribution, or raise WeightsError.
    """
    base = Checkpoint.open(base_folder)
    wanted = Wanted.of(recipe, (base_folder / "config.json").read_text, base)
    added = TokenScreen.open(base, base_folder, say) if recipe.merge.vocab == "keep" else None
    opener = sharing_opener()
    refusals: list[Refusal] = []
    spooled: list[tuple[Contribution, Source]] = []
    for number, c in enumerate(chosen, start=1):
        say(f"screening {number}/{len(chosen)} {c.repo}")
        files, refusal = check_headers(
            hub,
            c,
            with_rows_of(base, opener(origins[c.generation or 0])),
            partial(base_memory_names, base_folder),
            frozen=recipe.publish.kind == "adapter",
            wanted=wanted,
        )
        refusal = refusal or _standing(hub, c, recipe)
        if refusal is None:
            try:
                folder = spool.fetch(hub, c.repo, c.sha, files)
            except HubUnreachable:
                raise
            except (WeightsError, HubError) as error:
                refusal = c.refuse("screen", "not_fetched", f"{error}.", "Nothing you can do; it is tried again.")
            else:
                source = Source(c.key, folder, origins[c.generation or 0], c.relation)
                c, source, refusal = _open(hub, c, source, base, base_folder, prepare, say, added)
                if refusal is None and wanted:
                    refusal = check_values(c, folder, wanted)
                if refusal is None:
                    read = files_identity({file.path: file.sha256 or file.oid for file in files})
                    spooled.append((c.model_copy(update={"files_sha256": read}), source))
                    continue
        refusals.append(refusal)
    if not spooled:
        return Screened([], [], refusals)
    say(f"reading {len(spooled)} contributions")
    measures = _measured(spooled, recipe, base_folder, compute, say)
    kept, more, scales = judge_tensors([c for c, _ in spooled], measures, recipe.screen)
    people = [spooled[i][0] for i in kept]
    shares = votes(people, recipe.merge.vote, measures.only(kept))
    weights, _ = capped(people, shares, recipe.merge.vote, recipe.merge.max_weight)
    effective = [0.0] * len(spooled)
    for i, weight in zip(kept, weights, strict=True):
        age = max(newest - (spooled[i][0].generation or 0), 0)
        scales[i] = (scales[i] if recipe.merge.cap else 1.0) * recipe.round.age_discount**age
        effective[i] = weight * scales[i]
    contributions, sources = [], []
    for i, weight in zip(kept, weights, strict=True):
        c, source = spooled[i]
        update = {"norm": measures.norm(i), "scale": scales[i], "weight": weight,
                  "cosine": measures.cosine_with_mean(i, effective)}  # fmt: skip
        contributions.append(c.model_copy(update=update))
        sources.append(Source(source.key, source.folder, source.origin, source.relation, weight, scales[i]))
    tokens = added.tokens([c.key for c in contributions]) if added else NO_TOKENS
    return Screened(contributions, sources, refusals + more, measures.only(kept), tokens)


def _measured(
    spooled: Sequence[tuple[Contribution, Source]], recipe: Recipe, base_folder: Path, compute: Compute, say: Say
) -> Measures:
    """All that the judgement asks of tensors, and what of it is for people."""
    sources = [source for _, source in spooled]
    measures = compute.together(measure, sources, base_folder)
    if recipe.screen.noise == "off":
        return measures
    measures = replace(measures, order=compute.together(find_order, sources, base_folder, measures))
    if unknown := [spooled[i][0].repo for i, apart in measures.order.items() if apart is None]:
        say(f"{len(unknown)} contributions change no matrix that is large enough to tell training from noise: "
            f"{', '.join(unknown[:3])}{' …' * (len(unknown) > 3)}")  # fmt: skip
    if recipe.screen.noise == "note":
        for i in (i for i in measures.order if measures.noise(i)):
            say(f"  {spooled[i][0].repo}: {is_noise(measures, i)}")
    return measures


def _standing(hub: Hub, c: Contribution, recipe: Recipe) -> Refusal | None:
    """What the Hub itself has against it."""
    rules = recipe.contributions
    if rules.security_scan == "ignore" and not rules.min_downloads:
        return None
    try:
        return refuse_standing(c, hub.standing(c.repo, c.sha), rules)
    except RepoMissing as error:
        return _not_fetched(c, error)


def _is_there(hub: Hub, c: Contribution) -> bool:
    try:
        return bool(hub.model(c.repo))
    except RepoMissing:
        return False


def _not_fetched(c: Contribution, error: HubError | WeightsError) -> Refusal:
    return c.refuse("screen", NOT_FETCHED, f"{error}.", "Nothing you can do, if it is there; it is tried again.")


def misfit(c: Contribution, error: MismatchError) -> Refusal:
    """The refusal of a contribution whose tensors are not the base's."""
    fix = FIXES.get(error.code, ARCHITECTURE_FIX)
    return c.refuse("screen", error.code, f"It does not fit the base: {error}.", fix)


def _open(
    hub: Hub,
    c: Contribution,
    source: Source,
    base: Checkpoint,
    base_folder: Path,
    prepare: Prepare,
    say: Say,
    added: TokenScreen | None,
) -> tuple[Contribution, Source, Refusal | None]:
    """What is to be measured, prepared; or why it cannot be opened, which would stop the pass over all tensors."""
    try:
        c, source = prepare(c, source)
        opened = Deltas(source, base, base_folder)
        for note in opened.notes:
            say(f"  {note}")
        refusal = added.look(hub, c, opened, source.origin) if added and isinstance(source.origin, Path) else None
    except MismatchError as error:
        return c, source, misfit(c, error)
    except WeightsError as error:
        fix = "Publish the full model in safetensors, or a plain LoRA adapter."
        return c, source, c.refuse("screen", "unsupported_weights", f"{error}.", fix)
    return c, source, refusal
