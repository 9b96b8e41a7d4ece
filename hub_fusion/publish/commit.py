"""One generation → one commit, then one tag.

The plan is a list of operations before it is an action. The commit names its parent: whoever comes second gets a
conflict. If only the card was edited meanwhile (weights, configuration and lineage are as they were), the generation
is committed on the new head; otherwise PublishConflict tells the caller to start the round over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import HubConflict, OutputError, RecordError
from hub_fusion.events import Event, Say
from hub_fusion.hub import FileInfo, Hub
from hub_fusion.hub.pulls import Pulls
from hub_fusion.publish.card import render_card
from hub_fusion.publish.card_sections import withdrawn_notice
from hub_fusion.publish.lineage import INDEX_PATH, append
from hub_fusion.publish.notices import notice_files
from hub_fusion.publish.proposal import description
from hub_fusion.publish.state import BaseState, read_record, record_path
from hub_fusion.records import Attempt, Generation, Index, generation_number
from hub_fusion.weights.checkpoint import INDEX
from hub_fusion.weights.remote import ADAPTER, ADAPTER_CONFIG, HEAD, RESIDUAL
from hub_fusion.weights.tokens import FILES as VOCABULARY

if TYPE_CHECKING:
    from hub_fusion.hub import Operation

RECIPE_PATH = "fusion/recipe.yaml"
CARD = "README.md"
STALE = (
    ".bin",
    ".bin.index.json",
    ".h5",
    ".msgpack",
    ".pt",
    ".pth",
    ".ckpt",
    ".onnx",
    ".gguf",
    ".ot",
    ".tflite",
    ".mlmodel",
)
HEAD_FILES = ("head.safetensors", "head.json")
TRIES = 5
LAG_S = 1.0


class PublishConflict(HubConflict):
    """Somebody else published or changed the base while this round ran: start over from what is there now."""


def lineage_with(state: BaseState, record: Generation, rejected: tuple[Attempt, ...]) -> Index:
    """The index after this generation: rejected attempts since the last one, then the generation."""
    index: Index | None = None if state.index_is_new else state.index
    for attempt in (*rejected, record):
        index = append(index, attempt, revisions=state.revisions)
    assert index is not None
    return index


def plan_commit(
    candidate: Path, record: Generation, index: Index, rejected: tuple[Attempt, ...], card: str,
    there: Mapping[str, FileInfo], *, keep_formats: bool = False, keep_heads: bool = False,
    beside: Mapping[str, str] | None = None,
) -> list[Operation]:  # fmt: skip
    """What the commit does: the candidate's weights, card and records come, stale weight files go.

    `there` are the files of the head it is made on. Configuration and tokenizer are as they are there already, but for
    new tokens. An adapter comes beside the frozen weights. Heads of the record's tasks come; those of others go, unless
    `keep_heads`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    adapter = ADAPTER in record.weights
    wanted = {*record.weights, ADAPTER_CONFIG if adapter else INDEX, *(VOCABULARY if record.tokens else ())}
    files = {path.name: path for path in sorted(candidate.iterdir()) if path.name in wanted}
    files |= {f"fusion/{path.name}": path for path in sorted(candidate.glob("fusion/residual-*.st"))}
    heads = [candidate / "heads" / str(score.task) / name for score in record.heads for name in HEAD_FILES]
    files |= {path.relative_to(candidate).as_posix(): path for path in heads}
    texts = {CARD: card, record_path(record.generation): record.to_json(indent=1) + "\n",
             INDEX_PATH: index.to_json(indent=1) + "\n", RECIPE_PATH: record.recipe}  # fmt: skip
    texts |= beside or {}
    texts |= {f"fusion/attempts/{a.id}.json": a.to_json(indent=1) + "\n" for a in rejected}
    adds = [CommitOperationAdd(name, path) for name, path in files.items()]
    hashes = {a.path_in_repo: a.upload_info.sha256.hex() for a in adds}
    changed = [name for name, digest in record.weights.items() if hashes.get(name) != digest]
    if changed:
        raise OutputError(f"{candidate} no longer holds the bytes that were judged: {', '.join(changed)} changed")
    adds += [CommitOperationAdd(path, text.encode()) for path, text in texts.items()]
    old_shards = [p for p in there if "/" not in p and p.endswith((".safetensors", ".safetensors.index.json"))]
    old_shards += [p for p in there if RESIDUAL.fullmatch(p)]  # it belongs to the weights that go
    stale = [] if keep_formats else [p for p in there if p.lower().endswith(STALE) and not p.startswith("fusion/")]
    gone = {*old_shards, *stale} if not adapter else set()
    gone |= set() if keep_heads else {path for path in there if HEAD.fullmatch(path)}
    return [*adds, *(CommitOperationDelete(path) for path in sorted(gone - {a.path_in_repo for a in adds}))]


