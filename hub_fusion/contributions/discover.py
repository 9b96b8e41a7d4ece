"""Hub listings → contributions, and which of them enter this round. Metadata only; nothing is downloaded.

What declares the base (or an alias of it) is found by the Hub's own tag ``base_model:BASE``, finetunes and adapters
among it by ``base_model:finetune:BASE`` and ``base_model:adapter:BASE``; ``contributions.include`` adds repositories by
name. Every call lists everything: listing.py is for those who look again and again. A card is a stranger's text: fields
of the wrong type count as absent, and are told (card.py). Not covered: finetunes of unlisted mirrors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hub_fusion.contributions.card import MOST, REVISION, faults_of, languages, mapping, text, texts
from hub_fusion.errors import HubError, HubUnreachable
from hub_fusion.recipe import Recipe, Round
from hub_fusion.records import Attempt, Contribution, Refusal, Relation

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

    from hub_fusion.hub import Hub

RELATIONS: tuple[Relation, ...] = ("finetune", "adapter")
OPT_IN, OPT_OUT = "hub-fusion", "no-fusion"
BASE_TAG = "hub-fusion-base:"  # followed by the commit it was trained from: for cards that a tool rewrites
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def discover(hub: Hub, recipe: Recipe) -> tuple[list[Contribution], list[Refusal]]:
    """Everything that could be fused, in canonical order, each pinned to its newest commit.

    Refusals are of what its authors offer and cannot be one, and of included repositories that cannot be read. Raises
    HubError where listing itself fails.
    """
    listed = [r for base in (recipe.base, *recipe.aliases) for i in hub.children(base) if (r := read_child(i, base))]
    return put_together(recipe, [*listed, *read_included(hub, recipe)])


def put_together(recipe: Recipe, read: Iterable[Contribution | Refusal]) -> tuple[list[Contribution], list[Refusal]]:
    """What was read of all names of the base, each repository once: as it is included, else as it was listed first."""
    included = {name.lower() for name in recipe.contributions.include}
    own = {recipe.base.lower(), *(alias.lower() for alias in recipe.aliases)}
    found: dict[str, Contribution | Refusal] = {}
    for record in read:
        key = record.repo.lower()
        if key not in own and (key not in found or key in included):
            found[key] = record
    kept = [r for r in found.values() if isinstance(r, Contribution)]
    return sorted(kept, key=lambda c: c.key), [r for r in found.values() if isinstance(r, Refusal)]


def read_child(info: ModelInfo, base: str) -> Contribution | Refusal | None:
    """A repository that a listing of the base's children names, by the relation in the Hub's tags.

    A refusal if it is quantised or merged of several and its author offers it; None if nobody does.
    """
    tags = {tag.lower() for tag in info.tags or [] if isinstance(tag, str)}
    relation = next((r for r in RELATIONS if f"base_model:{r}:{base.lower()}" in tags), None)
    if not info.sha:
        return None
    found = from_model_info(info, relation or "finetune")
    if relation or not found.consent:
        return found if relation else None
    if f"base_model:quantized:{base.lower()}" in tags:
        return found.refuse("discover", "quantized", "The Hub says that it is a quantised copy of the base.",
                            "Publish the weights that were trained, in 16 or 32 bits, without .gguf or .onnx files "
                            "beside them, or set base_model_relation in the card.")  # fmt: skip
    return found.refuse("discover", "merged", "It is merged from several models, or the Hub says so.",
                        "Contribute the models that were trained; merging them is what happens here.")  # fmt: skip


def read_included(hub: Hub, recipe: Recipe) -> Iterator[Contribution | Refusal]:
    """The repositories that the recipe includes by name, one request each."""
    for repo in recipe.contributions.include:
        try:
            info = hub.model(repo)
        except HubUnreachable:
            raise
        except HubError as error:
            yield Refusal(repo=repo, sha="", author=repo.partition("/")[0], stage="discover", code="not_found",
                          reason=str(error),
                          fix="Check the name in contributions.include, and that the token may read it.")  # fmt: skip
            continue
        adapter = any(s.rfilename == "adapter_config.json" for s in info.siblings or [])
        yield from_model_info(info, "adapter" if adapter else "finetune")


def from_model_info(info: ModelInfo, relation: Relation) -> Contribution:
    """A contribution from what the Hub says about a repository."""
    raw = getattr(info, "card_data", None)
    card, files = mapping(raw), tuple(s.rfilename for s in info.siblings or [])
    ours = mapping(card.get("hub_fusion"))
    tags = tuple(t for t in info.tags or [] if isinstance(t, str))
    bases = card.get("base_model")
    base = bases[0] if isinstance(bases, list) and len(bases) == 1 else bases
    claims = [ours.get("base_revision"), *(t.removeprefix(BASE_TAG) for t in tags if t.startswith(BASE_TAG))]
    revision = next((r for r in claims if isinstance(r, str) and REVISION.fullmatch(r)), None)
    return Contribution(
        repo=info.id,
        sha=str(info.sha),
        relation=relation,
        author=info.id.partition("/")[0],
        license=text(card.get("license")),
        task=text(ours.get("task")),
        datasets=texts(card.get("datasets")),
        base=text(base),
        base_revision=revision,
        consent=(OPT_IN in tags or ours.get("contribute") is True) and "generation" not in ours,  # no other loop's base
        tags=tags,
        private=info.private is True,
        gated=bool(info.gated),
        created_at=info.created_at,
        last_modified=info.last_modified,
        files=files,
        languages=languages(card),
        library=text(getattr(info, "library_name", None)) or text(card.get("library_name")),
        parameters=_count(mapping_of(getattr(info, "safetensors", None)).get("total")),
        ancestors=tuple(_ancestors(card, tags))[:MOST],
        faults=faults_of(raw, has_readme="README.md" in files),
    )


def mapping_of(value: Any) -> dict[str, Any]:
    """A mapping, or the fields of the client's object for one."""
    return value if isinstance(value, dict) else getattr(value, "__dict__", {})


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def bases_of(info: ModelInfo) -> tuple[str, ...]:
    """All bases that a repository's card declares."""
    return texts(mapping(getattr(info, "card_data", None)).get("base_model"))


