"""Tokens that contributions to a loop added to their generation's tokenizer: found, judged, given ids, written.

A token is what it says, not its number: the same one may have other ids in other contributions, and other tokens the
same id. Each gets the next free id of the parent's tokenizer, in the order of their texts, whoever brought them; of a
contribution's tokenizer nothing is taken but the text of a token and how it is found in a text. Roles (which token
ends a text), templates and rules of splitting stay the base's. Everything of it is a stranger's: `find` names all that
may not be.

Not covered: entries of a vocabulary that was trained again, with its merges; slow tokenizers without tokenizer.json.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hub_fusion.errors import WeightsError
from hub_fusion.records import AddedToken
from hub_fusion.records.token import MOST_CHARACTERS, MOST_OF_ONE, MOST_TOKENS

TOKENIZER = "tokenizer.json"
FILES = ("config.json", TOKENIZER, "tokenizer_config.json", "added_tokens.json")  # what a new token changes
MOST_BYTES = 100_000_000
FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")
SHOWN = 5  # offenders in a sentence; the number of all is told


@dataclass(frozen=True)
class Tokenizer:
    """What a tokenizer.json says: text → id of all tokens, and of those that were added how they are found."""

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @property
    def next_id(self) -> int:
        """The first that is free after all others; tokenizers give no other one to a token that is added."""
        return max(self.ids.values(), default=-1) + 1

    @property
    def special(self) -> frozenset[str]:
        """The tokens that are more than text."""
        return frozenset(text for text, entry in self.added.items() if entry.get("special"))

    @classmethod
    def parse(cls, text: str, source: str) -> Tokenizer:
        """Raises WeightsError for what is no tokenizer.json, also for two tokens with one id."""
        try:
            data = json.loads(text)
            vocabulary = data["model"]["vocab"]
            pairs = (
                vocabulary.items() if isinstance(vocabulary, dict) else ((v[0], n) for n, v in enumerate(vocabulary))
            )
            ids = {str(token): int(number) for token, number in pairs}
            added = {str(entry["content"]): dict(entry) for entry in data.get("added_tokens") or ()}
            ids |= {token: int(entry["id"]) for token, entry in added.items()}
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise WeightsError(f"{source} is no {TOKENIZER} that can be read ({str(error)[:100]})") from None
        if len(set(ids.values())) != len(ids) or min(ids.values(), default=0) < 0:
            raise WeightsError(f"{source} gives one id to two tokens, or a negative one")
        return cls(ids, added)


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """That of a folder, if there is one. Raises WeightsError."""
    file = folder / TOKENIZER
    if not file.is_file():
        return None
    if file.stat().st_size > MOST_BYTES:
        raise WeightsError(f"{file} has more than {MOST_BYTES} bytes")
    return _read(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(file: Path, changed: int) -> Tokenizer:
    return Tokenizer.parse(file.read_bytes().decode("utf-8", "replace"), str(file))


def agreeing(base: Path, origin: Path) -> int | None:
    """Below which id two generations have the same tokens; None if they do everywhere, or do not say.

    Rows from there on are not the same tokens': what was learned of one is nothing to the other.
    """
    files = [folder / TOKENIZER for folder in (base, origin)]
    if base == origin or not all(file.is_file() and file.stat().st_size <= MOST_BYTES for file in files):
        return None
    ours, theirs = ((file, file.stat().st_mtime_ns) for file in files)
    return _agreeing(*ours, *theirs)


@lru_cache(maxsize=64)
def _agreeing(base: Path, base_changed: int, origin: Path, origin_changed: int) -> int | None:
    if base.read_bytes() == origin.read_bytes():
        return None
    try:
        ours, theirs = _read(base, base_changed), _read(origin, origin_changed)
    except WeightsError:
        return None  # of a kind that is not known here
    return min((number for _, number in ours.ids.items() ^ theirs.ids.items()), default=None)


def find(theirs: Tokenizer, origin: Tokenizer, key: str) -> tuple[list[AddedToken], str | None]:
    """The tokens that a contribution's tokenizer has and its generation's has not; or why none may be taken.

    Their ids are their rows in the contribution. The reason names all offenders.
    """
    known = {number: token for token, number in origin.ids.items()}
    other = [f"token {n} is {_shown(t)} for it, {_shown(known[n])} for its generation"
             for t, n in theirs.ids.items() if n in known and known[n] != t]  # fmt: skip
    twice = [f"{_shown(t)} has the id {n}, {origin.ids[t]} in its generation"
             for t, n in theirs.ids.items() if t in origin.ids and origin.ids[t] != n and n not in known]  # fmt: skip
    new = {t: n for t, n in theirs.ids.items() if t not in origin.ids and n not in known}
    trained = [_shown(t) for t in new if t not in theirs.added]
    if other or twice:
        return [], f"Its tokenizer is not its generation's: {_some([*other, *twice])}."
    if trained:
        return [], f"Its tokenizer was trained again: {_some(trained)} are no tokens that were added to the base's."
    if len(new) > MOST_OF_ONE:
        return [], f"It adds {len(new)} tokens; {MOST_OF_ONE} are allowed."
    if fault := shadows(new, origin):
        return [], fault
    return [AddedToken(content=t, id=n, rows={key: n}, **{f: theirs.added[t].get(f) is True for f in FLAGS})
            for t, n in sorted(new.items())], None  # fmt: skip


def shadows(new: Collection[str], known: Tokenizer) -> str | None:
    """Which of these tokens may not be beside those of a tokenizer, and why; None if all may."""
    odd = [f"{_shown(token)} {why}" for token in new if (why := fault_of(token, known))]
    return f"Of the {len(new)} tokens that it adds, {len(odd)} cannot be kept: {_some(odd)}." if odd else None


def fault_of(token: str, origin: Tokenizer) -> str | None:
    """Why a token may not be part of the base's tokenizer."""
    if not token.strip() or len(token) > MOST_CHARACTERS:
        return f"is empty or longer than {MOST_CHARACTERS} characters"
    if not token.isprintable():
        return "holds characters that cannot be seen"
    word = token.strip().lower()
    if any(mark + word in origin.ids for mark in ("", "Ġ", "▁", "##")):
        return "is a token of its generation but for case, spaces or a mark"
    plain = _plain(token)
    for special in sorted(origin.special):
        if plain == _plain(special) or special in token:
            return f"stands for the special token {_shown(special)}, or takes its place"
        if any(token.endswith(special[:size]) for size in range(1, len(special))):
            return f"takes the beginning of the special token {_shown(special)} where it follows"
    return None


