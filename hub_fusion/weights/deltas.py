"""The task vector of one contribution, tensor by tensor and block by block, against the generation it started from.

`Source` is a plain description (it travels between processes); `Deltas` is that source opened. All changes are
float32 and flat: elements [first, last) of a tensor as it lies on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter import Target, load_change, plan_adapter, read_lora_config
from hub_fusion.weights.checkpoint import FLOATS, SINGLE, Checkpoint
from hub_fusion.weights.names import is_buffer, kind_of, match_names, memory_names, some
from hub_fusion.weights.statistics import Statistics
from hub_fusion.weights.tokens import agreeing
from hub_fusion.weights.vocabulary import is_vocabulary, rows_in, same_but_rows, with_rows_of

if TYPE_CHECKING:
    from hub_fusion.weights.adapter import Change
    from hub_fusion.weights.places import Place

STACKS = 4  # factors: of the two parameters that a layer's experts have
Opener = Callable[..., Checkpoint]  # (place, file name) → checkpoint; the same one for the same place


@dataclass(frozen=True)
class Source:
    """One contribution for the engine. `key` orders contributions: ``repo@sha``, locally the folder's name."""

    key: str
    folder: Place
    origin: Place  # the generation it started from
    relation: Literal["finetune", "adapter"] = "finetune"
    weight: float = 1.0
    scale: float = 1.0  # below 1 where the norm was capped

    @property
    def here(self) -> Path:
        """Its folder, where it is on this machine, as all that the screen let pass are."""
        assert isinstance(self.folder, Path), self.folder
        return self.folder


class Deltas:
    """An opened source: which of the base's tensors it changes, and by how much.

    Raises WeightsError (MismatchError where names or shapes do not fit the base).
    """

    def __init__(self, source: Source, base: Checkpoint, base_folder: Place, opener: Opener | None = None) -> None:
        opener = opener or open_checkpoint
        self.source = source
        self.origin = opener(source.origin)
        strange = [n for n in base if n in self.origin and not same_but_rows(n, base[n], self.origin[n])]
        if strange:
            raise WeightsError(
                f"{source.key}: its generation has other shapes than the base ({', '.join(strange[:3])})"
            )
        lost = [n for n in base if kind_of(n) == "body" and base[n].dtype in FLOATS and not is_buffer(n)
                and n not in self.origin]  # fmt: skip
        if lost:
            raise WeightsError(f"{source.key}: its generation lacks tensors of the base ({', '.join(lost[:3])})")
        fitting = with_rows_of(base, self.origin)
        short = _compared(base, self.origin, base_folder, source.origin)
        self.targets: dict[str, Target] = {}
        self.notes: tuple[str, ...] = ()  # what of it is not used, or used under another name
        if source.relation == "adapter":
            self.files = opener(source.folder, "adapter_model.safetensors")
            memory = partial(base_memory_names, base_folder)
            self.targets = plan_adapter(read_lora_config(source.folder), self.files, fitting, memory)
            self.names: Mapping[str, str | None] = {name: target.saved for name, target in self.targets.items()}
            self.used = {n for t in self.targets.values() for n in t.reads}
        else:
            self.files = opener(source.folder)
            met = match_names(fitting, self.files)
            self.names, self.notes = met.names, met.notes
            self.used = {name for name in self.names.values() if name}
        self.statistics = Statistics.open(source.folder)
        # a head its generation was published without
        self.new_tensors = {n for n in self.names if n not in self.origin}
        if short:
            self._lengthen(short, base)
        self._changes: dict[str, Change] = {}
        self._stacks: dict[str, Any] = {}  # factors of many experts, each of whom is a tensor: the last few
        self._lock = threading.Lock()

    def _lengthen(self, short: Mapping[str, int], base: Checkpoint) -> None:
        """The base has other tokens than the generation that this one started from: it leaves those as they are."""
        made = [n for n in short if (t := self.targets.get(n)) and t.a]
        if made:
            raise WeightsError(f"{self.source.key}: the adapter changes {some(made)} of a generation with other tokens "
                               "than the base has now: merge it into the model and publish that")  # fmt: skip
        self.origin = self.origin.lengthened({n: (base[n].shape, count) for n, count in short.items()})
        saved = {str(self.names[n]): (base[n].shape, count) for n, count in short.items() if self.names.get(n)}
        self.files = self.files.lengthened(saved)

    def takes_part(self, name: str) -> bool:
        """Whether this contribution has a say on a tensor: on every body tensor, and on the shared heads it has.

        A body tensor that an adapter does not target is one it left as it was: a change of zero, which counts.
        """
        return kind_of(name) == "body" or (name in self.names and name not in self.new_tensors)

    def statistic(self, kind: str, name: str) -> str | None:
        """The NAME of the statistics that belong to one of the base's tensors, if there are any (see statistics.py)."""
        if self.statistics is None or name in self.origin.longer:  # they are of fewer tokens
            return None
        return self.statistics.find(kind, self.own_name(name))

    def own_name(self, name: str) -> str:
        """Under which name its statistics have one of the base's tensors: as on its disk, an adapter's as the base."""
        return name if self.source.relation == "adapter" else self.names.get(name) or name

    def change(self, name: str, read: Callable[[str], Any]) -> Change | None:
        """What an adapter's factors make of a tensor, if they do; they are read once, by whoever comes first."""
        target = self.targets.get(name)
        if target is None or not target.a:
            return None
        with self._lock:
            if name not in self._changes:
                shared = target.experts is not None and target.experts.number is not None
                self._changes[name] = load_change(self.files, target, partial(self._stack, read) if shared else read)
            return self._changes[name]

    def _stack(self, read: Callable[[str], Any], name: str) -> Any:
        self._stacks[name] = found = self._stacks.pop(name) if name in self._stacks else read(name)
        if len(self._stacks) > STACKS:
            self._stacks.pop(next(iter(self._stacks)))
        return found

    def forget(self, name: str) -> None:
        """Give back the memory of `change`."""
        with self._lock:
            self._changes.pop(name, None)


