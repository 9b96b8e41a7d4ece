"""Rows of tokens that finetunes added to the base's vocabulary, kept: embeddings, heads, tokenizer and configuration.

What is new has no base to differ from, so whatever the method it is the weighted mean of those who have it. That means
something only where the new ids are the same tokens: all tokenizers must agree wherever two of them know an id. The
result takes the tokenizer of the contribution with the most rows. Not covered: adapters, and recipes of a loop, whose
late contributions would have fewer rows than the base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import Checkpoint, TensorSpec
from hub_fusion.weights.codec import narrow, widen
from hub_fusion.weights.names import some
from hub_fusion.weights.tensors import TensorWork
from hub_fusion.weights.vocabulary import is_vocabulary, rows_beyond, token_axis

if TYPE_CHECKING:
    from hub_fusion.weights.deltas import Deltas
    from hub_fusion.weights.places import Place

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "vocab.txt",
             "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
             "chat_template.jinja")  # fmt: skip
MOST_BYTES = 100_000_000  # of a tokenizer's file


def plan_added(base: Checkpoint, deltas: Sequence[Deltas], dropped: Sequence[str], place: Place) -> dict[str, int]:
    """Tensor of the base → how many rows more it gets. Raises WeightsError where that could not be loaded."""
    more = {name: max(_more(name, base, d) for d in deltas) for name in base if name not in dropped}
    added = {name: rows for name, rows in more.items() if rows}
    if not added:
        return {}
    most, tokens = max(added.values()), _rows(base[next(iter(added))])
    short = sorted(name for name in more if is_vocabulary(name) and base[name].shape
                   and _rows(base[name]) == tokens and added.get(name) != most)  # fmt: skip
    if short:
        raise WeightsError(f"{most} rows of new tokens cannot be kept: no contribution has as many for {some(short)}, "
                           "so the result could not be loaded; leave them out (--vocab drop)")  # fmt: skip
    _check_tokenizers(place, [d for d in deltas if any(_more(name, base, d) for name in added)])
    return added


class AddedRows(TensorWork):
    """The new rows of one tensor: elements beyond the base's, which come first in its bytes."""

    def __init__(self, number: int, out: TensorSpec, base: Checkpoint, deltas: Sequence[Deltas], elements: int) -> None:
        having = [d for d in deltas if d.source.weight > 0 and _more(out.name, base, d)]
        size = prod(out.shape) - prod(base[out.name].shape)
        super().__init__(number, out, base[out.name], [], size, 1, elements)
        self.added = [(d, str(d.names[out.name])) for d in having]

    def range(self, start: int, stop: int) -> tuple[int, int]:
        """The flat elements of the output's tensor."""
        first = prod(self.stored.shape)
        return first + start, first + stop


def fuse_added(work: TensorWork, start: int, stop: int) -> np.ndarray:
    """Elements [start, stop) of the new rows as they are stored. Raises WeightsError if any is not finite."""
    first, last = work.range(start, stop)
    total, weights = np.zeros(last - first), np.zeros(last - first)
    for d, name in work.added:
        spec = d.files[name]
        end = min(last, prod(spec.shape))
        if end > first:
            values = widen(d.files.raw(name, first, end), spec.dtype)
            if not np.isfinite(values).all():
                raise WeightsError(f"{d.files.folder / spec.file}: tensor {name} holds NaN or infinity in a row of a "
                                   f"new token ({d.source.key}): train again in a wider dtype")  # fmt: skip
            total[: end - first] += d.source.weight * values
            weights[: end - first] += d.source.weight
    return narrow((total / weights).astype(np.float32), work.out.dtype)


def take_tokenizer(base: Checkpoint, deltas: Sequence[Deltas], added: Mapping[str, int], out: Path) -> None:
    """Put the tokenizer that knows all tokens into a folder, and their number into its configuration."""
    name, rows = next(iter(added.items()))
    owner = next(d for d in deltas if _more(name, base, d) == rows).source.folder
    for file in TOKENIZER:
        if (owner / file).is_file():
            (out / file).write_bytes((owner / file).read_bytes())
    config = out / "config.json"
    if config.is_file():
        was = _rows(base[name])
        data = _resized(json.loads(config.read_text()), was, was + rows)
        config.write_text(json.dumps(data, indent=2) + "\n")


def _resized(data: Any, was: int, now: int) -> Any:
    if not isinstance(data, dict):
        return data
    return {k: now if (k, v) == ("vocab_size", was) else _resized(v, was, now) for k, v in data.items()}


def _rows(spec: TensorSpec) -> int:
    return spec.shape[token_axis(spec.shape)]


def _more(name: str, base: Checkpoint, d: Deltas) -> int:
    saved = d.names.get(name)
    finetune = d.source.relation == "finetune" and d.source.weight > 0
    return rows_beyond(name, base[name], d.files[saved]) if finetune and saved else 0


def _check_tokenizers(base: Place, deltas: Sequence[Deltas]) -> None:
    known: dict[int, tuple[str, str]] = {}
    for key, place in (("the base", base), *((d.source.key, d.source.folder) for d in deltas)):
        tokens = _tokens(place, key)
        if not tokens and place is not base:
            raise WeightsError(f"the rows of {key}'s new tokens cannot be kept: it has no tokenizer.json, vocab.txt or "
                               "vocab.json that says which they are; leave them out (--vocab drop)")  # fmt: skip
        for number, token in tokens.items():
            who, other = known.setdefault(number, (key, token))
            if token != other:
                raise WeightsError(f"rows of new tokens cannot be kept: token {number} is {other[:40]!r} for {who} and "
                                   f"{token[:40]!r} for {key}; leave them out (--vocab drop)")  # fmt: skip


def _tokens(place: Place, key: str) -> dict[int, str]:
    """Id → token, as the tokenizer's files say; empty if there are none."""
    try:
        found: dict[int, str] = {}
        if data := _json(place, "tokenizer.json"):
            vocabulary = (data.get("model") or {}).get("vocab") or {}
            pairs = (
                vocabulary.items() if isinstance(vocabulary, dict) else ((v[0], n) for n, v in enumerate(vocabulary))
            )
            found |= {int(number): str(token) for token, number in pairs}
            found |= {int(entry["id"]): str(entry["content"]) for entry in data.get("added_tokens") or ()}
            return found
        if (place / "vocab.txt").is_file():
            found |= dict(enumerate(_text(place, "vocab.txt").splitlines()))
        for file in ("vocab.json", "added_tokens.json"):
            found |= {int(number): str(token) for token, number in _json(place, file).items()}
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise WeightsError(
            f"the tokenizer of {key} cannot be read ({error}): leave new tokens out (--vocab drop)"
        ) from None


def _json(place: Place, name: str) -> dict[str, Any]:
    return dict(json.loads(_text(place, name))) if (place / name).is_file() else {}


def _text(place: Place, name: str) -> str:
    if (place / name).stat().st_size > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES} bytes")
    return (place / name).read_bytes().decode()
