"""The task vector of one contribution, tensor by tensor and rows at a time, against the generation it started from.

`Source` is a plain description (it travels between processes); `Deltas` is that source opened. All changes are
float32; the rows of a tensor are those of its first axis, a tensor without axes counts as one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter import Target, delta_rows, plan_adapter, read_lora_config
from hub_fusion.weights.checkpoint import FLOATS, Checkpoint
from hub_fusion.weights.names import kind_of, match_names, memory_names

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Source:
    """One contribution for the engine. `key` orders contributions: ``repo@sha``, locally the folder's name."""

    key: str
    folder: Path
    origin: Path  # the generation it started from
    relation: Literal["finetune", "adapter"] = "finetune"
    weight: float = 1.0
    scale: float = 1.0  # below 1 where the norm was capped


class Deltas:
    """An opened source: which of the base's tensors it changes, and by how much.

    Raises WeightsError (MismatchError where names or shapes do not fit the base).
    """

    def __init__(self, source: Source, base: Checkpoint, base_folder: Path) -> None:
        self.source = source
        self.origin = Checkpoint.open(source.origin)
        strange = [n for n in base if n in self.origin and self.origin[n].shape != base[n].shape]
        if strange:
            raise WeightsError(
                f"{source.key}: its generation has other shapes than the base ({', '.join(strange[:3])})"
            )
        lost = [n for n in base if kind_of(n) == "body" and base[n].dtype in FLOATS and n not in self.origin]
        if lost:
            raise WeightsError(f"{source.key}: its generation lacks tensors of the base ({', '.join(lost[:3])})")
        self.targets: dict[str, Target] = {}
        if source.relation == "adapter":
            self.files = Checkpoint.open(source.folder, "adapter_model.safetensors")
            memory = partial(base_memory_names, base_folder)
            self.targets = plan_adapter(read_lora_config(source.folder), self.files, base, memory)
            self.names = {name: target.saved or name for name, target in self.targets.items()}
            self.used = {n for t in self.targets.values() for n in (t.a, t.b, t.saved) if n}
        else:
            self.files = Checkpoint.open(source.folder)
            self.names = match_names(base, self.files).names
            self.used = set(self.names.values())
        self.new_tensors = {
            n for n in self.names if n not in self.origin
        }  # a head its generation was published without

    def takes_part(self, name: str) -> bool:
        """Whether this contribution has a say on a tensor: on every body tensor, and on the shared heads it has.

        A body tensor that an adapter does not target is one it left as it was: a change of zero, which counts.
        """
        return kind_of(name) == "body" or (name in self.names and name not in self.new_tensors)

    def rows(self, name: str, start: int, stop: int, device: str = "cpu") -> torch.Tensor:
        """Rows [start, stop) of the change of the base's tensor `name`."""
        import torch

        target = self.targets.get(name)
        if name not in self.names:
            rows = (stop - start, *self.origin[name].shape[1:]) if self.origin[name].shape else (1,)
            return torch.zeros(rows, device=device)
        product = delta_rows(self.files, target, start, stop, device) if target and target.a else None
        if product is not None and target and not target.saved:
            return product
        mine = rows_of(self.files, self.names[name], start, stop, device)
        change = mine.sub(rows_of(self.origin, name, start, stop, device)).float()
        return change if product is None else change.add_(product)


def rows_of(checkpoint: Checkpoint, name: str, start: int, stop: int, device: str = "cpu") -> torch.Tensor:
    """Rows [start, stop) of a stored tensor in float32 (float64 if stored so); a copy, never a view of the file."""
    import torch

    tensor = checkpoint.read(name)
    part = tensor.reshape(1) if tensor.dim() == 0 else tensor[start:stop]
    return part.to(device=device, dtype=torch.promote_types(tensor.dtype, torch.float32), copy=True)


def row_blocks(shape: tuple[int, ...], budget: int) -> list[tuple[int, int]]:
    """[start, stop) row ranges of at most `budget` elements each (at least one row); they depend on the shape alone."""
    if 0 in shape:
        return []
    if not shape:
        return [(0, 1)]
    row = 1
    for n in shape[1:]:
        row *= n
    step = max(budget // row, 1)
    return [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


@lru_cache(maxsize=4)
def base_memory_names(base_folder: Path) -> dict[str, list[str]]:
    """`memory_names` of the checkpoint in a folder, worked out once for all adapters of a round."""
    return memory_names(base_folder, tuple(Checkpoint.open(base_folder)))