def _ancestors(card: dict[str, Any], tags: Iterable[str]) -> Iterator[str]:
    """What a model says it was made from, once each: its bases, by card and by the Hub's tags, and merged models."""
    seen = set()
    tagged = (tag.rpartition(":")[2] for tag in tags if tag.startswith("base_model:"))
    for name in (*texts(card.get("base_model")), *texts(card.get("merged_models")), *tagged):
        if name not in seen and "/" in name:
            seen.add(name)
            yield name


def due(kept: Sequence[Contribution], rule: Round, now: datetime) -> str | None:
    """Why a fuse is due, or None: enough contributions, or two and the oldest has waited `max_wait`."""
    if len(kept) >= rule.min_contributions:
        return f"{len(kept)} contributions are ready, {rule.min_contributions} are needed"
    waited = max((now - _since(c) for c in kept), default=timedelta(0))
    if len(kept) >= 2 and waited >= rule.max_wait:
        return f"{len(kept)} contributions are ready and the oldest has waited {waited}"
    return None


def choose(kept: Sequence[Contribution], rule: Round) -> list[Contribution]:
    """Which contributions enter this round, in canonical order; the others wait for the next one.

    `diverse` takes the newest of every account before the second of any; `all` takes all, beyond `max_contributions`.
    """
    newest = sorted(kept, key=lambda c: (_since(c), c.key), reverse=True)
    if rule.choose == "all":
        return sorted(kept, key=lambda c: c.key)
    if rule.choose == "oldest":
        newest.reverse()
    elif rule.choose == "diverse":
        turn: defaultdict[str, int] = defaultdict(int)
        order: list[tuple[int, int, Contribution]] = []
        for contribution in newest:
            order.append((turn[contribution.author], len(order), contribution))
            turn[contribution.author] += 1
        newest = [c for _, _, c in sorted(order, key=lambda entry: entry[:2])]
    return sorted(newest[: rule.max_contributions], key=lambda c: c.key)


def untried(kept: Sequence[Contribution], attempts: Sequence[Attempt]) -> list[Contribution]:
    """Those that none of these attempts was made with, and none left out because the result was worse with them."""
    tried = {c.key for attempt in attempts for c in attempt.contributions}
    tried |= {r.key for attempt in attempts for r in attempt.refusals if r.stage == "fuse"}
    return [c for c in kept if c.key not in tried]


def _since(contribution: Contribution) -> datetime:
    return contribution.last_modified or contribution.created_at or EPOCH