def _compared(base: Checkpoint, origin: Checkpoint, base_place: Place, origin_place: Place) -> dict[str, int]:
    """Tensors of the vocabulary → how many elements have the same tokens in both; of those alone where not all have."""
    alike = None
    if isinstance(base_place, Path) and isinstance(origin_place, Path):
        alike = agreeing(base_place, origin_place)
    found = {}
    for name in base:
        if name in origin and base[name].shape and is_vocabulary(name):
            ours, theirs = rows_in(base[name]), rows_in(origin[name])
            rows = min(theirs, ours if alike is None else alike)
            if rows < ours:
                found[name] = rows * (prod(base[name].shape) // ours)
    return found


def open_checkpoint(place: Place, name: str = SINGLE) -> Checkpoint:
    """The checkpoint in a folder, or of a commit on the Hub. Raises WeightsError."""
    return Checkpoint.open(place, name) if isinstance(place, Path) else place.open(name)


def row_blocks(rows: int, columns: int, budget: int) -> list[tuple[int, int]]:
    """[start, stop) ranges of rows, of at most `budget` elements each but at least one row; by the shape alone."""
    if not rows or not columns:
        return []
    step = max(budget // columns, 1)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def sharing_opener() -> Opener:
    """Opens checkpoints, the same one for the same folder: contributions mostly share a generation."""
    opened: dict[tuple[Any, ...], Checkpoint] = {}

    def opener(*place: Any) -> Checkpoint:
        if place not in opened:
            opened[place] = open_checkpoint(*place)
        return opened[place]

    return opener


@lru_cache(maxsize=4)
def base_memory_names(base_folder: Place) -> dict[str, list[str]]:
    """`memory_names` of the checkpoint in a folder, worked out once for all adapters of a round."""
    names = tuple(open_checkpoint(base_folder))
    if isinstance(base_folder, Path):
        return memory_names(base_folder, names)
    with TemporaryDirectory() as folder:  # transformers wants a file
        (Path(folder) / "config.json").write_text((base_folder / "config.json").read_text())
        return memory_names(Path(folder), names)
