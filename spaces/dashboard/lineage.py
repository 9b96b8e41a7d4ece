"""What a base's repository says about itself, as values: attempts, contributions, refusals, the watcher's status.

Plain Python on purpose: the Space holds this folder and two packages. The format is that of hub_fusion's records; its
JSON Schemas are in hub_fusion/schemas/. Nothing is trusted: every attempt, contribution and refusal is checked by
itself; an attempt that cannot be read becomes an `Unreadable` and does not take the others with it. Text is cut to a
length and freed of characters that cannot be printed or turn the direction of writing; who draws it escapes it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SCHEMA_VERSION = 1
STATUSES = ("root", "published", "rejected", "yanked")
SHA = re.compile(r"[0-9a-f]{40}")
SLACK = 0.001  # accuracies are rounded to 0.0001, so an interval may miss its mean by a little


class Malformed(ValueError):
    """A file or a part of it that cannot be read; the message says what is wrong with it."""


@dataclass(frozen=True)
class Score:
    """Accuracy, or a difference of accuracies, with its 95 % interval; fractions of 1."""

    mean: float
    low: float
    high: float


Metric = tuple[str, str]  # role (gate or report), protocol (fewshot or probe)


@dataclass(frozen=True)
class Attempt:
    """A fuse that was evaluated: a generation, or rejected by the gate."""

    id: str
    status: str
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
    suite: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """``gen-N``, or what a rejected attempt is called."""
        return "rejected attempt" if self.generation is None else f"gen-{self.generation}"


@dataclass(frozen=True)
class Unreadable:
    """A place where something stands that cannot be read."""

    name: str
    problem: str


@dataclass(frozen=True)
class Credit:
    """A contribution that was fused."""

    repo: str
    sha: str
    author: str
    relation: str
    license: str
    task: str
    weight: float | None
    scale: float


@dataclass(frozen=True)
class Refusal:
    """A contribution that was set aside."""

    repo: str
    sha: str
    author: str
    code: str
    reason: str
    fix: str


@dataclass(frozen=True)
class Record:
    """What ``fusion/gen-N.json`` adds to the index; `unreadable` counts its rows that cannot be read."""

    credits: tuple[Credit, ...]
    refusals: tuple[Refusal, ...]
    unreadable: int = 0


@dataclass(frozen=True)
class Status:
    """What the watcher said last; `rejected` are attempts since the newest generation, which no index holds yet."""

    heartbeat: datetime
    queue: int = 0
    last_error: str = ""
    rejected: tuple[Attempt | Unreadable, ...] = ()


def read_json(text: str | bytes) -> dict[str, Any]:
    """A JSON object in a version that this module knows. Raises Malformed."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {clean(str(error), 120)}") from None
    if not isinstance(data, dict):
        raise Malformed("it is not a JSON object")
    version = data.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or isinstance(version, bool):
        raise Malformed("its schema_version is not a whole number")
    if version > SCHEMA_VERSION:
        raise Malformed(f"it needs a newer dashboard: schema_version is above {SCHEMA_VERSION}")
    return data


def read_index(data: Mapping[str, Any]) -> tuple[Attempt | Unreadable, ...]:
    """The attempts of ``fusion/index.json``, oldest first. Raises Malformed if it has no list of them."""
    entries = data.get("entries")
    if not isinstance(entries, list):
        raise Malformed("it has no list of entries")
    attempts = [_readable(entry, place) for place, entry in enumerate(entries, start=1)]
    seen: set[int] = set()
    for place, attempt in enumerate(attempts):
        if isinstance(attempt, Unreadable) or attempt.generation is None:
            continue
        if attempt.generation in seen:
            attempts[place] = Unreadable(attempt.name, "its number is taken by an earlier entry")
        elif attempt.parent is not None and attempt.parent >= attempt.generation:
            attempts[place] = Unreadable(
                attempt.name, f"it names gen-{attempt.parent}, which is no earlier one, as its parent"
            )
        seen.add(attempt.generation)
    return tuple(attempts)


def read_record(data: Mapping[str, Any], generation: int) -> Record:
    """``fusion/gen-N.json``. Raises Malformed if it is another generation's, or has no contributions."""
    if data.get("generation") != generation:
        raise Malformed(f"it is not the record of gen-{generation}")
    credits, lost = _each(_list(data, "contributions"), _credit)
    refusals, lost_too = _each(_list(data, "refusals"), _refusal)
    return Record(tuple(credits), tuple(refusals), lost + lost_too)


def read_status(data: Mapping[str, Any]) -> Status:
    """``fusion/status.json``. Raises Malformed if it does not say when it was written."""
    return Status(
        heartbeat=_moment(data, "heartbeat"),
        queue=len(_list(data, "queue")),
        last_error=_text(data, "last_error", 300),
        rejected=tuple(_readable(_small(a), n) for n, a in enumerate(_list(data, "rejected"), start=1)),
    )


