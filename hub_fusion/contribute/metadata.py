"""What a contribution's card says so that it is found, may be used, and is compared with the right generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hub_fusion.contributions.discover import BASE_TAG, OPT_IN

ABOUT = ("kinds", "covers", "examples", "tokens", "rank", "estimator")  # what a card says of statistics


def contribution_metadata(
    base: str, base_revision: str, *, license: str | None = None, task: str | None = None, datasets: Sequence[str] = (),
    adapter: bool = False, statistics: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Front matter of a contribution. `base_revision` is the commit (40 hex) of the generation it started from.

    `statistics` is the metadata of a file of them, if one comes along.

    Example: ``{"base_model": "acme/base", "tags": ["hub-fusion"], "hub_fusion": {"base": "acme/base", …}, …}``
    """
    ours: dict[str, Any] = {"base": base, "base_revision": base_revision, "contribute": True}
    if task:
        ours["task"] = task
    if statistics:
        ours["statistics"] = {key: statistics[key] for key in ABOUT if key in statistics}
    data: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "adapter" if adapter else "finetune",
        "library_name": "peft" if adapter else "transformers",
        "tags": contribution_tags(base_revision),
        "hub_fusion": ours,
    }
    if license:
        data["license"] = license
    if datasets:
        data["datasets"] = list(datasets)
    return data


def contribution_tags(base_revision: str) -> list[str]:
    """Consent, and the generation it started from in a form that survives tools which rewrite the card."""
    return [OPT_IN, f"{BASE_TAG}{base_revision}"]
