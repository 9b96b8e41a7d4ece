"""Reading a stranger's card: what is of the right type is taken, what is not is a fault with a sentence.

A fault in a field that decides something ends in a refusal (see filters.py): to go on without the field would be to
guess what its author meant. Missing fields are no faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

REVISION = re.compile(r"[\w./-]{1,128}")
UNREADABLE = "the Hub reads no metadata in it: the YAML between its --- lines is missing or broken"
TEXTS = ("base_model", "datasets", "language", "tags", "merged_models")  # a text, or a list of texts
MOST = 20  # of any list


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is a mapping, else an empty one."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str | None:
    """A short printable string, or None for everything else."""
    if not isinstance(value, str):
        return None
    return "".join(ch for ch in value if ch.isprintable())[:200].strip() or None


def texts(value: Any) -> tuple[str, ...]:
    """Those of a list, or the one there is; the first twenty."""
    values = value if isinstance(value, list) else [value]
    return tuple(found for item in values[:1000] if (found := text(item)))[:MOST]


def languages(card: dict[str, Any]) -> tuple[str, ...]:
    """Lower case. YAML 1.1 reads Norwegian's ``no`` as false."""
    value = card.get("language")
    values = value if isinstance(value, list) else [value]
    return tuple(name.lower() for name in texts(["no" if item is False else item for item in values]))


def faults_of(raw: Any, *, has_readme: bool) -> tuple[str, ...]:
    """What of a card's deciding fields cannot be taken as it is, each as the end of a sentence; few and short."""
    if raw is None or (not isinstance(raw, dict) and not hasattr(raw, "to_dict")):
        return (UNREADABLE,) if has_readme else ()
    card = mapping(raw)
    ours = card.get("hub_fusion")
    found = [_strange(name, card.get(name)) for name in TEXTS]
    found += [_unprintable(name, card.get(name)) for name in ("license", "library_name", *TEXTS)]
    if ours is not None and not isinstance(ours, dict):
        found.append(f"hub_fusion is {_kind(ours)}, not a mapping")
    ours = mapping(ours)
    revision, contribute = ours.get("base_revision"), ours.get("contribute")
    if revision is not None and not (isinstance(revision, str) and REVISION.fullmatch(revision)):
        what = "holds characters that no revision has" if isinstance(revision, str) else f"is {_kind(revision)}"
        found.append(f"hub_fusion.base_revision {what}")
    if contribute is not None and not isinstance(contribute, bool):
        found.append(f"hub_fusion.contribute is {_kind(contribute)}, not true or false")
    found.append(_unprintable("hub_fusion.task", ours.get("task")))
    return tuple(fault for fault in found if fault)[:5]


def _strange(name: str, value: Any) -> str | None:
    values = value if isinstance(value, list) else [] if value is None else [value]
    wrong = [v for v in values if not isinstance(v, str) and not (name == "language" and v is False)]
    if not wrong:
        return None
    return f"{name} {'holds' if isinstance(value, list) else 'is'} {_kind(wrong[0])}, where text is expected"


def _unprintable(name: str, value: Any) -> str | None:
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    bad = any(isinstance(v, str) and not v.isprintable() for v in values)
    return f"{name} holds control characters" if bad else None


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return "nothing" if value is None else kinds.get(type(value), f"a {type(value).__name__}")
