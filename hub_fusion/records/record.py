"""What all records are: frozen values that round-trip through JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hub_fusion.errors import RecordError

SCHEMA_VERSION = 1

Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a commit, 40 hex digits")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Moment = Annotated[datetime, AfterValidator(lambda at: at if at.tzinfo else at.replace(tzinfo=UTC))]  # naive means UTC
Role = Literal["gate", "report", "seen"]


def now() -> datetime:
    """The present, in UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


class Record(BaseModel):
    """A frozen value that round-trips through JSON; numbers are finite, moments have a time zone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def to_json(self, *, indent: int | None = None) -> str:
        """The record as JSON text; the same record always gives the same text, and it can be encoded as UTF-8."""
        return encodable(json.dumps(self.model_dump(mode="json"), indent=indent, ensure_ascii=False, allow_nan=False))

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


def encodable(text: str) -> str:
    """`text` with a question mark for every lone surrogate, which JSON may escape but UTF-8 cannot carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
