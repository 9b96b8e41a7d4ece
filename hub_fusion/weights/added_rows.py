"""Rows of tokens that finetunes added to the base's vocabulary, kept: embeddings, heads, tokenizer and configuration.

What is new has no base to differ from, so whatever the method it is the weighted mean of those who have it.

In a loop the plan names the tokens and who has which row of them (see tokens.py). A single fuse keeps all rows beyond
the base's, which means something only where the new ids are the same tokens: all tokenizers must agree wherever two of
them know an id, and the result takes the tokenizer of the contribution with the most rows. Not covered: adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import FLOATS, Checkpoint, TensorSpec
from hub_fusion.weights.codec import narrow, widen
from hub_fusion.weights.deltas import row_blocks
from hub_fusion.weights.names import some
from hub_fusion.weights.tensors import MOST, TensorWork
from hub_fusion.weights.tokens import resized
from hub_fusion.weights.vocabulary import EMBEDDINGS, is_vocabulary, rows_beyond, rows_in

if TYPE_CHECKING:
    from hub_fusion.records import AddedToken
    from hub_fusion.weights.deltas import Deltas
    from hub_fusion.weights.places import Place

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "vocab.txt",
             "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
             "chat_template.jinja")  # fmt: skip
MOST_BYTES = 100_000_000  # of a tokenizer's file
TIMES = 2.0  # the norm of the base's longest row, of a new one


@dataclass(frozen=True)
class Added:
    """The rows of new tokens, from the row `first` on, which may lie within the base's if it has spare ones."""

    more: Mapping[str, int]  # tensor → how many rows more than the base's it gets
    first: int
    rows: Sequence[Mapping[str, int]]  # of each new row: contribution → the row it has there


def plan_added(base: Checkpoint, deltas: Sequence[Deltas], dropped: Sequence[str], place: Place) -> Added | None:
    """All rows beyond the base's, where they are. Raises WeightsError where the result could not be loaded."""
    more = {name: max(_more(name, base, d) for d in deltas) for name in base if name not in dropped}
    added = {name: rows for name, rows in more.items() if rows}
    if not added:
        return None
    most, tokens = max(added.values()), rows_in(base[next(iter(added))])
    short = sorted(name for name in more if is_vocabulary(name) and base[name].shape
                   and rows_in(base[name]) == tokens and added.get(name) != most)  # fmt: skip
    if short:
        raise WeightsError(f"{most} rows of new tokens cannot be kept: no contribution has as many for {some(short)}, "
                           "so the result could not be loaded; leave them out (--vocab drop)")  # fmt: skip
    _check_tokenizers(place, [d for d in deltas if any(_more(name, base, d) for name in added)])
    longest = {d.source.key: max(_more(name, base, d) for name in added) for d in deltas}
    rows = [{key: tokens + n for key, own in longest.items() if n < own} for n in range(most)]
    return Added(added, tokens, rows)


def plan_tokens(
    base: Checkpoint, deltas: Sequence[Deltas], dropped: Sequence[str], tokens: Sequence[AddedToken]
) -> Added:
    """The rows of these tokens. Raises WeightsError for one of which no row is there."""
    first, names = tokens[0].id, vocabulary_names(base, dropped)
    rows = rows_in(base[names[0]]) if names else 0
    if first > rows or [t.id for t in tokens] != list(range(first, first + len(tokens))):
        raise WeightsError(f"new tokens have ids that go on from those of the base, of {rows} rows: "
                           f"{[t.id for t in tokens[:5]]}")  # fmt: skip
    by_key = {d.source.key: d for d in deltas if d.source.weight > 0}
    there = {(key, n): rows_of(d, n) for key, d in by_key.items() for n in names}
    lost = [f"{t.content!a} in {n}" for n in names for t in tokens
            if not any(row < there.get((key, n), 0) for key, row in t.rows.items())]  # fmt: skip
    if lost:
        raise WeightsError(f"{len(lost)} rows of new tokens are in no contribution: {some(lost)}")
    return Added(dict.fromkeys(names, max(first + len(tokens) - rows, 0)), first, [t.rows for t in tokens])


def vocabulary_names(base: Mapping[str, TensorSpec], dropped: Sequence[str] = ()) -> list[str]:
    """The base's tensors with a row for each token: embeddings, and all heads of as many rows."""
    found = [n for n, s in base.items() if n not in dropped and is_vocabulary(n) and s.shape and s.dtype in FLOATS]
    most = max((rows_in(base[n]) for n in found if EMBEDDINGS.fullmatch(n)), default=0)
    return [n for n in found if rows_in(base[n]) == most]


