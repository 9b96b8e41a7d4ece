"""What a small head of a generation needs to be used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hub_fusion.records.record import SCHEMA_VERSION, Record, Sha256
from hub_fusion.records.scores import Score


class Head(Record):
    """``heads/TASK/head.json``: what a small head of a generation needs to be used; its tensors lie beside it.

    ``head.safetensors`` holds `weight` (labels, hidden) and `bias` (labels,) in float32, for pooled features as they
    come from the body.
    """

    schema_version: int = SCHEMA_VERSION
    base: str
    generation: int
    task: str
    kind: Literal["text", "image"]
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, max_length=3, description="of one input: (1,) text, (2,) a pair, (channels, height, width)"
    )
    labels: tuple[str, ...] = Field(min_length=2, description="their names, in the order of the logits")
    pooling: Literal["mean", "cls", "last"]
    max_length: int = Field(ge=1, description="tokens")
    trained_on: int = Field(description="training examples")
    score: Score = Field(description="on the task's test examples")
    weights_sha256: Sha256 = Field(description="sha256 over the weight files of the generation it was fitted on")
    sha256: Sha256 = Field(description="of head.safetensors")
    task_sha256: Sha256 = Field(description="sha256 over the task's examples")
    versions: dict[str, str] = Field(default_factory=dict)
