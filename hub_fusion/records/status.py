"""What is going on between generations."""

from __future__ import annotations

from pydantic import Field

from hub_fusion.records.attempt import Attempt
from hub_fusion.records.contribution import Refusal
from hub_fusion.records.record import SCHEMA_VERSION, Moment, Record


class Waiting(Record):
    """A contribution that is in the queue for the next generation."""

    repo: str
    sha: str
    since: Moment | None = None


class Proposed(Record):
    """An attempt that the gate accepted and that awaits, or has had, a human's decision in a pull request."""

    id: str
    generation: int
    number: int = Field(description="of the pull request")


class Headroom(Record):
    """What the watcher's machine and the recipe's budget have left; as of the status's last change."""

    generation: int = Field(description="the next one, for which is spent")
    disk_free: int = Field(description="bytes, where rounds work")
    memory_free: int | None = Field(None, description="bytes; null: not known")
    spent: dict[str, float] = Field(default_factory=dict, description="seconds, bytes and money so far")
    budget: dict[str, float] = Field(default_factory=dict, description="the limits among them")


class Aside(Record):
    """What the screen refused while too few were left to fuse; it is not screened again for the same round."""

    round: str = Field(description="id of the base's revision, recipe and suite for which it holds")
    at: Moment
    refusals: tuple[Refusal, ...] = ()


class Later(Record):
    """A contribution of a generation that is no longer what it was when it was fused."""

    repo: str
    sha: str
    generation: int = Field(description="the one it came in by")
    code: str = Field(description="gone, opted_out or relicensed")
    reason: str


class Status(Record):
    """``fusion/status.json`` on the branch ``fusion-status``: what is going on between generations."""

    schema_version: int = SCHEMA_VERSION
    base: str
    heartbeat: Moment
    generation: int | None = None
    queue: tuple[Waiting, ...] = Field((), description="those who wait; at most 1000 of them")
    queued: int = Field(0, description="how many wait; 0 in old files, which name all")
    refusals: tuple[Refusal, ...] = Field((), description="those that are told in full, at most 200")
    refused: dict[str, int] = Field(default_factory=dict, description="code → how many were refused, in all")
    refused_names: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="code → repositories that were refused for it and are not told in full, as far as there is room",
    )
    rejected: tuple[Attempt, ...] = Field((), description="attempts the gate rejected since the newest generation")
    proposed: tuple[Proposed, ...] = Field((), description="attempts in pull requests, open or closed; not made again")
    last_error: str | None = None
    headroom: Headroom | None = None
    aside: Aside | None = None
    later: tuple[Later, ...] = Field((), description="fused contributions that changed since; at most 100 are told")
    stable: int | None = Field(None, description="the generation that was promoted to be stable last")
    commits: int = Field(0, description="of this file; the branch is squashed at every 50th")
