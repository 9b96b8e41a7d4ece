"""What was measured: accuracies and log-likelihoods with their intervals."""

from __future__ import annotations

from pydantic import Field

from hub_fusion.errors import RecordError
from hub_fusion.records.record import Record, Role


class Estimate(Record):
    """A mean with its 95 % bootstrap interval. Accuracies are fractions of 1."""

    mean: float
    low: float
    high: float


class Score(Estimate):
    """Accuracy of one model on one task (or, with task None, on the mean over the tasks of a role).

    Among `Scores.likelihoods` it is no accuracy but a mean log-likelihood.
    """

    task: str | None = None
    role: Role
    protocol: str = Field(description="probe, fewshot or finetune; of likelihoods logme or perplexity")
    examples: int = Field(description="test examples; of perplexity windows, of logme sets of examples for each seed")
    per_seed: tuple[float, ...] = ()
    seconds: float = Field(0.0, description="wall time of the protocol on the task, all seeds and roles together")
    shown: int = Field(0, description="training examples shown, all seeds together")


class Scores(Record):
    """Everything measured on one checkpoint."""

    suite: str = Field(description="sha256 of tasks, protocols and seeds: scores of different suites do not compare")
    weights_sha256: str = Field(description="sha256 over the checkpoint's weight files")
    tasks: tuple[Score, ...] = ()
    means: tuple[Score, ...] = Field((), description="one per role and protocol")
    likelihoods: tuple[Score, ...] = Field(
        (), description="no accuracies but log-likelihoods in nats, larger is better: of perplexity per token, of "
        "logme (log evidence) per example; per task, and with task null the mean over the tasks of a role"
    )  # fmt: skip
    seconds: float = 0.0

    def mean(self, role: Role, protocol: str | None = None) -> float:
        """Mean over the tasks of `role`, by one protocol or all `deciding`. RecordError if nothing was measured."""
        wanted = self.deciding() if protocol is None else {protocol}
        values = [s.mean for s in self._all_means() if s.role == role and s.protocol in wanted]
        if not values:
            raise RecordError(f"no score with role {role!r} and protocol {protocol!r}; there are {self.names()}")
        return sum(values) / len(values)

    def deciding(self) -> set[str]:
        """The protocols that decide unless others are asked for: those of accuracies, or without them perplexity."""
        accuracies = {s.protocol for s in self.means}
        return accuracies or {s.protocol for s in self._all_means() if s.protocol == "perplexity"}

    def names(self) -> list[str]:
        """``role/protocol`` of all means."""
        return [f"{s.role}/{s.protocol}" for s in self._all_means()]

    def _all_means(self) -> list[Score]:
        return [*self.means, *(s for s in self.likelihoods if s.task is None)]


class Retained(Record):
    """What became of a task that contributors trained on; with task None, of the mean over all these tasks."""

    task: str | None = None
    protocol: str = Field(description="by which: accuracies, but of perplexity nats")
    over_parent: Estimate = Field(description="the candidate minus its parent, paired by seed and test example; the "
                                  "intervals of tasks hold for all of them at once")  # fmt: skip
    over_root: Estimate = Field(description="the candidate minus gen-0")


class Difference(Estimate):
    """Candidate minus parent, paired by seed and test example."""

    role: Role
    protocol: str
