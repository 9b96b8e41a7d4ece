"""The whole recipe: its parts together, and what has to fit between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from hub_fusion.errors import RecipeError
from hub_fusion.recipe.budget import Budget
from hub_fusion.recipe.contributions import Contributions, Round, Screen
from hub_fusion.recipe.evaluation import Evaluate, Gate
from hub_fusion.recipe.merging import Merge, Search
from hub_fusion.recipe.publishing import Archive, Heads, Publish
from hub_fusion.recipe.section import Section, explain
from hub_fusion.recipe.sources import ENVIRONMENT_PREFIX, from_environment, parse_yaml, set_key
from hub_fusion.recipe.tasks import Task

TEMPLATE = Path(__file__).with_name("template.yaml")


class Recipe(Section):
    """The whole file."""

    base: str = Field(pattern=r"^[\w.-]{1,96}/[\w.-]{1,96}$", description="the repository being improved")
    root: str | None = Field(None, description="where the base's weights came from, for the card")
    aliases: tuple[str, ...] = Field((), description="mirrors of the base that people also train from")
    contributions: Contributions = Contributions()
    round: Round = Round()
    screen: Screen = Screen()
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    search: Search = Search()
    gate: Gate = Gate()
    publish: Publish = Publish()
    heads: Heads = Heads()
    archive: Archive = Archive()
    budget: Budget = Budget()
    poll_seconds: float = Field(300.0, gt=0, description="pause between two looks at the Hub")
    announcements: bool = Field(True, description="answer discussions of the base titled hub-fusion: USER/MODEL")
    rescan: timedelta = Field(timedelta(hours=24), description="a look after so long lists all, not only what changed")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.archive.repo is not None and self.archive.repo.lower() == self.base.lower():
            raise ValueError(f"archive.repo is the base itself, {self.base}: name another repository")
        return self

    @model_validator(mode="after")
    def _one_license(self) -> Self:
        result = self.contributions.resulting_license
        if result and self.publish.license and self.publish.license.strip().lower() != result:
            raise ValueError(
                f"publish.license is {self.publish.license}, contributions.resulting_license is {result}: name one"
            )
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.heads.kind == "none":
            return self
        seen = [task.name for task in self.evaluate.tasks if task.role == "seen"]
        if unknown := [name for name in self.heads.tasks if name not in seen]:
            there = f"there are {', '.join(seen)}" if seen else "there are none"
            raise ValueError(f"heads.tasks names {', '.join(unknown)}, no evaluate.tasks with role: seen; {there}")
        if self.heads.kind == "refit" and not seen:
            raise ValueError("heads.kind is refit, but no task in evaluate.tasks has role: seen; add one")
        if dots := [task.name for task in self.head_tasks if not task.name.strip(".")]:
            raise ValueError(f"the task {dots[0]!r} cannot have a head: heads/{dots[0]} is no folder's name; rename it")
        if self.publish.kind == "adapter":
            raise ValueError(
                "heads are fitted on a whole generation, and publish.kind is adapter: set heads.kind: none"
            )
        return self

    @property
    def head_tasks(self) -> tuple[Task, ...]:
        """The tasks for which every generation gets a head."""
        if self.heads.kind == "none":
            return ()
        seen = (task for task in self.evaluate.tasks if task.role == "seen")
        return tuple(task for task in seen if not self.heads.tasks or task.name in self.heads.tasks)

    @property
    def license(self) -> str | None:
        """Under which licence a generation is published; None: the one that the base's card names."""
        return self.contributions.resulting_license or self.publish.license

    @classmethod
    def from_text(
        cls, text: str, *, source: str = "recipe", overrides: Mapping[str, Any] | None = None, environment: bool = False
    ) -> Self:
        """Parse YAML. `overrides` maps dotted keys to values and wins over everything. Raises RecipeError."""
        data = parse_yaml(text, source) or {}
        if not isinstance(data, dict):
            raise RecipeError(f"{source} must be a mapping of keys to values, not {type(data).__name__}")
        for key, value in (from_environment(cls.model_fields) if environment else {}).items():
            set_key(data, key, value, source=f"environment variable {ENVIRONMENT_PREFIX}…")
        for key, value in (overrides or {}).items():
            set_key(data, key, value, source="flag")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RecipeError(f"{source}: " + "; ".join(explain(e, cls) for e in error.errors())) from None

    @classmethod
    def load(cls, path: Path, *, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a recipe file; relative task paths are relative to it. Raises RecipeError."""
        try:
            text = path.read_text()
        except OSError as error:
            raise RecipeError(f"cannot read {path}: {error.strerror}; hub-fusion init writes a recipe") from None
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path} is not UTF-8: {error}") from None
        recipe = cls.from_text(text, source=str(path), overrides=overrides, environment=True)
        tasks = tuple(task.below(path.parent) for task in recipe.evaluate.tasks)
        canaries = tuple(canary.below(path.parent) for canary in recipe.evaluate.canaries)
        evaluate = recipe.evaluate.model_copy(update={"tasks": tasks, "canaries": canaries})
        return recipe.model_copy(update={"evaluate": evaluate})

    def to_yaml(self) -> str:
        """The whole recipe, defaults included, as YAML that `from_text` reads back to an equal recipe."""
        data = self.model_dump(mode="json")
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        if yaml.safe_load(text) == data:
            return text
        return yaml.safe_dump(data, sort_keys=False)  # PyYAML writes U+0085 so that it reads back as a space

    def decisive(self) -> str:
        """Canonical JSON of what decides the weights and the verdict (not: when, where to, how often)."""
        keep = self.model_dump(mode="json", include={"base", "contributions", "screen", "merge", "search", "gate"})
        keep["contributions"].pop("include")
        keep["screen"].pop("spool_bytes")
        keep["search"].pop("control")
        keep["merge"].pop("vocab")  # has no second value
        keep["merge"].pop("residual")  # decides the weights of the next generation, through the base
        if self.publish.kind == "adapter":
            keep["publish"] = {"kind": self.publish.kind, "rank": self.publish.rank}
        ages = self.round.model_dump(mode="json", include={"age_discount", "max_age"}, exclude_defaults=True)
        keep |= {"round": ages} if ages else {}
        return json.dumps(keep, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def template(base: str, root: str | None = None) -> str:
        """A commented recipe with the defaults that people change."""
        return TEMPLATE.read_text(encoding="utf-8").format(base=base, root=root or "null")
