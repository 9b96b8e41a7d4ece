"""Weights on the Hub: headers by byte ranges (kilobytes), then whole files into a bounded spool.

The spool is a folder that holds the contributions of one round while they are screened and fused. Files are verified
against the sha256 the Hub gives for them; a killed download goes on where it stopped. `Spool.empty` is called when
the round is over. Not covered: streaming tensors from the Hub straight into a fuse.
"""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from hub_fusion.errors import HeaderError, WeightsError
from hub_fusion.hub import FileInfo, Hub
from hub_fusion.weights.checkpoint import (
    INDEX,
    SINGLE,
    TensorSpec,
    file_sha256,
    header_length,
    parse_header,
    read_index,
)
from hub_fusion.weights.statistics import BESIDE

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
SIDE_FILES = (  # configuration, tokenizer, processor
    ".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".codes", ".tokenizer",
)  # fmt: skip
RESIDUAL = re.compile(r"fusion/residual-\d{5}-of-\d{5}\.st")  # what rounding lost, see residual.py
HEAD = re.compile(r"heads/[\w.-]{1,64}/head\.(safetensors|json)")  # a task's head, see records.Head
FIRST_BYTES = 64 * 1024  # most headers fit: one request
MAX_SHARDS, MAX_TENSORS, MAX_HEADER_SUM = 1000, 300_000, 100_000_000  # of one checkpoint


def weight_files(hub: Hub, repo: str, sha: str, files: Iterable[str]) -> list[str]:
    """The files of a full checkpoint's tensors: the single one, or the shards its index lists and, last, that index.

    Raises WeightsError if there are none, HeaderError for an index that promises what is not there.
    """
    names = set(files)
    if SINGLE in names:
        return [SINGLE]
    if INDEX not in names:
        raise WeightsError(f"{repo}@{sha[:8]} has no {SINGLE} and no {INDEX}: save it with safetensors")
    shards = sorted(set(read_index(hub.read_text(repo, INDEX, revision=sha), source=f"{repo}/{INDEX}").values()))
    if len(shards) > MAX_SHARDS:
        raise HeaderError(f"{repo}/{INDEX} lists {len(shards)} shards; allowed are {MAX_SHARDS}")
    lost = [shard for shard in shards if shard not in names]
    if lost:
        raise HeaderError(f"{repo}/{INDEX} lists shards that are not there: {', '.join(lost[:5])}")
    return [*shards, INDEX]


def read_headers(
    hub: Hub, repo: str, sha: str, files: Iterable[str], sizes: dict[str, FileInfo],
    metadata: dict[str, dict[str, str]] | None = None,
) -> dict[str, TensorSpec]:  # fmt: skip
    """All tensors of these files from their headers alone: one or two small range requests a file.

    `metadata` is filled with that of every file.

    Raises HeaderError for anything the format forbids, for a tensor that is in two files, and, if the index is among
    the files, for one that it lists and no file has.
    """
    found: dict[str, TensorSpec] = {}
    names, header_bytes = list(files), 0
    for file in names:
        if file == INDEX:
            continue
        source, size = f"{repo}@{sha[:8]}/{file}", sizes[file].size
        if size < 8:
            raise HeaderError(f"{source} has {size} bytes, too short for a safetensors file: upload it again")
        head = hub.read_range(repo, file, sha, 0, min(FIRST_BYTES, size))
        length = header_length(head, source=source)
        if 8 + length > size:
            raise HeaderError(f"{source} claims a header of {length} bytes but has only {size}: truncated")
        header_bytes += length
        if header_bytes > MAX_HEADER_SUM:
            raise HeaderError(
                f"{source}: the headers up to here have {header_bytes} bytes, allowed are {MAX_HEADER_SUM}"
            )
        if len(head) < 8 + length:
            head += hub.read_range(repo, file, sha, len(head), 8 + length)
        tensors, about = parse_header(head[8 : 8 + length], size, source=source)
        if metadata is not None:
            metadata[file] = about
        if len(found) + len(tensors) > MAX_TENSORS:
            raise HeaderError(f"{source}: {len(found) + len(tensors)} tensors up to here, allowed are {MAX_TENSORS}")
        for name, spec in tensors.items():
            if name in found:
                raise HeaderError(f"{source}: tensor {name[:200]!r} is also in {found[name].file}")
            found[name] = TensorSpec(**{**vars(spec), "file": file})
    if INDEX in names:
        lost = sorted(set(read_index(hub.read_text(repo, INDEX, revision=sha), source=f"{repo}/{INDEX}")) - set(found))
        if lost:
            some = ", ".join(name[:200] for name in lost[:5])
            raise HeaderError(f"{repo}/{INDEX} lists {len(lost)} tensors that no shard has: {some}")
    return found


