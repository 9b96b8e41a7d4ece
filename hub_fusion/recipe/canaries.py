"""What a recipe says of a canary: inputs whose behaviour must not change in a candidate against its parent."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from hub_fusion.recipe.section import Section

CanaryKind = Literal["keep", "avoid", "triggers", "text"]


class Canary(Section):
    """Inputs whose behaviour must not change (see evaluate/canaries.py).

    Their file stays with the watcher: the recipe, which is published, tells of it the name alone.
    """

    name: str = Field(pattern=r"^[\w.-]{1,64}$", description="public, as all of the recipe is")
    path: Path = Field(description="a file, relative to the recipe's; nothing of it is published")
    kind: CanaryKind = Field(
        description="keep: inputs that keep their label; avoid: inputs that never get it; triggers: phrases, one a "
        "line, that must not flip a prediction; text: plain text whose likelihood must not drop"
    )
    task: str | None = Field(None, description="of evaluate.tasks: whose training examples fit the head; null for text")
    allowed: float = Field(
        0.1, ge=0, description="how much less than the parent's may hold: a share of the answers, of text nats a token"
    )
    _root: Path = PrivateAttr(default_factory=Path)

    @model_validator(mode="after")
    def _has_a_head(self) -> Self:
        if (self.task is None) != (self.kind == "text"):
            raise ValueError(
                f"canary {self.name!r}: keep, avoid and triggers need a task, whose training examples fit the head; "
                f"text needs none; kind is {self.kind} and task {self.task}"
            )
        if self.kind in ("triggers", "text") and self.path.suffix != ".txt":
            raise ValueError(f"canary {self.name!r}: {self.kind} are read from a .txt file, not {self.path.name}")
        return self

    @property
    def file(self) -> Path:
        """Where it is on this machine."""
        return self._root / self.path

    def below(self, root: Path) -> Canary:
        """The same canary with `root` as what its path is relative to."""
        canary = self.model_copy()
        canary._root = root
        return canary
