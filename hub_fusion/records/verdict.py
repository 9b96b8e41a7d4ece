"""What the gate said of a candidate, and what was tried on the way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hub_fusion.records.record import Record
from hub_fusion.records.scores import Difference, Estimate, Scores


class Rule(Record):
    """One rule of the gate, and the numbers it looked at: the candidate minus what it was held against."""

    name: Literal["parent", "best", "root", "task"] = Field(description="task: the parent, on one gate task")
    against: str = Field(description="gen-N")
    task: str | None = None
    passed: bool
    change: float
    low: float | None = Field(None, description="of the paired interval; null: there were only means to compare")
    high: float | None = None
    allowed: float = Field(description="a loss, not negative")


class Trial(Record):
    """One candidate that was measured while the best one was searched for."""

    kind: Literal["step", "without", "alone", "with"] = Field(
        description="step: all or the chosen contributions; the others name one: left out, by itself, added to the soup"
    )
    contribution: str | None = Field(None, description="repo@sha")
    members: int = Field(description="contributions that were fused")
    step: float
    candidate: float = Field(description="mean over the gate tasks")
    change: Estimate | None = Field(
        None, description="step: minus the parent; without: minus the candidate with all; paired; null: not compared"
    )
    accepted: bool = Field(description="by the gate")


class CanaryCheck(Record):
    """What became of inputs whose behaviour must not change; of what they are nothing is published."""

    name: str
    kind: Literal["keep", "avoid", "triggers", "text"]
    passed: bool
    holds: float = Field(description="share of its answers that are as they should be; of text nats a token, larger is "
                         "better; of triggers with the worst phrase")  # fmt: skip
    parent: float = Field(description="the same with the parent")
    change: float
    allowed: float = Field(description="a loss, not negative")
    inputs: int = Field(description="that were asked; of text windows")
    tripped_by: tuple[str, ...] = Field((), description="repo@sha of those that were left out since it tripped")


class Control(Record):
    """A random step from the parent that is in every tensor as long as the candidate's: what any movement would do."""

    norm: float = Field(description="Euclidean length of the step over the whole model")
    seed: int
    scores: Scores = Field(description="by the protocols that it was measured with")
    differences: tuple[Difference, ...] = Field(description="candidate minus control, paired")


class Contamination(Record):
    """A task that is no longer held out, since contributions name its data, or the task, in their cards."""

    task: str
    contributions: tuple[str, ...] = Field(description="repo@sha of those that do, oldest first, at most 20")
    since: int | None = Field(None, description="the first generation one of them is in; null: none but this attempt")


class Verdict(Record):
    """What the gate said, with the numbers it looked at (mean accuracy over the gate tasks)."""

    accepted: bool
    step: float = Field(description="the part of the way from parent to candidate that was judged, 0 to 1")
    candidate: float
    parent: float
    best: float = Field(description="the best published generation so far")
    epsilon: float
    reason: str
    tried: tuple[tuple[float, float], ...] = Field((), description="(step, candidate's gate mean) of every step tried")
    test: str = Field("means", description="how losses were judged; old records: by means")
    rules: tuple[Rule, ...] = Field((), description="empty in old records")
    canaries: tuple[CanaryCheck, ...] = Field((), description="each must pass for the candidate to be accepted")
    trials: tuple[Trial, ...] = Field((), description="everything that was measured to choose the candidate, in order")
