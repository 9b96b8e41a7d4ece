"""What a base's repository says about itself, as values. `parsing` makes them from JSON and checks them.

Plain Python on purpose: the Space holds this folder and two packages. All text in these values is strangers': cut to a
length, on one line, not escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

STALE = timedelta(hours=2)  # the watcher writes at least hourly
LIKELIHOODS = ("logme", "perplexity")  # protocols whose numbers are log-likelihoods in nats; others give accuracies
Metric = tuple[str, str]  # role (gate, report or seen), protocol (fewshot, probe, …)


@dataclass(frozen=True, slots=True)
class Score:
    """A mean with its 95 % interval: an accuracy or a difference of two as fractions of 1, or log-likelihoods."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """A fuse that was evaluated: a generation, or rejected by the gate. `doubts`: why not to believe its numbers."""

    id: str
    status: str  # root, published, rejected, yanked
    created_at: datetime
    generation: int | None = None
    revision: str | None = None
    parent: int | None = None
    method: str = ""
    step: float = 1.0
    contributions: int = 0
    authors: tuple[str, ...] = ()
    refusals: int = 0
    scores: Mapping[Metric, Score] = field(default_factory=dict)
    differences: Mapping[Metric, Score] = field(default_factory=dict)
    likelihoods: Mapping[Metric, Score] = field(default_factory=dict)
    suite: str = ""
    reason: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``gen-N``, or what a rejected attempt is called."""
        return "rejected attempt" if self.generation is None else f"gen-{self.generation}"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A place where something stands that cannot be read."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Credit:
    """A contribution that was fused; `generation` is the one that it started from, `known_by` how that is known."""

    repo: str
    sha: str
    author: str
    relation: str
    license: str
    task: str
    weight: float | None
    scale: float
    datasets: tuple[str, ...] = ()
    generation: int | None = None
    known_by: str = ""
    norm: float | None = None
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A contribution that was set aside."""

    repo: str
    sha: str
    author: str
    code: str
    reason: str
    fix: str
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the gate: how far the candidate may fall against a generation, and how it did, in fractions of 1."""

    name: str  # parent, best, root, task
    against: str  # gen-N
    task: str
    passed: bool
    change: float
    low: float | None
    high: float | None
    allowed: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A measurement on the way to the candidate; `change`: to the parent, or to the candidate with all."""

    kind: str  # step, without, alone, with
    contribution: str  # repo@sha, or ""
    members: int
    step: float
    candidate: float  # mean over the gate tasks
    change: Score | None
    accepted: bool


@dataclass(frozen=True, slots=True)
class Analysis:
    """How the task vectors lie to each other: tables over `contributions`; `drift`: layer → ‖change‖ / ‖parent‖."""

    contributions: tuple[str, ...]  # repo@sha
    cosines: Sequence[Sequence[float]]
    opposed: Sequence[Sequence[float]]
    spectrum: Sequence[float]
    directions: float
    drift: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Line:
    """The straight line from the parent (0) to the candidate (1), on the gate's tasks; everything but the body is
    fitted anew at every point."""

    protocol: str
    points: tuple[tuple[float, float], ...]  # part of the way, mean over the tasks
    barrier: float


@dataclass(frozen=True, slots=True)
class Retained:
    """What became of a task that contributors trained on, or of the mean over them (task ""); see `is_in_nats`."""

    task: str
    protocol: str
    over_parent: Score
    over_root: Score

    @property
    def is_in_nats(self) -> bool:
        """Whether the changes are those of log-likelihoods, not of accuracies."""
        return self.protocol in LIKELIHOODS


@dataclass(frozen=True, slots=True)
class Canary:
    """Inputs that the maintainers keep back: how they behave beside the parent, and how many were left out for it."""

    name: str
    passed: bool
    change: float
    allowed: float
    tripped_by: int


@dataclass(frozen=True, slots=True)
class Contamination:
    """A task that is not held out: cards of `contributions` (repo@sha) name its data, since the generation `since`."""

    task: str
    contributions: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True)
class Record:
    """What ``fusion/gen-N.json`` adds to the index; `unreadable` counts its rows that cannot be read.

    `tasks` and `parent_tasks` are (task, role, protocol) → accuracy; `control` is the candidate minus a random step of
    the same length; `heads` are accuracies of the generation's published heads by task; `recipe` is its text by lines;
    `path` is (step, mean over the gate tasks) of the parent, step 0, and of every step that was tried; `left_out` is
    repo@sha → the change of that mean when all but it are fused; `refused` is code → how many, of whom `refusals` are
    those that are told in full; `in_nats`: it is one of log-likelihoods.
    """

    credits: tuple[Credit, ...]
    refusals: tuple[Refusal, ...]
    unreadable: int = 0
    tasks: Mapping[tuple[str, str, str], Score] = field(default_factory=dict)
    parent_tasks: Mapping[tuple[str, str, str], Score] = field(default_factory=dict)
    control: Mapping[Metric, Score] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    trials: tuple[Trial, ...] = ()
    heads: Mapping[str, Score] = field(default_factory=dict)
    analysis: Analysis | None = None
    epsilon: float | None = None
    withdrawn: str = ""
    seconds: float = 0.0
    hardware: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    archive: str = ""
    doubts: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    path: tuple[tuple[float, float], ...] = ()
    in_nats: bool = False
    line: Line | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, Score] = field(default_factory=dict)
    retention: tuple[Retained, ...] = ()
    contaminated: tuple[Contamination, ...] = ()
    canaries: tuple[Canary, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A contribution in the queue for the next generation."""

    repo: str
    sha: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What the watcher said last; `rejected` are attempts since the newest generation, which no index holds yet.

    Of long queues and thousands of refusals it names some: `queued` wait, `refused` is code → how many, `named` is
    repository in lower case → its name and code, of those that `refusals` does not tell in full.
    """

    heartbeat: datetime
    waiting: tuple[Waiting, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    last_error: str = ""
    rejected: tuple[Attempt | Unreadable, ...] = ()
    unreadable: int = 0
    queued: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    named: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    later: tuple[tuple[str, int, str], ...] = ()  # fused contributions that changed since: repository, generation, how

    @property
    def queue(self) -> int:
        """How many contributions wait."""
        return max(self.queued, len(self.waiting))

    @property
    def nameless(self) -> int:
        """How many wait or were refused whose names are not told."""
        told = len(self.waiting) + len(self.refusals) + len(self.named)
        return max(0, self.queue + sum(self.refused.values()) - told)

    def is_stale(self, now: datetime) -> bool:
        """Whether the watcher has missed two of its hourly signs of life."""
        return now - self.heartbeat > STALE


@dataclass(frozen=True, slots=True)
class Index:
    """``fusion/index.json``: attempts, oldest first; account → its contributions in all generations together."""

    attempts: tuple[Attempt | Unreadable, ...] = ()
    contributors: Mapping[str, int] = field(default_factory=dict)
    root: str = ""
