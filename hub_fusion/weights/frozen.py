"""A base whose weights stay those of gen-0, and whose generations are adapters of them: the cheap road for large bases.

Gen-N's adapter is that of gen-M plus the mean of what contributions learned since the generation each started from,
brought back to one rank. All of this happens in factors (adapter_fuse.py); a whole model is only made to be measured.
Contributions are plain LoRA adapters, made under whatever class of the base: modules get the names that they have in
the base's own class. Not covered: (IA)³, and what adapter_members.py refuses, DoRA and trained biases above all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hub_fusion.errors import MergeError, WeightsError
from hub_fusion.events import Say
from hub_fusion.records import Contribution
from hub_fusion.weights.adapter import plan_adapter, read_lora_config
from hub_fusion.weights.adapter_fuse import Part, combine
from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.deltas import Source, base_memory_names
from hub_fusion.weights.fuse import FusePlan, FuseReport, Progress, folder_sha256, fuse
from hub_fusion.weights.remote import ADAPTER, ADAPTER_CONFIG, fetch_checkpoint

if TYPE_CHECKING:
    from hub_fusion.hub import Hub
    from hub_fusion.weights.compute import Compute


@dataclass(frozen=True)
class FrozenBase:
    """The root's checkpoint, and the folder of every generation's adapter (none at gen-0)."""

    repo: str
    root: Path
    revisions: Mapping[int, str]
    adapters: Mapping[int, Path]
    work: Path  # for changes and whole models; may be deleted at any time

    @classmethod
    def open(cls, hub: Hub, repo: str, revisions: Mapping[int, str], numbers: Iterable[int], work: Path) -> FrozenBase:
        """Download the root and the adapters of some generations. Raises WeightsError for a generation of weights."""
        adapters = {}
        for number in sorted(set(numbers) - {0}):
            files = hub.files(repo, revisions[number])
            if ADAPTER not in files or ADAPTER_CONFIG not in files:
                raise WeightsError(f"gen-{number} of {repo} is no adapter, so its weights are not frozen: "
                                   "set publish.kind: weights")  # fmt: skip
            adapters[number] = hub.snapshot(repo, revisions[number], [ADAPTER, ADAPTER_CONFIG])
        return cls(repo, fetch_checkpoint(hub, repo, revisions[0]), revisions, adapters, work)

    def since_origin(self, c: Contribution, source: Source) -> tuple[Contribution, Source]:
        """The contribution, and as an adapter of the root what it learned since the generation it started from.

        Where its card does not say which one that was, it is the nearer one of the newest of its day and the root:
        people go on with a generation's adapter or begin a new one. Raises WeightsError.
        """
        files = Checkpoint.open(source.here, ADAPTER)
        base, memory = Checkpoint.open(self.root), partial(base_memory_names, self.root)
        config = read_lora_config(source.folder)
        if config.kind != "LORA":
            raise WeightsError(
                f"{c.repo} has peft_type {config.kind!r}; the generations of this base are LoRA adapters"
            )
        plan = plan_adapter(config, files, base, memory)
        names = _common_names(memory())
        own = {target.module: names[name] for name, target in plan.items() if target.a and name in names}
        mine = Part("contribution", source.here, 1.0, own)
        origins = {c.generation or 0} if c.known_by == "card" else {0, c.generation or 0}
        best: tuple[float, int, Path] | None = None
        for number in sorted(origins):
            out = self.work / "changes" / f"{c.repo.replace('/', '--')}--{c.sha}--{number}"
            parts = [mine, Part("origin", self.adapters[number], -1.0)] if number in self.adapters else [mine]
            try:
                norm = combine(parts, out).norm or 0.0
            except MergeError as error:
                raise WeightsError(str(error)) from None
            if best is None or norm < best[0]:
                best = (norm, number, out)
        assert best is not None
        origin = {"generation": best[1], "origin_revision": self.revisions[best[1]]}
        return c.model_copy(update=origin), replace(source, folder=best[2], origin=self.root)

    def fuse(self, parent: int, sources: Iterable[Source], step: float, rank: int, out: Path, say: Say) -> FuseReport:
        """The next generation's adapter in `out`: the parent's and `step` times the mean of the changes."""
        began = time.monotonic()
        shutil.rmtree(out, ignore_errors=True)
        parts = [Part(s.key, s.here, step * s.weight * s.scale) for s in sources]
        parts += [Part(f"gen-{parent}", self.adapters[parent], 1.0)] if parent in self.adapters else []
        made = combine(parts, out, method="svd", rank=rank, base=self.repo)
        say(f"rank {made.rank} loses {made.error:.2%} of the change")
        seconds = time.monotonic() - began
        return FuseReport(made.files, 2 * made.modules, made.bytes_written, 1, "cpu", seconds, made.dropped)

    def whole(
        self, adapter: Path | None, compute: Compute, heads: Literal["drop", "keep"], progress: Progress | None,
        name: str = "whole",
    ) -> tuple[Path, str]:  # fmt: skip
        """The model that an adapter makes of the root, to be measured, and the sha256 of its weights.

        It lies in the work folder under `name`.
        """
        if adapter is None:
            return self.root, folder_sha256(self.root)
        source = Source("adapter", adapter, self.root, "adapter")
        plan = FusePlan(self.root, self.work / name, (source,), heads=heads)
        shutil.rmtree(plan.out, ignore_errors=True)  # of another adapter under the same name
        return plan.out, compute.together(fuse, plan, progress=progress).weights_sha256


def _common_names(memory: Mapping[str, list[str]]) -> dict[str, str]:
    """On-disk name of a weight → its module in the base's own class."""
    return {stored[0]: name.removesuffix(".weight") for name, stored in memory.items() if len(stored) == 1}
