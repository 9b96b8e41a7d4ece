"""Keeping what was fused in a companion repository, so that a generation can be made again without its contributors.

One commit for each contribution, so a folder is there whole or not at all. Only what the recipe of the day would accept
is kept, by licence, block list and visibility. The Hub stores equal weights once, in however many folders they are.

When: after the gate accepted, before the generation's commit. A round that is killed between the two leaves copies
that the same round, run again, finds; there is no moment in which a generation is public and its copies are still to
come. What fails here is said and passes: the generation is published all the same, and the next one catches up.
Not covered: forgetting. Who removes a folder at its author's wish also blocks the author in the recipe, or it returns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hub_fusion.errors import HubError, HubFusionError, HubUnreachable, OutputError, RepoMissing
from hub_fusion.events import Say
from hub_fusion.hub import FileInfo, Hub
from hub_fusion.publish.archive import MANIFEST, Archive, default_archive, files_read, folder_of
from hub_fusion.publish.state import BaseState, read_record
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Credit
from hub_fusion.weights.checkpoint import INDEX, SHARD
from hub_fusion.weights.remote import ADAPTER_CONFIG, Spool
from hub_fusion.weights.statistics import BESIDE
from hub_fusion.weights.store import own_file

if TYPE_CHECKING:
    from hub_fusion.hub import Operation

NOTICES = re.compile(r"(LICEN[CS]E|NOTICE|COPYING)[\w.-]{0,40}", re.IGNORECASE)  # licences ask that they come along
SMALL = 1_000_000  # bytes of such a text, or of a configuration


@dataclass(frozen=True)
class Opened:
    """An archive, and what it lacks and may have: ``repo@sha`` → whose it is."""

    archive: Archive
    wanted: dict[str, Credit]


class Keeps(Protocol):
    """Who changes the archive."""

    def open_archive(self, state: BaseState, fused: Sequence[Contribution]) -> tuple[str, tuple[Credit, ...]]:
        """`open_archive`: the archive's name, and what it lacks and may have."""

    def keep_copy(self, key: str, names: Sequence[str]) -> None:
        """`keep_copy` of one of these."""


def keep_contributions(
    keeps: Keeps, hub: Hub, recipe: Recipe, state: BaseState, fused: Sequence[Contribution], spool: Spool, say: Say
) -> str | None:
    """Keep what the next generation takes in, and what earlier ones did and is missing; gives the archive's name.

    `spool` holds the files of `fused`, and for a while those of each earlier one.
    None if the recipe wants none, or if there is none because of a failure, which is said.
    """
    if recipe.archive.keep == "none":
        return None
    try:
        name, wanted = keeps.open_archive(state, fused)
    except HubFusionError as error:
        say(f"archive: nothing is kept: {error}")
        return None
    for credit in wanted:
        try:
            keeps.keep_copy(credit.key, _spooled(hub, credit, spool))
            spool.retain(c.key for c in fused)
        except HubUnreachable as error:
            say(f"archive: {credit.key} and what follows is kept next time: {error}")
            break
        except HubFusionError as error:
            say(f"archive: {credit.key} is not kept: {error}")
    return name


def _spooled(hub: Hub, credit: Credit, spool: Spool) -> list[str]:
    """The names of the files to keep; what of them is not in the spool is downloaded."""
    there = hub.files(credit.repo, credit.sha)
    files = files_read(hub, credit)
    files += [f for n, f in there.items() if _is_beside(n) and f.size <= SMALL]
    spool.fetch(hub, credit.repo, credit.sha, files)
    return [file.path for file in files]


def _is_beside(name: str) -> bool:
    return name == "config.json" or bool(NOTICES.fullmatch(name))


def open_archive(hub: Hub, recipe: Recipe, state: BaseState, fused: Sequence[Contribution], say: Say) -> Opened:
    """The archive, made if it was not there, and what of `fused` and of earlier generations it lacks and may have."""
    archive, wanted = _opened(hub, recipe), dict[str, Credit]()
    for credit in (*fused, *_earlier(hub, state)):
        if f"{folder_of(credit)}/{MANIFEST}" in archive.files or credit.key in wanted:
            continue
        try:
            reason = _reason_not_to(hub, recipe, credit)
        except HubUnreachable as error:
            say(f"archive: {credit.key} and what follows is kept next time: {error}")
            break
        except HubFusionError as error:
            reason = str(error)
        if reason is None:
            wanted[credit.key] = credit
        elif reason:
            say(f"archive: {credit.key} is not kept: {reason}")
    return Opened(archive, wanted)