def longest_row(files: Checkpoint, name: str, rows: int) -> float:
    """The largest norm of the first rows of a vocabulary's tensor."""
    dtype, columns = files[name].dtype, prod(files[name].shape) // rows_in(files[name])
    longest = 0.0
    for first, last in row_blocks(rows, columns, MOST):
        values = widen(files.raw(name, first * columns, last * columns), dtype).astype(np.float64)
        longest = max(longest, float(np.square(values.reshape(-1, columns)).sum(1).max()))
    return sqrt(longest)


def rows_fault(d: Deltas, tokens: Sequence[AddedToken], longest: Mapping[str, float]) -> str | None:
    """What speaks against a contribution's own rows of its tokens: not finite, or far longer than all others.

    `longest`: vocabulary's tensor → norm of the base's longest row.
    """
    for name, norm in longest.items():
        files, saved = d.files.whole, str(d.names[name])
        dtype, columns = files[saved].dtype, prod(files[saved].shape) // rows_of(d, name)
        most = TIMES * max(norm, longest_row(files, saved, min(token.rows[d.source.key] for token in tokens)))
        for token in tokens:
            row = token.rows[d.source.key]
            values = widen(files.raw(saved, row * columns, (row + 1) * columns), dtype).astype(np.float64)
            length = sqrt(float(np.square(values).sum()))
            if not length <= most:
                return (f"its row of {token.content!a} in {name} has norm {length:.4g}; of the base's and its own rows "
                        f"the longest has {most / TIMES:.4g}, and {TIMES:g} times that is allowed")  # fmt: skip
    return None


def rows_of(d: Deltas, name: str) -> int:
    """How many rows a finetune has of a vocabulary's tensor; 0 if it does not store it."""
    saved = d.names.get(name)
    return rows_in(d.files.whole[saved]) if saved and d.source.relation == "finetune" else 0


class AddedRows(TensorWork):
    """The new rows of one tensor: those of the base before them come first in its bytes."""

    def __init__(self, number: int, out: TensorSpec, base: Checkpoint, deltas: Sequence[Deltas], added: Added) -> None:
        count = rows_in(out) - added.first
        columns = prod(out.shape) // rows_in(out)
        super().__init__(number, out, base[out.name], [], count, columns, MOST)
        self.first, self.base, self.added = added.first, base, True
        having = {d.source.key: d for d in deltas if d.source.weight > 0 and rows_of(d, out.name)}
        self.having = [[(having[key], row) for key, row in sorted(of.items())
                        if key in having and row < rows_of(having[key], out.name)] for of in added.rows]  # fmt: skip
        self.having += [[] for _ in range(count - len(self.having))]  # spare rows of the base stay

    def range(self, start: int, stop: int) -> tuple[int, int]:
        """The flat elements of the output's tensor."""
        return (self.first + start) * self.columns, (self.first + stop) * self.columns

    def reads(self, number: int) -> Iterator[tuple[Checkpoint, str, int, int]]:
        """What a block is made from: checkpoint, tensor and elements [first, last)."""
        start, stop = self.blocks[number]
        for at, having in enumerate(self.having[start:stop], start=start):
            for d, row in having:
                yield d.files.whole, str(d.names[self.name]), row * self.columns, (row + 1) * self.columns
            if not having:
                yield self.base, self.name, *self.range(at, at + 1)


def fuse_added(work: AddedRows, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of the new ones as they are stored: means. Raises WeightsError if any is not finite."""
    made = np.empty((stop - start, work.columns), np.float32)
    for into, having, row in zip(made, work.having[start:stop], range(start, stop), strict=True):
        if not having:
            into[:] = widen(work.base.raw(work.name, *work.range(row, row + 1)), work.stored.dtype)
            continue
        total, weights = np.zeros(work.columns), 0.0
        for d, at in having:
            name, files = str(d.names[work.name]), d.files.whole
            spec = files[name]
            values = widen(files.raw(name, at * work.columns, (at + 1) * work.columns), spec.dtype)
            if not np.isfinite(values).all():
                raise WeightsError(f"{files.folder / spec.file}: tensor {name} holds NaN or infinity in a row of a "
                                   f"new token ({d.source.key}): train again in a wider dtype")  # fmt: skip
            total += d.source.weight * values.astype(np.float64)
            weights += d.source.weight
        into[:] = total / weights
    return narrow(made.reshape(-1), work.out.dtype)


def take_tokenizer(base: Checkpoint, deltas: Sequence[Deltas], added: Mapping[str, int], out: Path) -> None:
    """Put the tokenizer that knows all tokens into a folder, and their number into its configuration."""
    name, rows = next(iter(added.items()))
    owner = next(d for d in deltas if _more(name, base, d) == rows).source.folder
    for file in TOKENIZER:
        if (owner / file).is_file():
            (out / file).write_bytes((owner / file).read_bytes())
    config = out / "config.json"
    if config.is_file():
        was = rows_in(base[name])
        data = resized(json.loads(config.read_text()), was, was + rows)
        config.write_text(json.dumps(data, indent=2) + "\n")


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
