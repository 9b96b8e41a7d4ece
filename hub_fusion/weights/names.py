"""Every spelling of a tensor's name → the base's on-disk name.

Finetunes of one base spell names differently: a task model adds a prefix to the body (``bert.embeddings…`` where the
base has ``embeddings…``), adds its own head, leaves out buffers. `match_names` finds the prefixes from the names
alone, so headers are enough and no model is built. Tensors fall into three kinds:

* body: must be there, is fused over all contributions;
* shared (language-model heads, poolers, mask tokens): fused over the contributions that have them, or left alone;
* task (classifiers and the like): never fused.

Adapters name modules as they are in memory, which differs from the disk where transformers converts on loading:
`memory_names` asks a model of the *base's* configuration on the meta device. Not covered: resized vocabularies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import FLOATS, TensorSpec
from hub_fusion.weights.kinds import Kind, is_buffer, is_parameter, kind_of, quantized_names
from hub_fusion.weights.vocabulary import EMBEDDINGS, HEADS, is_tied_copy, is_vocabulary, rows_beyond, stand_in

__all__ = ["Kind", "MismatchError", "NameMap", "is_buffer", "kind_of", "match_names", "memory_names", "some"]


LEFT_OUT = "are left out"  # of a note
LEGACY = ((".gamma", ".weight"), (".beta", ".bias"))  # LayerNorm parameters in checkpoints of the TensorFlow days


class MismatchError(WeightsError):
    """A contribution does not have the base's tensors; `code` is the refusal code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[MismatchError], tuple[str, str]]:
        return MismatchError, (self.code, str(self))  # it travels between processes


@dataclass(frozen=True)
class NameMap:
    """How a contribution's tensors meet the base's."""

    names: dict[str, str]  # the base's name → the contribution's
    ignored: tuple[str, ...]  # the contribution's own heads, buffers and copies of tied weights
    notes: tuple[str, ...] = ()  # what of it is not used, or used under another name, and why


def match_names(base: Mapping[str, TensorSpec], other: Mapping[str, TensorSpec]) -> NameMap:
    """Pair the base's tensors with a contribution's, by name, up to a prefix on either side.

    Raises MismatchError listing what is missing, unknown, of another shape or of a dtype that cannot be compared.
    """
    if found := quantized_names(other, besides=base):
        named = f"{len(found)} tensors are scales and the like ({some(found)})"
        raise MismatchError("quantized", f"it is quantised: {named}, without which the others mean nothing")
    spelled = {_modern(name, other): name for name in other}
    ours = {name: _modern(name, base) for name in base}
    base_prefix, other_prefix = _prefixes(ours.values(), spelled)
    names = {}
    for name, modern in ours.items():
        core = modern.removeprefix(base_prefix)
        candidate = other_prefix + core if modern.startswith(base_prefix) else modern
        if candidate in spelled and kind_of(core) != "task":
            names[name] = spelled[candidate]
    body = {n for n, spec in base.items() if kind_of(n) == "body" and is_parameter(spec)}
    notes = _tied(base, other, names)
    missing = sorted(body - names.keys())
    tops = {other_prefix or _top(other_name) for base_name, other_name in names.items() if base_name in body}
    unmatched, matched = set(other) - set(names.values()), set(names.values())
    unknown = sorted(
        n
        for n in unmatched
        if is_parameter(other[n]) and _belongs(n, other_prefix, tops) and not is_tied_copy(n, other, matched)
    )
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"{len(missing)} of the base's {len(body)} tensors are missing ({some(missing)})")
        if unknown:
            parts.append(f"{len(unknown)} tensors are not in the base ({some(unknown)})")
        raise MismatchError("architecture_mismatch", " and ".join(parts))
    extended = _check_shapes(base, other, names)
    if extended:
        most = max(extended.values())
        notes.append(f"{some(sorted(extended))}: {most} rows more than the base has; those of tokens that the base "
                     f"lacks {LEFT_OUT}")  # fmt: skip
    notes += [f"{n} is left out: the base ties it to its embeddings, or has no such head"
              for n in sorted(unmatched) if HEADS.fullmatch(n) and len(other[n].shape) == 2]  # fmt: skip
    return NameMap(names, tuple(sorted(unmatched)), tuple(notes))


def _tied(base: Mapping[str, TensorSpec], other: Mapping[str, TensorSpec], names: dict[str, str]) -> list[str]:
    """Let tied weights that one side stores under another name meet; gives notes about it."""
    notes = []
    embedded = any(EMBEDDINGS.fullmatch(name) for name in base)
    for name in base:
        if name in names or not (EMBEDDINGS.fullmatch(name) or (not embedded and HEADS.fullmatch(name))):
            continue
        found = stand_in(base[name], other)
        if found is not None:
            names[name] = found
            notes.append(f"{found} stands for {name}, which it does not store: the two are tied")
    return notes


