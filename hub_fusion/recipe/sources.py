"""Where a recipe's values come from: YAML, the environment, flags."""

from __future__ import annotations

import os
from collections.abc import Container
from typing import Any

import yaml

from hub_fusion.errors import RecipeError

ENVIRONMENT_PREFIX = "HUB_FUSION_"


def from_environment(known: Container[str]) -> dict[str, Any]:
    """``HUB_FUSION_ROUND__CHOOSE=all`` → ``{"round.choose": "all"}``; only names of recipe keys count."""
    found = {}
    for name, value in os.environ.items():
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if name.startswith(ENVIRONMENT_PREFIX) and key.partition(".")[0] in known:
            found[key] = parse_yaml(value, f"environment variable {name}")
    return found


def parse_yaml(text: str, source: str) -> Any:
    """What the YAML says; RecipeError if it says nothing. PyYAML's number and date constructors raise bare errors."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise RecipeError(f"{source} is not YAML: {error}") from None


def set_key(data: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    """Put a value under a dotted key, making the sections on the way. Raises RecipeError where one is not a section."""
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise RecipeError(f"{source}: {key}: {parent} is not a section")
    data[last] = value
