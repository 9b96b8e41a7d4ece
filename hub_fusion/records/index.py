"""All attempts in small form: what the dashboard and the watcher read first."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from hub_fusion.records.record import SCHEMA_VERSION, Moment, Record, Sha, encodable
from hub_fusion.records.scores import Difference, Score

AttemptStatus = Literal["root", "published", "rejected", "yanked"]


class IndexEntry(Record):
    """One attempt in ``fusion/index.json``; `revision` of the newest is filled in by the next commit (see its tag)."""

    id: str
    status: AttemptStatus
    generation: int | None = None
    tag: str | None = None
    revision: Sha | None = None
    parent_generation: int | None = None
    parent_revision: Sha | None = None
    created_at: Moment
    method: str = "mean"
    step: float = 1.0
    contributions: int = 0
    authors: tuple[str, ...] = Field((), description="at most 20 of them")
    refusals: int = 0
    scores: tuple[Score, ...] = ()
    likelihoods: tuple[Score, ...] = Field((), description="means of log-likelihoods in nats, larger is better")
    suite: str | None = None
    differences: tuple[Difference, ...] = ()
    reason: str = ""

    def to_json(self, *, indent: int | None = None) -> str:
        """The entry as JSON without needless spaces; scores leave out the fields that hold their default."""
        data = self.model_dump(mode="json")
        data["scores"] = [score.model_dump(mode="json", exclude_defaults=True) for score in self.scores]
        data["likelihoods"] = [score.model_dump(mode="json", exclude_defaults=True) for score in self.likelihoods]
        if not self.likelihoods:
            del data["likelihoods"]
        separators = None if indent else (",", ":")
        return encodable(json.dumps(data, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False))


class Index(Record):
    """``fusion/index.json``: all attempts, oldest first, small."""

    schema_version: int = SCHEMA_VERSION
    base: str
    root: str | None = None
    updated_at: Moment
    contributors: dict[str, int] = Field(
        default_factory=dict,
        description="account → its contributions in all generations together; at most 1000 accounts",
    )
    entries: tuple[IndexEntry, ...] = ()

    def to_json(self, *, indent: int | None = None) -> str:
        """The index as JSON text, one entry on a line; `indent` is not used, since it would double the size."""
        data = self.model_dump(mode="json", exclude={"entries"})
        head = encodable(json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False))
        return head[:-1] + ',"entries":[\n' + ",\n".join(e.to_json() for e in self.entries) + "\n]}"

    @property
    def generations(self) -> list[IndexEntry]:
        """The published entries, gen-0 first."""
        return sorted((e for e in self.entries if e.generation is not None), key=lambda e: e.generation or 0)

    @property
    def newest(self) -> IndexEntry | None:
        """The newest generation, or None before gen-0."""
        return self.generations[-1] if self.generations else None
