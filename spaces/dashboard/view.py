"""What pages need again and again of one version of the data, made once when it is read."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lineage import Attempt, Contamination, Credit, Metric, Record, Refusal, Score, Status, Unreadable, Waiting
from query import Query
from reader import Data
from words import metric_words

HEADLINES: list[Metric] = [(role, protocol) for role in ("report", "gate") for protocol in ("fewshot", "probe")]
Key = tuple[str, ...]  # (role, protocol), with a task's name as the third where it is one task's


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one contribution in one generation: fused, refused, or it waits for the next."""

    repo: str
    sha: str
    author: str
    status: Literal["fused", "refused", "waiting"]
    generation: int | None
    credit: Credit | None = None
    refusal: Refusal | None = None
    waiting: Waiting | None = None


class View:
    """The data and what follows from them."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.generations = data.generations
        self.by_name = {a.name: a for a in self.generations}
        self.status = data.status if isinstance(data.status, Status) else None

    @cached_property
    def newest(self) -> Attempt | None:
        """The newest generation that was not withdrawn, or else the newest."""
        usable = [a for a in self.generations if a.status != "yanked"] or self.generations
        return usable[-1] if usable else None

    def chosen(self, query: Query) -> Attempt | None:
        """The generation that the visitor asked for, or the newest."""
        return self.by_name.get(query["gen"]) or self.newest

    def record(self, attempt: Attempt | None) -> Record | None:
        """What is known of a generation besides the index; None where it was not read or cannot be."""
        found = self.data.records.get(attempt.generation) if attempt and attempt.generation is not None else None
        return found if isinstance(found, Record) else None

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every contribution of the records that were read: waiting ones, then the newest generation first."""
        return tuple(self._rows())

    def _rows(self) -> Iterator[Row]:
        if self.status:
            for w in self.status.waiting:
                yield Row(w.repo, w.sha, w.repo.partition("/")[0], "waiting", None, waiting=w)
            for r in self.status.refusals:
                yield Row(r.repo, r.sha, r.author, "refused", None, refusal=r)
        for attempt in reversed(self.generations):
            record, number = self.record(attempt), attempt.generation
            for c in record.credits if record else ():
                yield Row(c.repo, c.sha, c.author, "fused", number, credit=c)
            for r in record.refusals if record else ():
                yield Row(r.repo, r.sha, r.author, "refused", number, refusal=r)

    @cached_property
    def metrics(self) -> dict[str, Key]:
        """What the chart can show, by its name in an address: means first, then tasks."""
        means = {m for a in self.data.attempts if isinstance(a, Attempt) for m in a.scores}
        ordered = sorted(means, key=lambda m: (HEADLINES.index(m) if m in HEADLINES else len(HEADLINES), m))
        tasks = {(role, protocol, task) for record in self.data.records.values() if isinstance(record, Record)
                 for task, role, protocol in record.tasks}  # fmt: skip
        return {".".join(key): key for key in [*ordered, *sorted(tasks)][:200]}

    def metric(self, query: Query) -> Key | None:
        """The metric that the visitor asked for, or the headline: examples that the gate never saw, where measured."""
        if asked := self.metrics.get(query["metric"]):
            return asked
        measured = self.newest.scores if self.newest and self.newest.scores else None
        means = [key for key in self.metrics.values() if len(key) == 2]
        return next((k for k in means if measured is None or k in measured), None)

    def score(self, attempt: Attempt | Unreadable, key: Key | None) -> Score | None:
        """What an attempt reached; of single tasks only generations whose record was read say it, and their parents."""
        if not isinstance(attempt, Attempt) or key is None:
            return None
        if len(key) == 2:
            return attempt.scores.get((key[0], key[1]))
        role, protocol, task = key
        if record := self.record(attempt):
            return record.tasks.get((task, role, protocol))
        child = next((a for a in self.generations if a.parent == attempt.generation and self.record(a)), None)
        found = self.record(child) if attempt.generation is not None else None
        return found.parent_tasks.get((task, role, protocol)) if found else None


def not_held_out(*records: Record | None) -> dict[str, Contamination]:
    """Task → why it is not held out, by one of these records; such tasks are marked ‡."""
    return {found.task: found for record in records if record for found in record.contaminated}


def marked(task: str, tainted: Container[str]) -> str:
    """The task's name, with a mark if it is not held out."""
    return f"{task} ‡" if task in tainted else task


def key_words(key: Key | None, tainted: Container[str] = ()) -> str:
    """The metric in words, "" for none; a task among `tainted` is marked."""
    if key is None:
        return ""
    words = metric_words((key[0], key[1]))
    return words if len(key) == 2 else f"task {marked(key[2], tainted)}, {words}"