def clean(text: str, limit: int = 200) -> str:
    """Printable text on one line, at most `limit` characters long."""
    line = " ".join("".join(ch if ch.isprintable() else " " for ch in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _readable(entry: Any, place: int) -> Attempt | Unreadable:
    """An attempt, or what can be said instead."""
    number = entry.get("generation") if isinstance(entry, dict) else None
    known = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 10**6
    try:
        return _attempt(entry)
    except Malformed as error:
        return Unreadable(f"gen-{number}" if known else f"attempt {place}", str(error))


def _attempt(data: Any) -> Attempt:
    if not isinstance(data, dict):
        raise Malformed("it is not an object")
    status, generation = _text(data, "status"), _whole(data, "generation")
    if status not in STATUSES:
        raise Malformed(f"its status is none of {', '.join(STATUSES)}")
    if (generation is None) != (status == "rejected"):
        raise Malformed(f"it is {status}, but its generation is {'missing' if generation is None else generation}")
    revision = _text(data, "revision")
    if revision and not SHA.fullmatch(revision):
        raise Malformed("its revision is not a commit of 40 hex digits")
    authors = data.get("authors") or ()
    step = _number(data, "step", default=1.0)
    assert step is not None
    return Attempt(
        id=_text(data, "id", 64),
        status=status,
        created_at=_moment(data, "created_at"),
        generation=generation,
        revision=revision or None,
        parent=_whole(data, "parent_generation"),
        method=_text(data, "method", 40),
        step=step,
        contributions=_whole(data, "contributions") or 0,
        authors=tuple(clean(a, 100) for a in authors if isinstance(a, str)) if isinstance(authors, list) else (),
        refusals=_whole(data, "refusals") or 0,
        scores=_scores(data, "scores", 0.0),
        differences=_scores(data, "differences", -1.0),
        suite=_text(data, "suite", 64),
        reason=_text(data, "reason", 400),
    )


def _small(data: Any) -> Any:
    """A whole attempt, as status.json holds it, in the index's small form."""
    if not isinstance(data, dict):
        return data
    measured, verdict = data.get("candidate_scores"), data.get("verdict")
    measured, verdict = (x if isinstance(x, dict) else {} for x in (measured, verdict))
    credits = [c for c in _list(data, "contributions") if isinstance(c, dict)]
    authors = sorted({c["author"] for c in credits if isinstance(c.get("author"), str)})
    return data | {"contributions": len(credits), "authors": authors, "refusals": len(_list(data, "refusals")),
                   "scores": measured.get("means"), "suite": measured.get("suite"),
                   "reason": verdict.get("reason")}  # fmt: skip


def _scores(data: Mapping[str, Any], name: str, least: float) -> dict[Metric, Score]:
    found: dict[Metric, Score] = {}
    for item in _list(data, name):
        if not isinstance(item, dict):
            raise Malformed(f"{name} holds something that is not an object")
        mean, low, high = (_number(item, part) for part in ("mean", "low", "high"))
        if mean is None or low is None or high is None:
            raise Malformed(f"{name} holds one without mean, low or high")
        if not least <= low <= mean + SLACK <= high + 2 * SLACK <= 1 + 2 * SLACK:
            raise Malformed(
                f"{name} holds {mean:g} in [{low:g}, {high:g}], which is not {least:g} ≤ low ≤ mean ≤ high ≤ 1"
            )
        found[_text(item, "role", 20), _text(item, "protocol", 40)] = Score(mean, low, high)
    return found


def _credit(data: Mapping[str, Any]) -> Credit:
    scale = _number(data, "scale", default=1.0)
    assert scale is not None
    return Credit(_name(data), _sha(data), _text(data, "author", 100), _text(data, "relation", 20),
                  _text(data, "license", 60), _text(data, "task", 120), _number(data, "weight"), scale)  # fmt: skip


def _refusal(data: Mapping[str, Any]) -> Refusal:
    return Refusal(_name(data), _sha(data), _text(data, "author", 100), _text(data, "code", 60),
                   _text(data, "reason", 500), _text(data, "fix", 500))  # fmt: skip


def _each(items: Iterable[Any], read: Any) -> tuple[list[Any], int]:
    """Those that can be read, and how many cannot."""
    found, lost = [], 0
    for item in items:
        try:
            if not isinstance(item, dict):
                raise Malformed("it is not an object")
            found.append(read(item))
        except Malformed:
            lost += 1
    return found, lost


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"its {name} is not a list")
    return value


def _text(data: Mapping[str, Any], name: str, limit: int = 200) -> str:
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"its {name} is not text")
    return clean(value, limit)


def _name(data: Mapping[str, Any]) -> str:
    if not (repo := _text(data, "repo", 200)):
        raise Malformed("it has no repo")
    return repo


def _sha(data: Mapping[str, Any]) -> str:
    sha = _text(data, "sha")
    return sha if SHA.fullmatch(sha) else ""


def _whole(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**6:
        raise Malformed(f"its {name} is not a whole number from 0 on")
    return value


def _number(data: Mapping[str, Any], name: str, default: float | None = None) -> float | None:
    value = data.get(name, default)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e12 or not math.isfinite(value):
        raise Malformed(f"its {name} is not a number")
    return float(value)


def _moment(data: Mapping[str, Any], name: str) -> datetime:
    try:
        at = datetime.fromisoformat(str(data.get(name)))
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Malformed(f"its {name} is not a date and time") from None