def publish(
    hub: Hub, state: BaseState, candidate: Path, record: Generation, rejected: tuple[Attempt, ...], *,
    license: str | None = None, keep_formats: bool = False, keep_heads: bool = False,
    beside: Mapping[str, str] | None = None, propose: bool = False, say: Say = lambda _: None,
) -> str:  # fmt: skip
    """Commit and tag a generation; gives its commit. To `propose` is to open a pull request; gives ``refs/pr/N``.

    Raises PublishConflict where the round must start over, HubConflict if somebody took the tag.
    """
    index = lineage_with(state, record, rejected)
    tag = f"gen-{record.generation}"
    head = state.head
    notices: dict[str, str] = {}
    for _ in range(TRIES):
        there = hub.files(state.repo, head)
        notices = notices or notice_files(hub, state, record, there, say)
        card = _card(hub, state, record, index, head, there, license)
        operations = plan_commit(candidate, record, index, rejected, card, there, keep_formats=keep_formats,
                                 keep_heads=keep_heads, beside={**notices, **(beside or {})})  # fmt: skip
        taken = hub.tags(state.repo).get(tag)
        if taken and hub.branches(state.repo)["main"] == head:  # else it is on a generation that came in between
            raise HubConflict(
                f"{state.repo} has a tag {tag} already, on {taken[:8]}, which is no generation: delete it"
            )
        try:
            if propose:
                text = description(record, _credits(record))
                return f"refs/pr/{Pulls(hub, state.repo).propose(operations, _title(record), text, head)}"
            revision = hub.commit(state.repo, operations, _title(record), description=_credits(record), parent=head)
        except HubConflict:
            head = _next_head(hub, state, head)
            continue
        say(Event("tag", f"{tag} is {revision[:8]}; tagging it", generation=record.generation, revision=revision))
        hub.tag(state.repo, tag, revision, f"Generation {record.generation}")
        return revision
    raise PublishConflict(f"{state.repo} keeps moving, or refuses commits on {head[:8]}; the round starts over")


def _next_head(hub: Hub, state: BaseState, head: str) -> str:
    """The new head if nothing that matters has changed since the round began."""
    moved = hub.branches(state.repo)["main"]
    if moved == head:
        time.sleep(LAG_S)  # a server that lags refuses a commit on main's own head
        return head
    if not same_but_card(hub, state.repo, moved, state.head):
        raise PublishConflict(f"{state.repo} moved from {state.head[:8]} to {moved[:8]} while the round ran")
    return moved


def same_but_card(hub: Hub, repo: str, one: str, other: str) -> bool:
    """Whether two commits have the same files, but for the card."""

    def decisive(revision: str) -> dict[str, str]:
        files = hub.files(repo, revision)
        return {path: file.oid for path, file in files.items() if path not in (CARD, ".gitattributes")}

    return decisive(one) == decisive(other)


def _card(
    hub: Hub, state: BaseState, record: Generation, index: Index, head: str, there: Mapping[str, FileInfo],
    license: str | None,
) -> str:  # fmt: skip
    from huggingface_hub import ModelCard

    previous = hub.read_text(state.repo, CARD, revision=head) if CARD in there else None
    try:
        front = ModelCard(previous).data.to_dict() if previous else {}
    except Exception:  # any way a hand-written header can be broken; a new one is written
        front = {}
    known = license or front.get("license")
    return render_card(record, index, license=known if isinstance(known, str) else None, front=front, previous=previous,
                       endpoint_url=hub.endpoint)  # fmt: skip


def card_of(hub: Hub, state: BaseState, revision: str | None = None) -> str:
    """The card of a generation (``gen-N``; default: the newest), rendered from its record as it is on the Hub.

    Raises RepoMissing for a generation that is not there, RecordError for gen-0, which has no record.
    """
    number = state.generation if revision is None else generation_number(revision)
    if number is None or number not in state.revisions or number == 0:
        known = ", ".join(f"gen-{n}" for n in sorted(state.revisions) if n)
        raise RecordError(
            f"{state.repo} has no record of {revision or 'a generation'}; there are {known or 'none yet'}"
        )
    at = state.revisions[number]
    record = read_record(hub, state.repo, number, at)
    if any(entry.generation == number and entry.status == "yanked" for entry in state.index.entries):
        record = record.model_copy(update={"status": "yanked"})
    return _card(hub, state, record, state.index, at, hub.files(state.repo, at), None)


def card_for(hub: Hub, state: BaseState, generation: int, index: Index, there: Mapping[str, FileInfo]) -> str:
    """Main's card when it has this generation's weights again; that of gen-0 is the one from before the first fuse."""
    at = state.revisions[generation]
    if generation:
        return _card(hub, state, read_record(hub, state.repo, generation, at), index, state.head, there, None)
    text = hub.read_text(state.repo, CARD, revision=at) if CARD in hub.files(state.repo, at) else ""
    head, mark, body = text.partition("\n---\n") if text.startswith("---\n") else ("", "", text)
    return f"{head}{mark}\n> {withdrawn_notice(index, 0)}\n\n{body.lstrip()}"


def _title(record: Generation) -> str:
    people = len({c.author for c in record.contributions})
    return f"Generation {record.generation}: {len(record.contributions)} contributions by {people} contributors"


def _credits(record: Generation) -> str:
    return "\n".join(f"Contributed-by: {c.author} ({c.repo}@{c.sha[:8]})" for c in record.contributions)
