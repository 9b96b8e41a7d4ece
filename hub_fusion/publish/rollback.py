"""Withdrawing a generation: main returns to the weights of its parent, in one commit.

The tag stays where it is, so that what was pinned to it still loads; the record and the index say *yanked* and why, and
the number is never used again: the next generation is fused onto the parent under the next number. Whatever was built
on the withdrawn generation is withdrawn with it. The contributions in it are free to be fused again. One commit, made
on the head that was read: killed before it nothing has happened, killed after it everything has. Not covered:
configuration and tokenizer, which stay as people left them on main.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from hub_fusion.errors import RecordError
from hub_fusion.hub import FileInfo, Hub
from hub_fusion.publish.channel import set_stable
from hub_fusion.publish.commit import CARD, card_for
from hub_fusion.publish.lineage import INDEX_PATH
from hub_fusion.publish.notices import NOTICE
from hub_fusion.publish.state import BaseState, read_record, record_path
from hub_fusion.records import Index, Verdict, Withdrawal, now, withdrawal_title
from hub_fusion.weights.remote import ADAPTER, ADAPTER_CONFIG, HEAD, RESIDUAL
from hub_fusion.weights.tokens import FILES as VOCABULARY

if TYPE_CHECKING:
    from hub_fusion.hub import Operation


def roll_back(
    hub: Hub, state: BaseState, generation: int, reason: str, *,
    verdict: Verdict | None = None, suite: str | None = None,
) -> tuple[str, int]:  # fmt: skip
    """Withdraw a generation and all that is built on it; gives the commit, and the generation whose weights main has.

    `verdict` and `suite` are those of a later evaluation that speaks against it, for the record.

    Raises RecordError for one that is not there, is gen-0 or is withdrawn already; HubConflict if main has moved.
    """
    from huggingface_hub import CommitOperationAdd

    gone, target = withdrawn_by(state.index, generation)
    withdrawal = Withdrawal(reason=reason, at=now(), to_generation=target, verdict=verdict, suite=suite)
    index = marked(state.index, gone, withdrawal)
    there = hub.files(state.repo, state.head)
    records = {number: read_record(hub, state.repo, number, state.revisions[number]) for number in sorted(gone)}
    more = VOCABULARY if any(record.tokens for record in records.values()) else ()
    operations = _weights_back(hub, state, target, there, more)
    texts = {INDEX_PATH: index.to_json(indent=1) + "\n"}
    for number, record in records.items():
        yanked = record.model_copy(update={"status": "yanked", "withdrawn": withdrawal})
        texts[record_path(number)] = yanked.to_json(indent=1) + "\n"
    texts[CARD] = card_for(hub, state, target, index, there)
    operations += [CommitOperationAdd(path, text.encode()) for path, text in texts.items()]
    title = withdrawal_title(min(gone), target)
    revision = hub.commit(state.repo, operations, title, description=reason, parent=state.head)
    if state.stable in {state.revisions[number] for number in gone}:
        set_stable(hub, state, target)
    return revision, target


def withdrawn_by(index: Index, generation: int) -> tuple[set[int], int]:
    """The generations that go when this one goes, and the one that main returns to."""
    entries = {e.generation: e for e in index.generations if e.generation is not None}
    entry = entries.get(generation)
    if entry is None or not generation or entry.parent_generation is None:
        known = ", ".join(f"gen-{n}" for n, e in sorted(entries.items()) if n and e.status != "yanked")
        raise RecordError(f"{index.base} has no gen-{generation} that can be withdrawn; there are {known or 'none'}")
    if entry.status == "yanked":
        raise RecordError(f"gen-{generation} of {index.base} is withdrawn already: {entry.reason or 'no reason given'}")
    gone = {generation}
    for number, other in sorted(entries.items()):
        if other.status != "yanked" and other.parent_generation in gone:
            gone.add(number)
    return gone, entry.parent_generation


def marked(index: Index, gone: set[int], withdrawal: Withdrawal) -> Index:
    """The index with these generations withdrawn."""
    update = {"status": "yanked", "reason": f"withdrawn: {withdrawal.reason}"[:400]}
    entries = tuple(e.model_copy(update=update) if e.generation in gone else e for e in index.entries)
    return index.model_copy(update={"entries": entries, "updated_at": max(index.updated_at, withdrawal.at)})


def _weights_back(
    hub: Hub, state: BaseState, target: int, there: Mapping[str, FileInfo], more: Collection[str]
) -> list[Operation]:
    """Main's weights, heads, NOTICE and what rounding lost become those of `target`, and so do files named in `more`.

    Large files are copied on the Hub.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    at = state.revisions[target]
    before = hub.files(state.repo, at)
    operations: list[Operation] = []
    for path, file in before.items():
        if not (_is_weight(path) or path in more) or (path in there and there[path].oid == file.oid):
            continue
        if file.sha256:
            operations.append(CommitOperationCopy(path, path, src_revision=at))
        else:
            operations.append(CommitOperationAdd(path, hub.download(state.repo, path, at)))
    return [*operations, *(CommitOperationDelete(p) for p in there if _is_weight(p) and p not in before)]


def _is_weight(path: str) -> bool:
    if RESIDUAL.fullmatch(path) or HEAD.fullmatch(path) or path in (ADAPTER, ADAPTER_CONFIG, NOTICE):
        return True
    return "/" not in path and path.endswith((".safetensors", ".safetensors.index.json"))
