"""How contributions are fused, and which of the candidates that they give is chosen."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from hub_fusion.recipe.section import Section


class Merge(Section):
    """The formula."""

    method: str = "mean"
    options: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(0, description="of methods with randomness")
    vote: Literal["account", "contribution"] = Field("account", description="who has one vote")
    max_weight: float = Field(
        0.125, gt=0, le=1, description="no account decides more of a step (no contribution where that has the vote); "
        "what is left stays with the parent, so that few contributions make a small step; 1: no bound"
    )  # fmt: skip
    cap: bool = Field(True, description="cap norms before the method")
    heads: Literal["drop", "keep"] = Field("drop", description="task heads: leave them out, or keep the base's")
    vocab: Literal["drop", "keep"] = Field(
        "drop", description="tokens that contributions added: leave them out, or keep them"
    )
    residual: bool = Field(False, description="keep what rounding to 16 bits lost; the next generation starts from it")
    steps: tuple[float, ...] = Field((1.0, 0.5, 0.25), description="parts of the way to try, in this order")

    @field_validator("steps")
    @classmethod
    def _steps(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if not steps or any(not 0 < s <= 1 for s in steps):
            raise ValueError("steps are numbers in (0, 1], at least one")
        return steps


class Search(Section):
    """How the candidate is chosen, by gate tasks alone. Everything that is measured counts, but for the parent."""

    evaluations: int = Field(8, ge=1, description="measurements at most; one is always made")
    seconds: float | None = Field(None, gt=0, description="no further measurement after so many seconds of measuring")
    steps: Literal["best", "first"] = Field(
        "best", description="of merge.steps: the best that the gate accepts, or the first"
    )
    contributions: Literal["all", "leave-one-out", "greedy-soup"] = Field(
        "all", description="leave-one-out: without those that certainly made it worse; greedy-soup: see evaluate/soup"
    )
    control: Literal["off", "cheapest", "all"] = Field(
        "cheapest", description="a random step of equal length, measured by the cheapest protocol or by all"
    )
