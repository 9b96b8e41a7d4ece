"""A companion repository with copies of what was fused: its layout, and finding a contribution in it.

``<owner>--<name>/<sha>/…`` holds the files of a contribution that were read, ``config.json``, licence texts, and
``archive.json``, which says whose work it is. keep.py fills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hub_fusion.errors import RepoMissing, WeightsError
from hub_fusion.hub import FileInfo, Hub
from hub_fusion.records import Credit, files_identity
from hub_fusion.weights.checkpoint import INDEX
from hub_fusion.weights.remote import ADAPTER, ADAPTER_CONFIG, weight_files
from hub_fusion.weights.statistics import BESIDE

MANIFEST = "archive.json"


@dataclass(frozen=True)
class Archive:
    """A companion repository as it is now: `files` of the commit `head`."""

    repo: str
    head: str
    files: Mapping[str, FileInfo]

    @classmethod
    def open(cls, hub: Hub, repo: str) -> Archive | None:
        """None where there is none, or none that this token may see."""
        try:
            head = hub.resolve(repo)
            return cls(repo, head, hub.files(repo, head))
        except RepoMissing:
            return None

    def copy_of(self, credit: Credit) -> list[FileInfo]:
        """The files of a contribution that a fuse reads; empty if it is not kept here.

        Raises WeightsError if they are not the files that were fused.
        """
        place = folder_of(credit) + "/"
        inside = {path.removeprefix(place): file for path, file in self.files.items() if path.startswith(place)}
        read = {
            name: f for name, f in inside.items() if name.endswith(".safetensors") or name in (INDEX, ADAPTER_CONFIG)
        }
        if read and credit.files_sha256 not in (None, files_identity({n: f.sha256 or f.oid for n, f in read.items()})):
            raise WeightsError(f"{self.repo}/{place} does not hold the files of {credit.key} that were fused")
        return list(read.values())


def files_read(hub: Hub, credit: Credit) -> list[FileInfo]:
    """The files of a contribution that a fuse reads, in its own repository: weights, and statistics if they were read.

    Raises RepoMissing, HubError, WeightsError if they are not there.
    """
    there = hub.files(credit.repo, credit.sha)
    adapter = credit.relation == "adapter"
    names = [ADAPTER, ADAPTER_CONFIG] if adapter else weight_files(hub, credit.repo, credit.sha, there)
    lost = [name for name in names if name not in there]
    if lost:
        raise WeightsError(f"{credit.key} has no {', '.join(lost)}")
    with_more = {name: there[name] for name in (*names, BESIDE) if name in there}
    more = files_identity({n: f.sha256 or f.oid for n, f in with_more.items()}) == credit.files_sha256
    return list(with_more.values()) if more else [there[name] for name in names]


def folder_of(credit: Credit) -> str:
    """Where an archive keeps a contribution; the Hub allows no ``--`` in names, so no two share a folder."""
    return f"{credit.repo.replace('/', '--')}/{credit.sha}"


def default_archive(base: str) -> str:
    """The archive's name where the recipe gives none."""
    return f"{base}-archive"
