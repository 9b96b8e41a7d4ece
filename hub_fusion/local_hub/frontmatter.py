"""The YAML block at the head of a card, read as the Hub reads it, from text that may be hostile.

The Hub parses with YAML 1.2 rules: ``no`` is a language, not a false; a date becomes its ISO text; a duplicated key
is an error. Depth, aliases and size are bounded before anything is built: PyYAML's C loader crashes the process on
deep nesting, and a few aliases can stand for gigabytes.
"""

import re
from datetime import UTC, date, datetime
from typing import Any

import yaml

MAX_CHARS = 2 * 2**20
MAX_DEPTH = 100
MAX_NODES = 300_000
FENCE = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)(?:^|\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class BadFrontMatter(ValueError):
    """The block is not YAML, or not a mapping; the message is the first line of the reason."""


def split(card: str) -> tuple[str | None, str]:
    """(the YAML text, None if the card has no such block; the rest of the card)."""
    match = FENCE.match(card)
    return (match.group(1), card[match.end() :]) if match else (None, card)


def parse(text: str) -> dict[str, Any]:
    """The block as plain JSON values; BadFrontMatter."""
    if len(text) > MAX_CHARS:
        raise BadFrontMatter(f"the metadata has {len(text)} characters; at most {MAX_CHARS} are read")
    try:
        _check_depth(text)
        value = _plain(yaml.load(text, Loader=_Loader), [MAX_NODES])  # noqa: S506 - derives from the safe loader
    except BadFrontMatter:
        raise
    except RecursionError:
        raise BadFrontMatter("the metadata refers to itself") from None
    except Exception as error:  # PyYAML lets ValueError, TypeError, IndexError … of odd scalars through
        raise BadFrontMatter(" ".join(str(error).split())[:300] or type(error).__name__) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadFrontMatter("the metadata must be a mapping of names to values")
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=_BaseLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise BadFrontMatter("the metadata is nested too deeply or too large")


_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):  # type: ignore[misc]
    """Safe types only; YAML 1.2 booleans; no duplicated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            name = _key(key)
            if name in seen:
                raise BadFrontMatter(f"duplicated mapping key: {name}")
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in _BaseLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _plain(value: Any, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise BadFrontMatter("the metadata is too large once its aliases are followed")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        budget[0] -= len(value) // 1000
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    if isinstance(value, date):
        return f"{value.isoformat()}T00:00:00.000Z"
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {_key(key): _plain(item, budget) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item, budget) for item in value]
    return str(value)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return str(key)