def _check_shapes(
    base: Mapping[str, TensorSpec], other: Mapping[str, TensorSpec], names: dict[str, str]
) -> dict[str, int]:
    """Tensors of an extended vocabulary and how many rows they have more. Raises MismatchError."""
    differ = [n for n, o in names.items() if base[n].shape != other[o].shape]
    extended = {n: rows for n in differ if (rows := rows_beyond(n, base[n], other[names[n]]))}
    shapes = sorted(n for n in differ if n not in extended and is_parameter(base[n]))
    if shapes:
        detail = some([f"{n}: {list(other[names[n]].shape)}, the base has {list(base[n].shape)}" for n in shapes])
        hint = "; a vocabulary may have more tokens than the base's, not fewer" if is_vocabulary(shapes[0]) else ""
        raise MismatchError("shape_mismatch", f"{len(shapes)} tensors have another shape ({detail}){hint}")
    dtypes = [n for n, o in names.items() if (base[n].dtype in FLOATS) != (other[o].dtype in FLOATS)
              and is_parameter(base[n])]  # fmt: skip
    if dtypes:
        detail = some([f"{n}: {other[names[n]].dtype}, the base has {base[n].dtype}" for n in sorted(dtypes)])
        raise MismatchError(
            "quantized", f"{len(dtypes)} tensors are stored in a dtype that cannot be compared ({detail})"
        )
    return extended


def _prefixes(base: Iterable[str], spelled: Mapping[str, str]) -> tuple[str, str]:
    """The pair of prefixes (the base's, the contribution's) under which most names agree; none if that is as good."""
    body = [n for n in base if kind_of(n) == "body"]
    ours = ["", *_common_tops(body)]
    theirs = ["", *_common_tops([n for n in spelled if kind_of(n) == "body"])]

    def matches(pair: tuple[str, str]) -> int:
        ours_, theirs_ = pair
        return sum(n.startswith(ours_) and theirs_ + n[len(ours_) :] in spelled for n in body)

    return max(((a, b) for a in ours for b in theirs), key=lambda pair: (matches(pair), pair == ("", "")))


def _common_tops(names: Iterable[str]) -> list[str]:
    """``TOP.`` and ``TOP.SECOND.`` of at least a quarter of the names: candidates for a class prefix."""
    counts = Counter(p for n in names for p in {_top(n), ".".join(n.split(".")[:2])} if p != n)
    total = max(sum(1 for _ in names), 1)
    return sorted(f"{p}." for p, count in counts.items() if count * 4 >= total)


def _belongs(name: str, prefix: str, tops: set[str]) -> bool:
    """Whether an unmatched tensor of a contribution sits inside the body, where nothing may be added."""
    if kind_of(name) != "body" or kind_of(name.removeprefix(prefix)) != "body":
        return False
    return name.startswith(prefix) if prefix else _top(name) in tops


def _modern(name: str, names: Mapping[str, TensorSpec]) -> str:
    for old, new in LEGACY:
        if name.endswith(old) and "LayerNorm" in name and name.removesuffix(old) + new not in names:
            return name.removesuffix(old) + new
    return name


def _top(name: str) -> str:
    return name.partition(".")[0]


def some(items: list[str]) -> str:
    """The first three of them, shortened: they are a stranger's."""
    shown = ", ".join(item[:160] for item in items[:3])
    return shown if len(items) <= 3 else f"{shown}, …"


def memory_names(base_folder: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Name in memory → the on-disk names that make it up, for the model of the base's configuration.

    One entry for a tensor that is only renamed, several where transformers joins tensors on loading. The model is
    built on the meta device: no memory, no weights. Raises WeightsError for a configuration transformers cannot read.
    """
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(base_folder, local_files_only=True)
        architecture: Any = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        with torch.device("meta"):
            built = (
                architecture(config) if hasattr(architecture, "base_model_prefix") else architecture.from_config(config)
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise WeightsError(f"{base_folder}: transformers cannot build the base's model: {error}") from error
    return names_in(built, names)


def names_in(built: Any, names: Iterable[str]) -> dict[str, list[str]]:
    """As `memory_names`, for a model of transformers that is there already."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = get_model_conversion_mapping(built)
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in conversions if isinstance(c, WeightConverter)]
    state = built.state_dict()
    found: dict[str, list[str]] = {}
    for name in names:
        memory, _ = rename_source_key(name, renamings, converters, built.base_model_prefix, state)
        found.setdefault(memory, []).append(name)
    return found
