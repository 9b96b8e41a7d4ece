"""Fields of JSON objects that strangers may have written: each is what it should be, nothing, or `Malformed`.

Text is cut to a length and freed of characters that cannot be printed or turn the direction of writing; who draws it
escapes it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")
SCHEMA_VERSION = 1
SHA = re.compile(r"[0-9a-f]{40}")


class Malformed(ValueError):
    """A file or a part of it that cannot be read; the message says what is wrong with it."""


class Newer(Malformed):
    """A file in a version that this dashboard does not know yet."""


def read_json(text: str | bytes) -> dict[str, Any]:
    """A JSON object in a version that this dashboard knows. Raises Malformed, or Newer."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {clean(str(error), 120)}") from None
    return known_version(data)


def known_version(data: Any) -> dict[str, Any]:
    """`data` if it is an object in a version that this dashboard knows. Raises Malformed, or Newer."""
    if not isinstance(data, dict):
        raise Malformed("it is not a JSON object")
    version = data.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or isinstance(version, bool):
        raise Malformed("its schema_version is not a whole number")
    if version > SCHEMA_VERSION:
        raise Newer(f"it needs a newer dashboard: schema_version is above {SCHEMA_VERSION}")
    return data


def clean(text: str, limit: int = 200) -> str:
    """Printable text on one line, at most `limit` characters long."""
    if len(text) <= limit and text.isprintable() and "  " not in text and text == text.strip():
        return text
    line = " ".join("".join(ch if ch.isprintable() else " " for ch in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def readable(items: Iterable[Any], read: Callable[[Any], T]) -> tuple[tuple[T, ...], int]:
    """What `read` makes of those objects that can be read, and how many cannot."""
    found, lost = [], 0
    for item in items:
        try:
            if not isinstance(item, dict):
                raise Malformed("it is not an object")
            found.append(read(item))
        except Malformed:
            lost += 1
    return tuple(found), lost


def some(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object called `name`, empty where there is none."""
    value = data.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"its {name} is not an object")
    return value


def rows(data: Mapping[str, Any], name: str) -> list[Any]:
    """The list called `name`, empty where there is none."""
    value = data.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"its {name} is not a list")
    return value


def text(data: Mapping[str, Any], name: str, limit: int = 200) -> str:
    """The text called `name` on one line, "" where there is none."""
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"its {name} is not text")
    return clean(value, limit)


def lines(data: Mapping[str, Any], name: str, most: int = 400, limit: int = 200) -> tuple[str, ...]:
    """The text called `name` by lines, which keep their indentation; equal lines are one object in memory."""
    value = data.get(name)
    if value is None:
        return ()
    if not isinstance(value, str):
        raise Malformed(f"its {name} is not text")
    shown = ("".join(ch if ch.isprintable() else " " for ch in line[:limit]) for line in value.split("\n")[:most])
    return tuple(sys.intern(line.rstrip()) for line in shown)


def needed(data: Mapping[str, Any], name: str, limit: int = 200) -> str:
    """A text that must be there."""
    if not (value := text(data, name, limit)):
        raise Malformed(f"it has no {name}")
    return value


def sha(data: Mapping[str, Any], name: str = "sha") -> str:
    """A commit, or "" for what is none."""
    value = text(data, name)
    return value if SHA.fullmatch(value) else ""


def whole(data: Mapping[str, Any], name: str) -> int | None:
    """A number of things or of a generation, or None."""
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**6:
        raise Malformed(f"its {name} is not a whole number from 0 on")
    return value


def number(data: Mapping[str, Any], name: str) -> float | None:
    """A finite number below 10¹², or None."""
    value = data.get(name)
    return None if value is None else finite(value, f"its {name}")


def finite(value: Any, what: str) -> float:
    """`value` as a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e12 or not math.isfinite(value):
        raise Malformed(f"{what} is not a number")
    return float(value)


def moment(data: Mapping[str, Any], name: str) -> datetime:
    """A date and time; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(str(data.get(name)))
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Malformed(f"its {name} is not a date and time") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")
