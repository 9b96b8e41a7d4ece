"""Where a generation goes, and what is published with it."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from hub_fusion.recipe.evaluation import Probe
from hub_fusion.recipe.section import Section


class Publish(Section):
    """Where a generation goes."""

    license: str | None = Field(None, description="the base's licence; default: as its card says")
    keep_formats: bool = Field(False, description="leave .bin, .h5 and other stale weight files beside the new weights")
    kind: Literal["weights", "adapter"] = Field(
        "weights", description="adapter: the base's weights stay frozen, and a generation is a LoRA adapter of them"
    )
    mode: Literal["commit", "pull-request"] = Field(
        "commit", description="pull-request: a generation awaits a human, who merges or closes it"
    )
    hold_back: timedelta | None = Field(
        None, ge=timedelta(0), description="how long a generation is a candidate before it is stable; null: for ever"
    )
    rank: int = Field(16, ge=1, le=1024, description="of a generation that is an adapter")


class Heads(Probe):
    """Small heads for tasks that the base was grown from: logistic regression on the frozen body, under heads/TASK."""

    kind: Literal["none", "refit", "keep"] = Field(
        "none", description="refit: fit them for every generation, remove those of other tasks; keep: the same, but "
        "those of other tasks stay, bound to the generation they were fitted on; none: fit none, remove all"
    )  # fmt: skip
    tasks: tuple[str, ...] = Field((), description="names of evaluate.tasks with the role seen; empty: all of these")


class Archive(Section):
    """What of the contributions is kept, so that a generation can be fused again when their authors deleted them."""

    keep: Literal["none", "adapters", "all"] = "none"
    repo: str | None = Field(
        None, pattern=r"^[\w.-]{1,96}/[\w.-]{1,96}$", description="where; default: the base's name with -archive"
    )
    private: bool = Field(True, description="whether the archive is private when it is made")