def _opened(hub: Hub, recipe: Recipe) -> Archive:
    """The archive, made and given a card if it was not there."""
    name = recipe.archive.repo or default_archive(recipe.base)
    archive = Archive.open(hub, name)
    if archive is None:
        hub.create_repo(name, private=recipe.archive.private)
    elif recipe.archive.private and hub.model(name).private is False:
        raise HubError(f"{name} is public, and the recipe has archive.private: true; change one of them")
    if archive is None or "README.md" not in archive.files:
        from huggingface_hub import CommitOperationAdd

        hub.commit(name, [CommitOperationAdd("README.md", CARD.format(base=recipe.base).encode())], "What is kept here")
        archive = Archive.open(hub, name)
    if archive is None:
        raise RepoMissing(f"{name} was made, but this token may not see it")
    return archive


def _earlier(hub: Hub, state: BaseState) -> Iterable[Credit]:
    """What earlier generations took in."""
    numbers = [entry.generation for entry in state.index.generations if entry.generation and entry.contributions]
    return [c for n in numbers for c in read_record(hub, state.repo, n, state.revisions[n]).contributions]


def _reason_not_to(hub: Hub, recipe: Recipe, credit: Credit) -> str | None:
    """Why a contribution is not kept, empty if that goes without saying. Today's recipe also rules over old ones."""
    rules = recipe.contributions
    if recipe.archive.keep == "adapters" and credit.relation != "adapter":
        return ""
    if {credit.author.lower(), credit.repo.lower()} & {name.lower() for name in rules.block}:
        return "the recipe blocks it"
    if credit.license is None:
        return "its card names no licence"
    if rules.licenses is not None and credit.license.lower() not in {name.lower() for name in rules.licenses}:
        return f"its licence {credit.license} is not among contributions.licenses"
    try:
        now = hub.model(credit.repo)
    except RepoMissing:
        return "its repository is gone" if isinstance(credit, Contribution) else ""  # old ones: said in its time
    if not recipe.archive.private and (now.private or now.gated):
        return "it is private or gated, and the archive is public"
    return None


def keep_copy(hub: Hub, opened: Opened, base: str, key: str, names: Sequence[str], spool: Spool) -> None:
    """One commit with one contribution, from its files in the spool.

    Raises OutputError for what is no file of the contribution, or not as the Hub has it.
    """
    from huggingface_hub import CommitOperationAdd

    credit = opened.wanted[key]
    there, place, folder = hub.files(credit.repo, credit.sha), folder_of(credit), spool.place(credit.repo, credit.sha)
    for name in names:
        known = name in (INDEX, ADAPTER_CONFIG, BESIDE) or SHARD.fullmatch(name) or _is_beside(name)
        if name not in there or not known:
            raise OutputError(f"{name[:200]!r} is not among what is kept of {key}")
    about = {"repo": credit.repo, "sha": credit.sha, "author": credit.author, "license": credit.license,
             "relation": credit.relation, "fused_into": base}  # fmt: skip
    manifest = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    operations: list[Operation] = [CommitOperationAdd(f"{place}/{MANIFEST}", manifest.encode())]
    for name in names:
        operation = CommitOperationAdd(f"{place}/{name}", _content(folder, there[name]))
        if there[name].sha256 not in (None, operation.upload_info.sha256.hex()):
            raise OutputError(f"{name} of {key} does not have the sha256 that the Hub gives for it")
        operations.append(operation)
    hub.commit(opened.archive.repo, operations, f"Keep {key}", description=f"By {credit.author}, {credit.license}")


def _content(folder: Path, file: FileInfo) -> Path | bytes:
    """The file in `folder`; of one that is no large file the bytes."""
    path = own_file(folder, file.path)
    if file.sha256:
        return path
    content = path.read_bytes()
    if not file.holds(content):
        raise OutputError(f"{path} is not as the Hub has it")
    return content


CARD = """\
---
license: other
license_name: see-each-folder
tags: [hub-fusion-archive]
---

# What was fused into {base}

Copies of the contributions to [{base}](/{base}), kept so that its generations can be fused again, bit by bit, when
contributors delete their repositories: `hub-fusion reproduce {base}@gen-1`.

Each folder `<owner>--<name>/<sha>` is one contribution at one commit. It belongs to its author, under its own licence;
`archive.json` in it names both. If a folder of yours should go, tell the owner of this repository.
"""
