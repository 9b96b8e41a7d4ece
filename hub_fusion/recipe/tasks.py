"""What a recipe says of a task: where its examples are, what they mean, and whether it decides."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from hub_fusion.recipe.section import Section

Column = Literal["text", "text_pair", "image", "label"]
Part = Literal["train", "gate", "report"]


class Split(Section):
    """Shares of the training examples that become gate and report examples."""

    gate: float = Field(0.0, ge=0, lt=1)
    report: float = Field(0.0, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if not 0 < self.gate + self.report < 1:
            raise ValueError(f"a split takes something and leaves something, not {self.gate} + {self.report} of all")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """part → share, of those that are split off."""
        return {part: share for part, share in (("gate", self.gate), ("report", self.report)) if share}


class Task(Section):
    """A held-out task: train, gate and report examples (see evaluate/tasks.py)."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$")
    path: Path | None = Field(None, description="a folder, relative to the recipe's")
    hub: str | None = Field(None, pattern=r"^[\w.-]{1,96}/[\w.-]{1,96}$", description="or a dataset on the Hub")
    config: str | None = Field(None, min_length=1, max_length=200, description="of the dataset; null: its only one")
    revision: str | None = Field(
        None, pattern=r"^[\w./-]{1,128}$", description="of the dataset: a commit, or it can change under the recipe"
    )
    splits: dict[Part, str] = Field(
        default_factory=dict, description="of the dataset; default: train, validation for gate, test for report"
    )
    role: Literal["gate", "report", "seen"] | None = Field(
        None, description="gate: decides; report: never does; seen: a contributor trained on it; null: gate and report"
    )
    columns: dict[Column, str] = Field(
        default_factory=dict, description="what text, text_pair, image and label are called in the task's tables"
    )
    labels: tuple[str, ...] = Field(
        (), description="the labels in their order; empty: words by the alphabet, numbers as they are"
    )
    split: Split | None = Field(None, description="where there are training examples alone: how many of them judge")
    datasets: tuple[str, ...] = Field(
        (), description="data sets on the Hub that its examples come from; contributions that name one are known by it"
    )
    _root: Path = PrivateAttr(Path())  # not published: it is a path of the maintainer's machine

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError(f"task {self.name!r} is at one place: give either path, a folder, or hub, a dataset")
        if self.path and (self.config or self.revision or self.splits):
            raise ValueError(f"task {self.name!r} is a folder; config, revision and splits are of a dataset (hub)")
        return self

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if twice := sorted({name for name in self.labels if self.labels.count(name) > 1}):
            raise ValueError(f"labels are named once each, given twice: {', '.join(twice)}")
        named = list(self.columns.values())
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"every column of a task is another one of its tables, given twice: {', '.join(twice)}")
        named = list(self.splits.values())
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"every part of a task is another split of its dataset, given twice: {', '.join(twice)}")
        return self

    @property
    def data_names(self) -> tuple[str, ...]:
        """Under which names a card may declare this task's data."""
        return (self.name, *([self.hub] if self.hub else []), *self.datasets)

    @property
    def folder(self) -> Path:
        """Where the task is on this machine."""
        return self._root / (self.path or "")

    def below(self, root: Path) -> Task:
        """The same task with `root` as what its path is relative to."""
        task = self.model_copy()
        task._root = root
        return task
