"""A fuse that was evaluated, and the generation it may have become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from hub_fusion.records.contribution import Credit, Refusal
from hub_fusion.records.index import AttemptStatus, IndexEntry
from hub_fusion.records.record import SCHEMA_VERSION, Moment, Record, Sha, Sha256
from hub_fusion.records.scores import Difference, Estimate, Retained, Score, Scores
from hub_fusion.records.token import AddedToken
from hub_fusion.records.verdict import Contamination, Control, Verdict


class Formula(Record):
    """What decided a fuse's bytes besides the parent, the contributions, the method and the step."""

    options: dict[str, Any] = Field(default_factory=dict, description="of the method")
    seed: int = Field(0, description="of methods with randomness")
    heads: Literal["drop", "keep"] = Field("drop", description="task heads: left out, or kept as the base has them")
    dtype: str | None = Field(None, description="float dtype of the weights in safetensors' words; null: the parent's")
    residual: bool = Field(False, description="whether what rounding to 16 bits lost was kept beside the weights")
    rank: int | None = Field(None, ge=1, le=1024, description="of a generation that is an adapter")
    base_revision: Sha | None = Field(
        None, description="the commit that was read: the parent's weights, with the configuration of that day"
    )


class Line(Record):
    """The straight line from the parent to the candidate; its shape says little about how good its ends are."""

    protocol: str
    heads: Literal["refitted"] = Field("refitted", description="everything that is not body is fitted at every point")
    at: tuple[float, ...] = Field(description="0 is the parent, 1 the candidate")
    values: tuple[float, ...] = Field(description="mean over the gate tasks")
    barrier: float = Field(
        description="how far they fall below the chord between the ends, at the worst point; never negative, so that "
        "noise alone makes it a little larger than 0"
    )


class Analysis(Record):
    """How the fused task vectors lie to each other, and what else people look at. Nothing is decided by it."""

    contributions: tuple[str, ...] = Field((), description="repo@sha, the rows and columns of the tables")
    cosines: tuple[tuple[float, ...], ...] = Field((), description="of the task vectors, before the cap")
    opposed: tuple[tuple[float, ...], ...] = Field(
        (), description="of sampled elements that both change, the share they change in opposite directions"
    )
    spectrum: tuple[float, ...] = Field((), description="shares of squared length of the principal directions")
    directions: float = Field(0.0, description="participation ratio of the spectrum: n for n orthogonal task vectors")
    drift: dict[str, float] = Field(
        default_factory=dict, description="layer → ‖candidate − parent‖ / ‖parent‖, in the order of the base's tensors"
    )
    line: Line | None = Field(None, description="null: the recipe does not ask for it")
    left_out: dict[str, Estimate] = Field(
        default_factory=dict,
        description="repo@sha → what the gate mean gained when all but it were fused, paired: above 0 it does harm, "
        "below 0 it helps; where the search left out one at a time, those that it dropped included",
    )


class Attempt(Record):
    """A fuse that was evaluated, published or not: enough to understand it and to do it again."""

    schema_version: int = SCHEMA_VERSION
    id: Sha256 = Field(description="sha256 of parent, recipe, suite and sorted contribution shas")
    status: AttemptStatus
    generation: int | None = None
    base: str
    root: str | None = None
    parent_generation: int | None = None
    parent_revision: Sha | None = None
    created_at: Moment
    contributions: tuple[Credit, ...] = ()
    refusals: tuple[Refusal, ...] = Field((), description="those that are told in full, at most 200")
    refused: dict[str, int] = Field(
        default_factory=dict, description="code → how many were refused, in all; empty in old records, which tell all"
    )
    recipe: str = Field("", description="the recipe, verbatim YAML")
    method: str = "mean"
    step: float = 1.0
    formula: Formula | None = Field(None, description="null in old records, whose recipe says it")
    tokens: tuple[AddedToken, ...] = Field((), description="that contributions brought and the parent has not")
    archive: str | None = Field(None, description="the repository that keeps what was fused")
    parent_scores: Scores | None = None
    candidate_scores: Scores | None = None
    analysis: Analysis | None = Field(None, description="null in old records")
    retention: tuple[Retained, ...] = Field((), description="of the recipe's seen tasks: their mean, then each")
    differences: tuple[Difference, ...] = ()
    likelihood_differences: tuple[Difference, ...] = Field((), description="of log-likelihoods, in nats")
    control: Control | None = Field(None, description="null: not measured")
    verdict: Verdict | None = None
    contaminated: tuple[Contamination, ...] = Field((), description="gate and report tasks that are not held out")
    weights: dict[str, str] = Field(default_factory=dict, description="weight file → sha256")
    heads: tuple[Score, ...] = Field((), description="of a generation: what its heads under heads/TASK reach")
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict, description="stage → wall time")
    spent: dict[str, float] = Field(
        default_factory=dict, description="seconds, bytes and money since the last generation, in all rounds together"
    )

    @property
    def tag(self) -> str | None:
        """``gen-N``, or None for an attempt that was not published."""
        return None if self.generation is None else f"gen-{self.generation}"

    @property
    def refused_by_code(self) -> dict[str, int]:
        """Code → how many were refused for it, in old records too."""
        return self.refused or dict(Counter(refusal.code for refusal in self.refusals))

    def to_entry(self, revision: str | None = None) -> IndexEntry:
        """The small form for the index; `revision` is the commit of the generation where it is known by now."""
        return IndexEntry(
            id=self.id,
            status=self.status,
            generation=self.generation,
            tag=self.tag,
            revision=revision,
            parent_generation=self.parent_generation,
            parent_revision=self.parent_revision,
            created_at=self.created_at,
            method=self.method,
            step=self.step,
            contributions=len(self.contributions),
            authors=tuple(sorted({c.author for c in self.contributions})[:20]),
            refusals=sum(self.refused_by_code.values()),
            scores=_small(self.candidate_scores.means) if self.candidate_scores else (),
            likelihoods=_small(self.candidate_scores.likelihoods) if self.candidate_scores else (),
            suite=self.candidate_scores.suite if self.candidate_scores else None,
            differences=self.differences,
            reason=self.verdict.reason if self.verdict else "",
        )


def _small(scores: Iterable[Score]) -> tuple[Score, ...]:
    """The means among them, without what only the record of the generation tells."""
    return tuple(s.model_copy(update={"per_seed": (), "seconds": 0.0, "shown": 0}) for s in scores if s.task is None)


class Withdrawal(Record):
    """Why and when a generation was withdrawn."""

    reason: str
    at: Moment
    to_generation: int = Field(description="whose weights main has since")
    verdict: Verdict | None = Field(None, description="of a later evaluation that spoke against it")
    suite: str | None = Field(None, description="by which that was measured")


class Generation(Attempt):
    """A published attempt: ``fusion/gen-N.json``, written in the same commit as its weights."""

    status: Literal["root", "published", "yanked"] = "published"
    generation: int
    withdrawn: Withdrawal | None = Field(None, description="of a yanked one, on main; at its tag it is as published")
