"""The file that says what is simulated: root, tasks and their roles, contributors, training, measurements, controls."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from hub_fusion.errors import RecipeError
from hub_fusion.recipe import FewShot, Finetune, Probe, Section, Task, Training, explain, parse_yaml
from hub_fusion.records import Role

TASKS_VARIABLE = "HUB_FUSION_TASKS"
ControlName = Literal["random", "one-round", "multitask", "long-finetune"]


class Local(Training):
    """What a contributor does with a generation: finetune the whole model on a random part of one seen task."""

    examples: int = Field(1000, ge=2, description="at most, drawn anew by every contributor")
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    max_length: int = Field(64, ge=8, description="tokens")


class Formula(Section):
    """How contributions become the next generation; every one has one vote."""

    method: str = "mean"
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)
    step: float = Field(1.0, gt=0, le=1)
    seed: int = 0


class Measures(Section):
    """What is measured on which generations; controls are measured like the last of each list."""

    probe: Probe | None = Probe(examples=500)
    also_cls: bool = Field(False, description="a second probe, on the first token")
    probe_at: tuple[int, ...] | None = Field(None, description="generations; null: all")
    fewshot: FewShot | None = FewShot()
    fewshot_at: tuple[int, ...] | None = None
    finetune: Finetune | None = Field(None, description="finetuning with many examples; dear, so not by default")
    finetune_at: tuple[int, ...] | None = None
    finetune_also: tuple[ControlName, ...] = Field((), description="controls that are finetuned as well")
    seen_at: tuple[int, ...] = Field((), description="generations whose probe is also measured on the seen tasks")
    ensemble: bool = Field(
        False, description="the finetunes of control one-round not fused but asked together, by the probe"
    )
    path_points: int | None = Field(None, ge=3, description="walk the lines between checkpoints in so many points")
    seeds: int = Field(1, ge=1)
    max_test_examples: int = Field(500, ge=10)
    max_length: int = Field(64, ge=8, description="tokens")


class Simulation(Section):
    """The whole file; unknown keys are errors."""

    root: str = Field(description="what becomes gen-0: a folder, relative to this file, or user/model[@revision]")
    tasks: Path = Field(Path(), description=f"folder of task folders; {TASKS_VARIABLE} overrides it")
    seen: tuple[str, ...] = Field(min_length=1, description="what contributors have data of")
    gate: tuple[str, ...] = Field((), description="unseen; the best generation is chosen by these")
    report: tuple[str, ...] = Field(min_length=1, description="unseen; told, never chosen by")
    generations: int = Field(10, ge=1)
    contributors: int = Field(8, ge=1, description="per generation, each with a seen task drawn without replacement")
    seed: int = 0
    training: Local = Local()
    merge: Formula = Formula()
    measure: Measures = Measures()
    controls: tuple[ControlName, ...] = ()
    long_finetune_on: str | None = Field(None, description="the seen task of the long finetune; null: the first")
    multitask_examples: int | None = Field(None, ge=1, description="null: as many as all contributors together")
    _here: Path = PrivateAttr(Path())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [*self.seen, *self.gate, *self.report]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"every task has one role; given twice: {', '.join(twice)}")
        if self.contributors > len(self.seen):
            raise ValueError(f"{self.contributors} contributors need as many seen tasks, there are {len(self.seen)}")
        if self.measure.ensemble and (self.measure.probe is None or "one-round" not in self.controls):
            raise ValueError("measure.ensemble needs measure.probe, and the control one-round, whose finetunes it asks")
        if self.long_finetune_on is not None and self.long_finetune_on not in self.seen:
            raise ValueError(f"long_finetune_on is one of the seen tasks, not {self.long_finetune_on!r}")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file. Raises RecipeError."""
        try:
            data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
            simulation = cls.model_validate(data)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read {path}: {error}") from None
        except ValidationError as error:
            raise RecipeError(f"{path}: " + "; ".join(explain(e, cls) for e in error.errors())) from None
        simulation._here = path.parent
        return simulation

    @property
    def root_target(self) -> str:
        """The root as `weights.local.checkpoint_folder` takes it."""
        folder = self._here / self.root
        return str(folder) if folder.is_dir() else self.root

    def task(self, name: str, role: Role) -> Task:
        """A task as it is measured in `role`."""
        folder = os.environ.get(TASKS_VARIABLE)
        return Task(name=name, path=Path(name), role=role).below(Path(folder) if folder else self._here / self.tasks)

    def unseen(self) -> list[tuple[str, Role]]:
        """Names and roles of the tasks that nobody trains on."""
        return [*((name, "gate") for name in self.gate), *((name, "report") for name in self.report)]  # type: ignore[list-item]
