"""A mergekit configuration (0.1.5, YAML) → a plan of ours that means the same, or a list of what has no counterpart.

Weights are absolute in mergekit and `normalize` divides by their sum; ours are shares, and a method's `scale` carries
what is left (mergekit_methods.py). Where our formula differs all the same, a note says how. All that is not covered is
named at once, before anything is downloaded. The file may be a stranger's: it is bounded, and plain data. As in every
local fuse, a task head is the base's.
Not covered: slices and modules, filters and gradients by tensor, other tokenizers than the base's, chat templates, and
methods that work on whole weights rather than on changes (slerp, karcher, nuslerp …) or stack layers (passthrough).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import MergeError
from hub_fusion.weights.fuse import FusePlan
from hub_fusion.weights.local import plan_local
from hub_fusion.weights.mergekit_asked import Asked, Formula
from hub_fusion.weights.mergekit_config import Reference, dtype_of, mapping, models, parse, reference, tokenizer
from hub_fusion.weights.mergekit_methods import METHODS

if TYPE_CHECKING:
    from hub_fusion.hub import Hub

MAX_BYTES = 1_000_000
KEYS = {"models", "merge_method", "base_model", "dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template",
        "parameters", "slices", "modules"}  # fmt: skip


@dataclass(frozen=True)
class Translation:
    """What a configuration asks for, in our words. `models` are folders or repositories, `weights` theirs."""

    base: str
    models: tuple[str, ...]
    formula: Formula
    dtype: str | None
    notes: tuple[str, ...] = field(default=())  # where the result differs from mergekit's, and how


def plan_mergekit(
    path: Path, out: Path, *, dtype: str | None = None, seed: int = 0, hub: Hub | None = None
) -> tuple[FusePlan, tuple[str, ...]]:
    """The plan of a mergekit configuration, and notes on what differs; repositories are downloaded for it.

    `dtype` is that of the result instead of the file's, `seed` that of methods with randomness. Raises MergeError
    naming everything that is not covered, WeightsError, HubError.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_BYTES else None
    except (OSError, UnicodeDecodeError) as error:
        raise MergeError(f"cannot read {path}: {error}") from None
    if text is None:
        raise MergeError(f"{path} has more than {MAX_BYTES} bytes, which no mergekit configuration needs")
    t = translate(text, source=str(path))
    plan = plan_local(t.base, t.models, out, method=t.formula.method, options=t.formula.options,
                      weights=t.formula.weights, dtype=dtype or t.dtype, seed=seed, hub=hub)  # fmt: skip
    return plan, t.notes


def translate(text: str, *, source: str = "the configuration") -> Translation:
    """Read a configuration; no file and no Hub is touched. Raises MergeError naming everything that is not covered."""
    config = parse(text, source)
    asked = Asked()
    for key in sorted(set(config) - KEYS):
        asked.note(f"{key!r} is no key of a mergekit configuration, and is left out there too")
    for key in ("slices", "modules"):
        if config.get(key):
            asked.fault(f"{key}: layers are not cut or stacked here; models is what is covered")
    tokenizer(config, asked)
    method, base = config.get("merge_method"), reference(config.get("base_model"), "base_model", asked)
    asked.shared = mapping(config.get("parameters"), "parameters", asked)
    listed = models(config, asked)
    if base is not None and base[1] is not None:
        asked.fault(f"base_model: a base with an adapter ({base[1]}) is not covered: merge it first")
    made = METHODS.get(method) if isinstance(method, str) else None
    if not callable(made):
        known = ", ".join(name for name, found in METHODS.items() if callable(found))
        asked.fault(f"merge_method {str(method)[:60]!r}: {made or 'it has no counterpart'}; covered are {known}")
    names = _entries(listed, base, str(method), asked)
    formula = made(asked) if asked.entries and callable(made) else None
    dtype = dtype_of(config, asked)
    if asked.faults or formula is None:
        faults = asked.faults or ["there is no model to merge into the base"]
        lines = "".join(f"\n  - {fault}" for fault in dict.fromkeys(faults))
        raise MergeError(f"{source} asks for what hub-fusion does not cover:{lines}")
    return Translation(names[0], tuple(names[1:]), formula, dtype, tuple(dict.fromkeys(asked.notes)))


def _entries(
    listed: list[tuple[Reference, dict[str, Any]]], base: Reference | None, method: str, asked: Asked
) -> list[str]:  # fmt: skip
    """The base and what is merged into it; the parameters of both go into `asked`."""
    if base is None and method != "linear":
        asked.fault(f"base_model: {method} needs one here")
    elif base is None and listed:
        base = listed[0][0]
        asked.note(f"there is no base_model: configuration and heads are those of the first model, {base[0]}")
        if base[1] is not None:
            asked.fault("models[0]: without base_model the first model is the base, and cannot have an adapter")
    asked.base = next((parameters for named, parameters in listed if named == base), {})
    names = [base[0] if base else ""]
    for (model, adapter), parameters in listed:
        if (model, adapter) == base:
            continue
        if adapter is not None and base is not None and model != base[0]:
            asked.fault(f"{model}+{adapter}: an adapter of another model than the base: merge it first")
        names.append(adapter or model)
        asked.entries.append((names[-1], parameters))
    return names