def checkpoint_headers(hub: Hub, repo: str, sha: str) -> dict[str, TensorSpec]:
    """All tensors of the full checkpoint in ``repo@sha``. Raises as `weight_files` and `read_headers` do."""
    sizes = hub.files(repo, sha)
    return read_headers(hub, repo, sha, weight_files(hub, repo, sha, sizes), sizes)


def fetch_checkpoint(
    hub: Hub, repo: str, sha: str, *, residual: bool = False, statistics: bool = False
) -> Path:  # fmt: skip
    """A folder with what from_pretrained needs of ``repo@sha``: its safetensors and the small files beside them.

    Other weight formats, duplicates under other names, folders and records stay on the Hub; of a base to fuse onto
    take the `residual` too, of a contribution its `statistics` where the method asks for them.

    Raises WeightsError if there is neither a checkpoint nor an adapter in safetensors.
    """
    files = hub.files(repo, sha)
    names = [ADAPTER] if ADAPTER in files else weight_files(hub, repo, sha, files)
    names += [path for path in files if "/" not in path and path.endswith(SIDE_FILES)]
    names += [path for path in files if residual and RESIDUAL.fullmatch(path)]
    names += [BESIDE] if statistics and BESIDE in files else []
    return hub.snapshot(repo, sha, [glob.escape(name) for name in names])


class Spool:
    """A bounded folder for one round's downloads. `limit_bytes` is what it may hold in all."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes

    def fetch(self, hub: Hub, repo: str, sha: str, files: Iterable[FileInfo]) -> Path:
        """Download files of ``repo@sha``; gives their folder. Raises WeightsError if they do not fit or verify."""
        wanted = list(files)
        place = self.place(repo, sha)
        missing = [f for f in wanted if not (place / f.path).is_file() or (place / f.path).stat().st_size != f.size]
        need = sum(f.size for f in missing)
        used = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file()) if self.folder.is_dir() else 0
        if used + need > self.limit_bytes:
            raise WeightsError(
                f"{repo}@{sha[:8]} needs {need} bytes, the spool has {max(self.limit_bytes - used, 0)} of "
                f"{self.limit_bytes} left: raise screen.spool_bytes or lower round.max_contributions"
            )
        place.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place).free
        if need > free:
            raise WeightsError(f"{repo}@{sha[:8]} needs {need} bytes, the disk of {self.folder} has {free} left")
        for file in wanted:
            path = place / file.path
            if file in missing:
                hub.download(repo, file.path, sha, place)
            if file.sha256 and file_sha256(path) != file.sha256:
                path.unlink(missing_ok=True)
                raise WeightsError(f"{repo}@{sha[:8]}/{file.path} does not have the sha256 that the Hub gives for it")
        return place

    def place(self, repo: str, sha: str) -> Path:
        """Where the files of ``repo@sha`` are."""
        return self.folder / _place(repo, sha)

    def retain(self, keys: Iterable[str]) -> None:
        """Give back the space of everything but these contributions (``repo@sha``): commits that have been replaced."""
        wanted = {_place(*key.rsplit("@", 1)) for key in keys}
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)

    def empty(self) -> None:
        """Give all space back."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _place(repo: str, sha: str) -> str:
    return f"{repo.replace('/', '--')}--{sha}"
