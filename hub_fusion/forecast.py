"""What a round will need before it has downloaded anything, and whether it is there: disk, memory, seconds.

Sizes of files are exact, as the Hub lists them; what lies in the spool or the cache is not counted again, nor is a
contribution so large that the screen refuses it by its size: a stranger's terabyte must not stop the loop. Memory is
what weights, gradients and AdamW's two moments take in float32, without activations. Seconds are those of the newest
generation. Not covered: other programs that fill the disk meanwhile.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hub_fusion.budget import COUNTED
from hub_fusion.errors import RepoMissing, RoomError
from hub_fusion.hub import FileInfo, Hub
from hub_fusion.publish.state import BaseState, read_record
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution
from hub_fusion.weights.remote import Spool

TRAINED, READ = 16, 4  # bytes for each weight: of a model that is finetuned, of one that is only asked
REFUSED = 8  # times the base's size, above which the screen refuses a contribution whatever the base's dtype
RESERVE = 500_000_000  # bytes of disk and memory for everything else


@dataclass(frozen=True)
class Forecast:
    """Bytes and seconds of one round. `seconds` is None before the first generation."""

    spooled: int  # bytes to be downloaded into the work folder
    cached: int  # bytes to be downloaded into the client's cache
    written: int  # bytes of candidates in the work folder
    memory: int
    seconds: float | None

    @property
    def downloaded(self) -> int:
        """Bytes from the Hub."""
        return self.spooled + self.cached


def forecast(recipe: Recipe, hub: Hub, state: BaseState, chosen: Sequence[Contribution], work: Path) -> Forecast:
    """What it takes to screen `chosen`, to fuse and to judge. One request for each of them."""
    there = hub.files(recipe.base, state.head)
    base = _weights(there.values())
    spool = Spool(work / "spool", 0)
    spooled = 0
    for c in chosen:
        try:
            files = _weights(hub.files(c.repo, c.sha).values())
        except RepoMissing:
            continue  # the screen will say so
        place = spool.place(c.repo, c.sha)
        if _size(files) <= REFUSED * _size(base):
            spooled += _size(f for f in files if not _is_at(place / f.path, f.size))
    needed = {c.generation or state.generation for c in chosen} | {state.generation}
    revisions = [state.head, *(state.revisions[n] for n in needed if state.revisions.get(n, state.head) != state.head)]
    cached = sum(f.size for revision in revisions for f in base if not hub.is_cached(recipe.base, f.path, revision))
    copies = 1 + (recipe.search.control != "off") + recipe.merge.residual + (recipe.publish.kind == "adapter")
    return Forecast(spooled, cached, copies * _size(base), _memory(recipe, hub, state, _size(base)),
                    _seconds(hub, state))  # fmt: skip


def check_room(found: Forecast, work: Path, cache: Path, device: str = "cpu") -> None:
    """Raise RoomError, which names everything that is too small, unless the round fits on this machine."""
    wrong = []
    needs = [(work, found.spooled + found.written), (cache, found.cached)]
    if _device(work) == _device(cache):
        needs = [(work, found.spooled + found.written + found.cached)]
    for place, need in needs:
        free = free_disk(place)
        if need and need + RESERVE > free:
            wrong.append(f"{_gb(need + RESERVE)} of disk in {place}, where {_gb(free)} are free")
    free_bytes = free_memory(device)
    if free_bytes is not None and found.memory + RESERVE > free_bytes:
        wrong.append(f"{_gb(found.memory + RESERVE)} of memory to judge a candidate, where {_gb(free_bytes)} are free")
    if wrong:
        raise RoomError(
            f"a round needs {' and '.join(wrong)} (downloads {_gb(found.downloaded)}, candidates "
            f"{_gb(found.written)}): make room, give another --work, lower round.max_contributions, or set "
            "evaluate.fewshot: null"
        )


def free_disk(place: Path) -> int:
    """Bytes free on the disk of a folder that may not exist yet."""
    return shutil.disk_usage(_existing(place)).free


def free_memory(device: str = "cpu") -> int | None:
    """Bytes of memory that a program can take, of this machine or of its GPU; None where that cannot be told."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _memory(recipe: Recipe, hub: Hub, state: BaseState, size: int) -> int:
    if not recipe.evaluate.tasks:
        return 0
    try:
        config = json.loads(hub.read_text(recipe.base, "config.json", revision=state.head, max_bytes=1_000_000))
    except (RepoMissing, ValueError):
        config = {}
    dtype = str(config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else ""
    weights = size // (2 if "16" in dtype else 4)
    return weights * (TRAINED if recipe.evaluate.fewshot or recipe.evaluate.finetune else READ)


def _seconds(hub: Hub, state: BaseState) -> float | None:
    if not state.generation:
        return None
    record = read_record(hub, state.repo, state.generation, state.revision)
    return sum(record.seconds.get(stage, 0.0) for stage in COUNTED)


def _weights(files: Iterable[FileInfo]) -> list[FileInfo]:
    return [f for f in files if "/" not in f.path and f.path.endswith(".safetensors")]


def _size(files: Iterable[FileInfo]) -> int:
    return sum(f.size for f in files)


def _is_at(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _existing(place: Path) -> Path:
    place = place.absolute()
    return next(folder for folder in (place, *place.parents) if folder.exists())


def _device(place: Path) -> int:
    return _existing(place).stat().st_dev


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
