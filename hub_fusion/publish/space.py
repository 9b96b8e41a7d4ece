"""Puts the dashboard of a base on the Hub: the folder of the Space, and beside it the records as they are now.

The Space gets no token. A deployment that changes nothing makes no commit; one that was interrupted is finished by the
next, since what is there is compared file by file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import HubError, RepoMissing
from hub_fusion.hub import FileInfo, Hub, SpaceInfo, Spaces
from hub_fusion.publish.status import BRANCH, PATH
from hub_fusion.records import now

if TYPE_CHECKING:
    from hub_fusion.hub import Operation

TAG = "hub-fusion-dashboard"  # in the Space's card: what has it may be overwritten
SNAPSHOT = "snapshot/"  # reader.py looks there
ABOUT = f"{SNAPSHOT}snapshot.json"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Deployment:
    """What was put on the Hub, or would be; `needs_read_token`: the base is private."""

    space: str
    url: str
    private: bool
    created: bool
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    variables: dict[str, str]
    generations: int
    needs_read_token: bool
    commit: str | None = None


def deploy(
    hub: Hub, base: str, space: str, folder: Path, *, private: bool = False, dry_run: bool = False
) -> Deployment:
    """Make the Space `space` show `base`; `folder` holds its code. With `dry_run` nothing is written.

    Raises HubError if the Space holds something else, or would show a private base to everybody; RepoMissing without
    the base.
    """
    for name in (base, space):
        if not NAME.fullmatch(name):
            raise HubError(f"{name!r} is not a repository's name: give account/name")
    secret = bool(hub.model(base).private)
    spaces = Spaces(hub)
    there = spaces.look(space)
    _allow(there, space, base, secret, private)
    contents = code(folder, base) | snapshot(hub, base)
    changed, removed = differences(contents, there.files if there else {})
    wanted = {"HUB_FUSION_BASE": base} | hub.environment
    known = spaces.variables(space) if there else {}
    done = Deployment(
        space=space,
        url=f"{hub.endpoint}/spaces/{space}",
        private=there.private if there else private,
        created=there is None,
        changed=tuple(changed),
        removed=tuple(removed),
        variables={name: value for name, value in wanted.items() if known.get(name) != value},
        generations=sum(re.fullmatch(rf"{SNAPSHOT}fusion/gen-\d+\.json", path) is not None for path in contents),
        needs_read_token=secret,
    )
    return done if dry_run else _write(spaces, done, contents, there.sha if there else None)


def code(folder: Path, base: str) -> dict[str, bytes]:
    """Path → content of the Space's own files; its card names the base, so that the Hub links the two."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and not {"__pycache__", "snapshot"} & set(p.parts)]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    card = found["README.md"].decode()
    found["README.md"] = card.replace("\n---\n", f"\nmodels:\n- {base}\n---\n", 1).encode()
    return found


def snapshot(hub: Hub, base: str) -> dict[str, bytes]:
    """The records of the base as they are now: what the Space shows until it has read the Hub."""
    revision = hub.resolve(base)
    folder = hub.snapshot(base, revision, ["fusion/index.json", "fusion/gen-*.json"]) / "fusion"
    paths = [path for pattern in ("index.json", "gen-*.json") for path in sorted(folder.glob(pattern))]
    found = {f"{SNAPSHOT}fusion/{path.name}": path.read_bytes() for path in paths}
    try:
        status = hub.branches(base)[BRANCH]
        found[f"{SNAPSHOT}{PATH}"] = hub.download(base, PATH, status).read_bytes()
    except (RepoMissing, KeyError):  # no watcher has run yet
        pass
    about = {"base": base, "revision": revision, "read_at": now().isoformat()}
    return found | {ABOUT: (json.dumps(about) + "\n").encode()}


def differences(contents: dict[str, bytes], there: dict[str, FileInfo]) -> tuple[list[str], list[str]]:
    """Paths to write and paths to remove. When only the time of the snapshot differs nothing does."""
    changed = [path for path, content in contents.items() if path not in there or not there[path].holds(content)]
    removed = [path for path in there if path not in contents and path != ".gitattributes"]
    if changed == [ABOUT] and ABOUT in there and not removed:
        return [], []
    return changed, removed


def _allow(there: SpaceInfo | None, space: str, base: str, secret: bool, private: bool) -> None:
    """Nothing of other people's is overwritten, and nothing private shown to all."""
    empty = there is not None and not set(there.files) - {".gitattributes", "README.md"}
    if there is not None and not empty and TAG not in there.tags:
        raise HubError(f"the Space {space} holds something else than a dashboard: give another name with --space")
    if secret and not (there.private if there else private):
        remedy = f"make {space} private on the Hub" if there else "add --private"
        raise HubError(f"{base} is private, and the Space would show its records to everybody: {remedy}")


def _write(spaces: Spaces, planned: Deployment, contents: dict[str, bytes], parent: str | None) -> Deployment:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if planned.created:
        spaces.create(planned.space, private=planned.private)
        made = spaces.look(planned.space)
        parent = made.sha if made else None
    for name, value in planned.variables.items():  # before the files: the first build has them already
        spaces.set_variable(planned.space, name, value)
    if not planned.changed and not planned.removed:
        return planned
    operations: list[Operation] = [
        *(CommitOperationAdd(path, contents[path]) for path in planned.changed),
        *(CommitOperationDelete(path) for path in planned.removed),
    ]
    message = f"Show {planned.generations} generations" if planned.generations != 1 else "Show one generation"
    commit = spaces.commit(planned.space, operations, message, parent)
    return replace(planned, commit=commit)
