"""What worker and keeper say to each other: one JSON object a line, bounded, and nothing that is not in this list.

A line from the worker is an `Ask` and its number; the answer has the same number and a value or an error. Errors of
hub_fusion arrive as what they are, so that the worker can start over at a conflict and wait for an unreachable Hub.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from hub_fusion import errors
from hub_fusion.errors import DeedRefused, HubFusionError, HubUnreachable
from hub_fusion.publish.answers import Answer
from hub_fusion.publish.commit import PublishConflict
from hub_fusion.records import Aside, Attempt, Contribution, Generation, Headroom, Later, Refusal, Waiting
from hub_fusion.records.record import Record, Sha, encodable

MOST_BYTES = 64 * 2**20  # of a line: ten thousand refusals have five million
MOST_TEXT = 20_000
FAULTS = (HubFusionError, OSError)  # told; anything else is a mistake of ours, and ends the keeper
_KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
_KINDS |= {kind.__name__: kind for kind in (PublishConflict, OSError)}


class Ask(Record):
    """A deed that is asked for; keys that it does not have are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Account(Ask):
    deed: Literal["account"] = "account"


class Mend(Ask):
    deed: Literal["mend"] = "mend"


class KeepStable(Ask):
    deed: Literal["keep_stable"] = "keep_stable"


class Proposal(Ask):
    deed: Literal["proposal"] = "proposal"
    dry_run: bool


class TellQueue(Ask):
    deed: Literal["tell_queue"] = "tell_queue"
    generation: int = Field(ge=0)
    queue: tuple[Waiting, ...]
    refusals: tuple[Refusal, ...]
    headroom: Headroom
    aside: Aside | None
    later: tuple[Later, ...] | None


class TellHeadroom(Ask):
    deed: Literal["tell_headroom"] = "tell_headroom"
    headroom: Headroom


class TellError(Ask):
    deed: Literal["tell_error"] = "tell_error"
    text: str = Field(max_length=MOST_TEXT)


class TellRejected(Ask):
    deed: Literal["tell_rejected"] = "tell_rejected"
    record: Attempt
    headroom: Headroom | None


class OpenArchive(Ask):
    deed: Literal["open_archive"] = "open_archive"
    fused: tuple[Contribution, ...]


class KeepCopy(Ask):
    deed: Literal["keep_copy"] = "keep_copy"
    key: str = Field(max_length=300)
    names: tuple[str, ...] = Field(max_length=2000)


class Publish(Ask):
    deed: Literal["publish"] = "publish"
    head: Sha
    record: Generation


class GiveAnswer(Ask):
    deed: Literal["answer"] = "answer"
    number: int = Field(ge=1)
    answer: Answer


AnyAsk = (
    Account | Mend | KeepStable | Proposal | TellQueue | TellHeadroom | TellError | TellRejected | OpenArchive
    | KeepCopy | Publish | GiveAnswer
)  # fmt: skip
_ASK: TypeAdapter[AnyAsk] = TypeAdapter(Annotated[AnyAsk, Field(discriminator="deed")])


def parse(line: bytes) -> tuple[int, AnyAsk]:
    """The number and the deed that a line asks for. Raises DeedRefused for everything else."""
    if len(line) > MOST_BYTES or not line.endswith(b"\n"):
        raise DeedRefused(f"a line of the worker has more than {MOST_BYTES} bytes, or does not end")
    try:
        found = json.loads(line)
        number, ask = found["number"], found["ask"]
        if type(number) is not int or set(found) != {"number", "ask"}:
            raise DeedRefused("a line of the worker has other keys than number and ask")
        return number, _ASK.validate_python(ask, strict=False)
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc']))[:200]}: {e['msg'][:200]}" for e in error.errors()[:5])
        raise DeedRefused(f"this is no deed: {fields}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DeedRefused(f"a line of the worker is not JSON of a deed: {type(error).__name__}") from None


def to_line(value: dict[str, Any]) -> bytes:
    """One line."""
    return encodable(json.dumps(value, ensure_ascii=False)).encode() + b"\n"


def error_to_json(error: BaseException) -> dict[str, Any]:
    """What the worker is told of an error: the nearest kind that both know."""
    kind = next(k.__name__ for k in type(error).__mro__ if k.__name__ in _KINDS)
    told: dict[str, Any] = {"kind": kind, "text": str(error)}
    if isinstance(error, HubUnreachable):
        told |= {"retry_after_s": error.retry_after_s, "refused": error.refused}
    return told


def error_from_json(told: dict[str, Any]) -> BaseException:
    """The same error again."""
    kind = _KINDS[told.pop("kind")]
    text = told.pop("text")
    made: BaseException = kind(text, **told)
    return made
