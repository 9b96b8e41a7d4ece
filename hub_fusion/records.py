"""The records that travel between the stages and into the base repository. No I/O here.

A round makes `Contribution`s and `Refusal`s; a fuse that was evaluated makes an `Attempt`; an attempt that was
published is a `Generation` (``fusion/gen-N.json``). `Index` (``fusion/index.json``) lists all attempts in small form,
`Status` (``fusion/status.json`` on the branch ``fusion-status``) is what is going on between generations.

Readers ignore unknown fields, so that a newer writer does not break an older dashboard; `schema_version` says when
they should not even try. ``python -m hub_fusion.records FOLDER`` writes the JSON Schemas.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hub_fusion.errors import RecordError

SCHEMA_VERSION = 1

Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a commit, 40 hex digits")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Moment = Annotated[datetime, AfterValidator(lambda at: at if at.tzinfo else at.replace(tzinfo=UTC))]  # naive means UTC
Relation = Literal["finetune", "adapter"]
Role = Literal["gate", "report", "seen"]
KnownBy = Literal["card", "peft", "date", "assumed"]
AttemptStatus = Literal["root", "published", "rejected", "yanked"]


def now() -> datetime:
    """The present, in UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


class Record(BaseModel):
    """A frozen value that round-trips through JSON; numbers are finite, moments have a time zone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def to_json(self, *, indent: int | None = None) -> str:
        """The record as JSON text; the same record always gives the same text, and it can be encoded as UTF-8."""
        return _encodable(json.dumps(self.model_dump(mode="json"), indent=indent, ensure_ascii=False, allow_nan=False))

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "the record") -> Self:
        """Read JSON text; raises RecordError naming `source` and every offending field."""
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
            version = str(data.get("schema_version", SCHEMA_VERSION) if isinstance(data, dict) else SCHEMA_VERSION)
            if version.isdecimal() and int(version) > SCHEMA_VERSION:
                raise RecordError(
                    f"{source} has schema_version {version}, newer than {SCHEMA_VERSION}: update hub_fusion"
                )
            return cls.model_validate(data)
        except ValidationError as error:
            fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:8])
            raise RecordError(f"{source} is not a {cls.__name__}: {fields}") from None
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{source} is not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _encodable(text: str) -> str:
    """`text` with a question mark for every lone surrogate, which JSON may escape but UTF-8 cannot carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Credit(Record):
    """A contribution as a generation's record remembers it: who gave what, and how much of it went in."""

    repo: str
    sha: Sha
    relation: Relation
    author: str
    license: str | None = Field(None, description="the card's licence, read at `sha`")
    task: str | None = None
    datasets: tuple[str, ...] = ()
    generation: int | None = Field(None, description="the generation it started from")
    origin_revision: Sha | None = Field(None, description="that generation's commit")
    known_by: KnownBy | None = Field(None, description="how the origin is known")
    weight: float | None = Field(None, description="its share of the mean; the shares add up to 1")
    norm: float | None = Field(
        None, description="Euclidean norm of its task vector over the fused tensors, before the cap"
    )
    cosine: float | None = Field(None, description="cosine of its task vector with the weighted mean of all")
    scale: float = Field(1.0, description="what the cap multiplied its task vector with; 1 means untouched")
    weights_sha256: str | None = Field(None, description="its weight files' identity, whatever repository and commit")
    files_sha256: Sha256 | None = Field(
        None, description="sha256 over names and digests of the files that were read; an archived copy has the same"
    )

    @property
    def clipped(self) -> bool:
        """Whether the norm cap made its task vector shorter."""
        return self.scale < 1.0

    @property
    def key(self) -> str:
        """``repo@sha``: identifies the contribution and orders contributions canonically."""
        return f"{self.repo}@{self.sha}"


class Contribution(Credit):
    """A finetune or adapter considered for fusion, pinned to a commit: what the Hub says about it, nothing trusted."""

    kind: Literal["contribution"] = "contribution"
    base: str | None = Field(None, description="the base repository it declares")
    base_revision: str | None = Field(None, description="the revision of the base it declares: a sha or a tag")
    consent: bool = Field(False, description="tagged `hub-fusion`, or `hub_fusion.contribute` in the card is true")
    tags: tuple[str, ...] = ()
    private: bool = False
    gated: bool = False
    created_at: Moment | None = None
    last_modified: Moment | None = None
    files: tuple[str, ...] = ()

    def to_credit(self) -> Credit:
        """The part that the generation's record keeps."""
        return Credit.model_validate(self.model_dump())

    def refuse(self, stage: Stage, code: str, reason: str, fix: str) -> Refusal:
        """A refusal of this contribution."""
        return Refusal(repo=self.repo, sha=self.sha, author=self.author, stage=stage, code=code, reason=reason, fix=fix)


Stage = Literal["discover", "filter", "screen", "fuse"]


class Refusal(Record):
    """A contribution set aside: where, why in a word, why in a sentence, and what its author can do."""

    kind: Literal["refusal"] = "refusal"
    repo: str
    sha: str
    author: str
    stage: Stage
    code: str
    reason: str
    fix: str


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


class Difference(Estimate):
    """Candidate minus parent, paired by seed and test example."""

    role: Role
    protocol: str


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


class Control(Record):
    """A random step from the parent that is in every tensor as long as the candidate's: what any movement would do."""

    norm: float = Field(description="Euclidean length of the step over the whole model")
    seed: int
    scores: Scores = Field(description="by the protocols that it was measured with")
    differences: tuple[Difference, ...] = Field(description="candidate minus control, paired")


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
    trials: tuple[Trial, ...] = Field((), description="everything that was measured to choose the candidate, in order")


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


