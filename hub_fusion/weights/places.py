"""Where a checkpoint is: a folder, or a commit on the Hub, of which only what is needed is read."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.merge import find_method
from hub_fusion.merge.method import STATISTICS
from hub_fusion.weights.checkpoint import SINGLE, Checkpoint
from hub_fusion.weights.remote import (
    ADAPTER,
    ADAPTER_CONFIG,
    RESIDUAL,
    SIDE_FILES,
    Spool,
    read_headers,
    weight_files,
)
from hub_fusion.weights.statistics import BESIDE
from hub_fusion.weights.stream import RangeStore

if TYPE_CHECKING:
    from hub_fusion.hub import FileInfo, Hub
    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.plan import FusePlan

PIECE = 8 * 2**20  # bytes
SPOOL = ".spool"  # in the output's folder, while it is being made


@dataclass(frozen=True)
class HubFolder:
    """``repo@sha`` in place of a folder. It travels between processes."""

    endpoint: str
    repo: str
    sha: str
    token: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.repo}@{self.sha[:8]}"

    @property
    def name(self) -> str:
        """What tells it from other commits: its sha."""
        return self.sha

    @property
    def hub(self) -> Hub:
        """Where it is."""
        return _hub_at(self.endpoint, self.token)

    @property
    def files(self) -> dict[str, FileInfo]:
        """All files of the commit."""
        return _files(self)

    def __truediv__(self, name: str) -> HubFile:
        return HubFile(self, name)

    def resolve(self) -> HubFolder:
        """Itself, as a path that is resolved already."""
        return self

    def open(self, name: str = SINGLE) -> Checkpoint:
        """The checkpoint, from its headers. Raises WeightsError if there is none."""
        hub, files = self.hub, self.files
        names = [name] if name == ADAPTER and name in files else weight_files(hub, self.repo, self.sha, files)
        metadata: dict[str, dict[str, str]] = {}
        tensors = read_headers(hub, self.repo, self.sha, names, files, metadata)
        return Checkpoint.of(str(self), tensors, metadata, RangeStore(self))

    def residual(self) -> Checkpoint | None:
        """The residual (see residual.py) that lies beside its weights, if there is one, from its headers."""
        return self._beside(sorted(name for name in self.files if RESIDUAL.fullmatch(name)))

    def statistics(self) -> Checkpoint | None:
        """The statistics (see statistics.py) that lie beside its weights, if there are any, from their header."""
        return self._beside([BESIDE] if BESIDE in self.files else [])

    def _beside(self, names: list[str]) -> Checkpoint | None:
        if not names:
            return None
        metadata = dict[str, dict[str, str]]()
        tensors = read_headers(self.hub, self.repo, self.sha, names, self.files, metadata)
        return Checkpoint.of(str(self), tensors, metadata, RangeStore(self))

    def spooled(self, spool: Path, *, residual: bool = False, statistics: bool = False) -> Path:
        """A folder below `spool` with its weights and side files; what is not there yet is downloaded.

        Raises WeightsError if they do not fit on the disk or do not have the Hub's sha256.
        """
        files = self.files
        names = [ADAPTER, ADAPTER_CONFIG] if ADAPTER in files else weight_files(self.hub, self.repo, self.sha, files)
        side = [path for path in files if "/" not in path and path.endswith(SIDE_FILES) and path not in names]
        lost = [path for path in files if residual and RESIDUAL.fullmatch(path)]
        brought = [BESIDE] if statistics and BESIDE in files else []
        wanted = [files[name] for name in (*names, *side, *lost, *brought)]
        spool.mkdir(parents=True, exist_ok=True)
        return Spool(spool, shutil.disk_usage(spool).total).fetch(self.hub, self.repo, self.sha, wanted)

    def fetch_side_files(self, out: Path) -> None:
        """Configuration, tokenizer and processor files into a folder."""
        for path, info in self.files.items():
            if "/" not in path and path.endswith(SIDE_FILES) and not path.endswith((".index.json", ADAPTER_CONFIG)):
                with (out / path).open("wb") as file:
                    for start in range(0, info.size, PIECE):
                        stop = min(start + PIECE, info.size)
                        file.write(self.hub.read_range(self.repo, path, self.sha, start, stop))


@dataclass(frozen=True)
class HubFile:
    """A file of a `HubFolder`, for those who would read a small one from a folder."""

    folder: HubFolder
    name: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    def is_file(self) -> bool:
        """Whether it is there."""
        return self.name in self.folder.files

    def stat(self) -> os.stat_result:
        """Its size alone. Raises OSError like a path."""
        if not self.is_file():
            raise FileNotFoundError(2, "No such file", str(self))
        return os.stat_result((0, 0, 0, 0, 0, 0, self.folder.files[self.name].size, 0, 0, 0))

    def read_bytes(self) -> bytes:
        """All of it. Raises OSError like a path."""
        return self.folder.hub.read_range(self.folder.repo, self.name, self.folder.sha, 0, self.stat().st_size)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Its text. Raises OSError like a path."""
        size = self.stat().st_size
        if size > 20_000_000:
            raise OSError(f"{self} has {size} bytes, too many for a text")
        return self.folder.hub.read_range(self.folder.repo, self.name, self.folder.sha, 0, size).decode(encoding)


Place = Path | HubFolder


@lru_cache(maxsize=8)
def _hub_at(endpoint: str, token: str | None) -> Hub:
    from hub_fusion.hub import Hub

    return Hub(endpoint, token)


@lru_cache(maxsize=1024)
def _files(folder: HubFolder) -> dict[str, FileInfo]:
    return folder.hub.files(folder.repo, folder.sha)


def at_hand(plan: FusePlan, compute: Compute) -> FusePlan:
    """The plan with sources that can be read more than once, if its method asks for that; call it in all processes.

    What is on the Hub is downloaded into a folder beside the output, which goes away with the end of the fuse.
    """
    places = {p for s in plan.sources for p in (s.folder, s.origin)} | {plan.base}
    remote = sorted((p for p in places if isinstance(p, HubFolder)), key=str)
    method = find_method(plan.method).bind(plan.options).method
    statistics = bool(method.inputs & STATISTICS)  # which are read more than once
    if not remote or (method.one_pass and not statistics):
        return plan
    spool, here = plan.out / SPOOL, dict[Place, Path]()
    if compute.is_main:
        here = {p: p.spooled(spool, residual=p == plan.base, statistics=statistics) for p in remote}
    here = compute.gather(here)[0]
    sources = [
        replace(s, folder=here.get(s.folder, s.folder), origin=here.get(s.origin, s.origin)) for s in plan.sources
    ]
    return replace(plan, base=here.get(plan.base, plan.base), sources=tuple(sources))
