"""What comes in: a contribution, and the refusal of one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from hub_fusion.errors import RecordError
from hub_fusion.records.record import Moment, Record, Sha, Sha256

Relation = Literal["finetune", "adapter"]
KnownBy = Literal["card", "peft", "tensors", "date", "assumed"]
Stage = Literal["discover", "filter", "screen", "fuse"]


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
    scale: float = Field(1.0, description="what cap and age multiplied its task vector with; 1: untouched")
    weights_sha256: str | None = Field(None, description="its weight files' identity, whatever repository and commit")
    files_sha256: Sha256 | None = Field(
        None, description="sha256 over names and digests of the files that were read; an archived copy has the same"
    )

    @property
    def clipped(self) -> bool:
        """Whether the norm cap, or its age, made its task vector shorter."""
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
    languages: tuple[str, ...] = ()
    library: str | None = None
    parameters: int | None = Field(None, description="as the Hub counted them")
    ancestors: tuple[str, ...] = Field((), description="repositories that card and tags say it was made from")
    faults: tuple[str, ...] = Field((), description="what of its card cannot be taken as it is")

    def to_credit(self) -> Credit:
        """The part that the generation's record keeps."""
        return Credit.model_validate(self.model_dump())

    def refuse(self, stage: Stage, code: str, reason: str, fix: str) -> Refusal:
        """A refusal of this contribution."""
        return Refusal(repo=self.repo, sha=self.sha, author=self.author, stage=stage, code=code, reason=reason, fix=fix)


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

    @property
    def key(self) -> str:
        """``repo@sha``, as that of the contribution."""
        return f"{self.repo}@{self.sha}"


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