class Analysis(Record):
    """How the fused task vectors lie to each other, and how far the candidate went. Nothing is decided by it."""

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
    refusals: tuple[Refusal, ...] = ()
    recipe: str = Field("", description="the recipe, verbatim YAML")
    method: str = "mean"
    step: float = 1.0
    formula: Formula | None = Field(None, description="null in old records, whose recipe says it")
    archive: str | None = Field(None, description="the repository that keeps what was fused")
    parent_scores: Scores | None = None
    candidate_scores: Scores | None = None
    analysis: Analysis | None = Field(None, description="null in old records")
    differences: tuple[Difference, ...] = ()
    likelihood_differences: tuple[Difference, ...] = Field((), description="of log-likelihoods, in nats")
    control: Control | None = Field(None, description="null: not measured")
    verdict: Verdict | None = None
    weights: dict[str, str] = Field(default_factory=dict, description="weight file → sha256")
    heads: tuple[Score, ...] = Field((), description="of a generation: what its heads under heads/TASK reach")
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict, description="stage → wall time")

    @property
    def tag(self) -> str | None:
        """``gen-N``, or None for an attempt that was not published."""
        return None if self.generation is None else f"gen-{self.generation}"

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
            refusals=len(self.refusals),
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


class Generation(Attempt):
    """A published attempt: ``fusion/gen-N.json``, written in the same commit as its weights."""

    status: Literal["root", "published", "yanked"] = "published"
    generation: int
    withdrawn: Withdrawal | None = Field(None, description="of a yanked one, on main; at its tag it is as published")


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
        return _encodable(json.dumps(data, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False))


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
        head = _encodable(json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False))
        return head[:-1] + ',"entries":[\n' + ",\n".join(e.to_json() for e in self.entries) + "\n]}"

    @property
    def generations(self) -> list[IndexEntry]:
        """The published entries, gen-0 first."""
        return sorted((e for e in self.entries if e.generation is not None), key=lambda e: e.generation or 0)

    @property
    def newest(self) -> IndexEntry | None:
        """The newest generation, or None before gen-0."""
        return self.generations[-1] if self.generations else None


class Waiting(Record):
    """A contribution that is in the queue for the next generation."""

    repo: str
    sha: str
    since: Moment | None = None


class Status(Record):
    """``fusion/status.json`` on the branch ``fusion-status``: what is going on between generations."""

    schema_version: int = SCHEMA_VERSION
    base: str
    heartbeat: Moment
    generation: int | None = None
    queue: tuple[Waiting, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    rejected: tuple[Attempt, ...] = Field((), description="attempts the gate rejected since the newest generation")
    last_error: str | None = None


def weights_identity(digests: Iterable[str]) -> str:
    """sha256 over the digests of a checkpoint's weight files: equal for equal files, whatever their names and order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def files_identity(digests: Mapping[str, str]) -> str:
    """sha256 over the sorted ``name digest`` lines of files; a digest is LFS's sha256, else git's name of the contents.

    The Hub lists both without a download, and they are the same for a copy in another repository.
    """
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def generation_number(tag: str) -> int | None:
    """N of the tag ``gen-N``, None for every other tag."""
    found = re.fullmatch(r"gen-(0|[1-9][0-9]{0,8})", tag, re.ASCII)
    return int(found[1]) if found else None


def withdrawal_title(withdrawn: int, restored: int) -> str:
    """The title of a commit that withdraws a generation; `restored_generation` reads it."""
    return f"Withdraw gen-{withdrawn}: main has the weights of gen-{restored} again"


def restored_generation(title: str) -> int | None:
    """Whose weights a commit brought back, None for a commit that withdraws nothing."""
    found = re.fullmatch(r"Withdraw gen-\d{1,9}: main has the weights of gen-(\d{1,9}) again", title, re.ASCII)
    return int(found[1]) if found else None


def attempt_id(parent_revision: str, recipe: str, suite: str, shas: Iterable[str]) -> str:
    """sha256 of (parent, recipe, suite, sorted contribution shas): an attempt with an equal id is not made twice.

    `recipe` is the canonical text of what decides the weights and the verdict, not the file with its comments.
    """
    payload = json.dumps([parent_revision, recipe, suite, sorted(shas)], separators=(",", ":"))
    return hashlib.sha256(payload.encode()).hexdigest()


def parse_lines(lines: Iterable[str], *, source: str = "standard input") -> tuple[list[Contribution], list[Refusal]]:
    """Read what a stage wrote (JSON lines): contributions and refusals. Raises RecordError with the line's number."""
    kept: list[Contribution] = []
    refusals: list[Refusal] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number} of {source}"
        try:
            kind = json.loads(line).get("kind")
        except (ValueError, AttributeError, RecursionError) as error:
            raise RecordError(f"{where} is not a JSON object: {error}") from None
        if kind == "contribution":
            kept.append(Contribution.from_json(line, source=where))
        elif kind == "refusal":
            refusals.append(Refusal.from_json(line, source=where))
        else:
            raise RecordError(f"{where} has kind {kind!r}; expected 'contribution' or 'refusal'")
    return kept, refusals


SCHEMAS: dict[str, type[Record]] = {
    "contribution": Contribution,
    "refusal": Refusal,
    "generation": Generation,
    "attempt": Attempt,
    "index": Index,
    "status": Status,
    "head": Head,
}


def write_schemas(folder: Path) -> None:
    """Write ``NAME.schema.json`` for every published record (JSON Schema draft 2020-12)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in SCHEMAS.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | record.model_json_schema()
        (folder / f"{name}.schema.json").write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    import sys

    write_schemas(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("schemas"))
