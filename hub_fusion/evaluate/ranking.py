"""What a ranking of models says: a row for each, best first."""

from __future__ import annotations

from hub_fusion.evaluate.suspicion import Flag
from hub_fusion.records import Estimate, Record, Score


class Gain(Estimate):
    """A model minus the reference, paired by seed and test example; LogME in nats, all others in accuracy."""

    protocol: str
    task: str | None = None  # None: the mean over the tasks


class Row(Record):
    """One model of a ranking. `rank` is None, and `error` says why, if it could not be measured to its end."""

    model: str
    rank: int | None = None
    protocol: str | None = None  # the dearest it was measured by, which ranks it
    weights_sha256: str | None = None
    scores: tuple[Score, ...] = ()  # per task, and with task None the mean
    gains: tuple[Gain, ...] = ()
    flags: tuple[Flag, ...] = ()
    error: str | None = None

    def mean(self, protocol: str | None) -> Score | None:
        """The mean over the tasks by a protocol, None if it was not measured."""
        return next((s for s in self.scores if s.task is None and s.protocol == protocol), None)

    def gain(self, protocol: str | None, task: str | None = None) -> Gain | None:
        """The gain over the reference."""
        return next((g for g in self.gains if (g.protocol, g.task) == (protocol, task)), None)


class Ranking(Record):
    """All rows, best first; those without a rank last."""

    reference: str | None = None
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
