"""What all parts of a recipe are, and how a wrong key is explained."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def explain(error: Mapping[str, Any], model: type[Section]) -> str:
    """One pydantic error of `model` as a sentence; for an unknown key, with the nearest known one."""
    location = [str(part) for part in error["loc"]]
    where = ".".join(location)
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']} (given: {error.get('input')!r})"[:400]
    known = _known_keys(location[:-1], model)
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
    return f"unknown key {where!r}{hint}"


def _known_keys(location: list[str], model: type[Section]) -> list[str]:
    section: Any = model
    for part in location:
        if part.isdigit():
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return list(section.model_fields)