def _plain(token: str) -> str:
    return "".join(unicodedata.normalize("NFKC", token).casefold().split())


def _shown(token: str) -> str:
    """A stranger's text, short and visible."""
    return ascii(token if len(token) <= 40 else f"{token[:40]}…")


def _some(sentences: Sequence[str]) -> str:
    more = len(sentences) - SHOWN
    return "; ".join(sentences[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class NewTokens:
    """What contributions bring, and where the parent's tokenizer has room for it."""

    first: int = 0  # the parent's next id
    brought: Mapping[str, tuple[AddedToken, ...]] = field(default_factory=dict)  # ``repo@sha`` → its own

    @classmethod
    def from_plan(cls, tokens: Sequence[AddedToken]) -> NewTokens:
        """From what `of` gave for all contributions together."""
        keys = {key for token in tokens for key in token.rows}
        brought = {key: tuple(t.model_copy(update={"rows": {key: t.rows[key]}}) for t in tokens if key in t.rows)
                   for key in keys}  # fmt: skip
        return cls(tokens[0].id if tokens else 0, brought)

    def without(self, texts: Collection[str]) -> NewTokens:
        """The same but for these."""
        brought = {key: tuple(t for t in own if t.content not in texts) for key, own in self.brought.items()}
        return NewTokens(self.first, brought)

    def of(self, keys: Collection[str]) -> tuple[AddedToken, ...]:
        """The tokens of these contributions with their ids in the candidate, whatever the order of the keys."""
        return placed([t for key in sorted(keys) for t in self.brought.get(key, ())], self.first)


NO_TOKENS = NewTokens()


def within_bounds(brought: Mapping[str, tuple[AddedToken, ...]]) -> dict[str, tuple[AddedToken, ...]]:
    """What a generation takes in: in the order of the contributions, until there are too many different ones."""
    taken, texts = dict[str, tuple[AddedToken, ...]](), set[str]()
    for key in sorted(brought):
        more = texts | {t.content for t in brought[key]}
        if len(more) <= MOST_TOKENS:
            taken[key], texts = brought[key], more
    return taken


def placed(tokens: Iterable[AddedToken], first: int) -> tuple[AddedToken, ...]:
    """Each text once, with the rows of all who brought it, from the id `first` on in the order of the texts.

    How it is found in a text is as the first one says.
    """
    once: dict[str, AddedToken] = {}
    for token in tokens:
        known = once.get(token.content)
        rows = (known.rows if known else {}) | token.rows
        once[token.content] = (known or token).model_copy(update={"rows": rows})
    return tuple(once[text].model_copy(update={"id": first + n}) for n, text in enumerate(sorted(once)))


def write_tokens(out: Path, tokens: Sequence[AddedToken], vocabulary: tuple[int, int]) -> None:
    """Give the tokenizer and the configuration that lie in a folder these tokens too.

    `vocabulary`: how many rows the parent's weights have, and the candidate's. Raises WeightsError.
    """
    file = out / TOKENIZER
    known = read_tokenizer(out)
    if known is None or known.next_id != tokens[0].id:
        raise WeightsError(f"{file} does not go on with token {tokens[0].id}: it is not the parent's")
    entries = [{"id": t.id, "content": t.content} | {f: getattr(t, f) for f in FLAGS} for t in tokens]

    def more(data: Any) -> None:
        data["added_tokens"] = [*(data.get("added_tokens") or ()), *entries]

    def decoder(data: Any) -> None:
        if isinstance(data.get("added_tokens_decoder"), dict):
            data["added_tokens_decoder"] |= {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in entries}

    _edit(file, more)
    _edit(out / "tokenizer_config.json", decoder)
    _edit(out / "added_tokens.json", lambda data: data.update({t.content: t.id for t in tokens}))
    _edit(out / "config.json", lambda data: data.update(resized(data, *vocabulary)))


def resized(data: Any, was: int, now: int) -> Any:
    """A configuration with another number of tokens, wherever it is told."""
    if not isinstance(data, dict):
        return data
    return {k: now if (k, v) == ("vocab_size", was) else resized(v, was, now) for k, v in data.items()}


def _edit(file: Path, change: Any) -> None:
    """A JSON object in a file, changed; what it says is written in its order."""
    if not file.is_file():
        return
    try:
        data = dict(json.loads(file.read_text(encoding="utf-8")))
        change(data)
        file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file} cannot be given new tokens ({str(error)[:100]}): mend it in the base") from None
