"""Whether the tokens that a candidate adds to the base are those of its record, and nothing else comes with them.

Tokenizer and configuration of the candidate must be, byte by byte, what the base's own on the Hub become with these
tokens: of a tokenizer that somebody else wrote nothing is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from hub_fusion.errors import OutputError, WeightsError
from hub_fusion.hub import Hub
from hub_fusion.publish.state import BaseState
from hub_fusion.recipe import Recipe
from hub_fusion.records import Generation
from hub_fusion.records.token import MOST_TOKENS
from hub_fusion.weights.checkpoint import TensorSpec
from hub_fusion.weights.store import own_file
from hub_fusion.weights.tokens import FILES, MOST_BYTES, fault_of, read_tokenizer, write_tokens
from hub_fusion.weights.vocabulary import longer, rows_in


def grown(
    hub: Hub, recipe: Recipe, state: BaseState, record: Generation, base: Mapping[str, TensorSpec], folder: Path
) -> Mapping[str, TensorSpec]:
    """The tensors of `base` with rows for the record's tokens. Raises OutputError, WeightsError for what may not be."""
    if not record.tokens:
        return base
    from hub_fusion.weights.added_rows import vocabulary_names  # numba, which other candidates do without

    names, first = vocabulary_names(base), record.tokens[0].id
    if recipe.merge.vocab != "keep" or not names:
        raise OutputError("the record has new tokens, which the recipe does not keep, or the base has no rows for")
    rows, texts = rows_in(base[names[0]]), [token.content for token in record.tokens]
    if len(texts) > MOST_TOKENS or texts != sorted(set(texts)) or first > rows:
        raise WeightsError(f"new tokens are at most {MOST_TOKENS}, each once, in their order, from row {rows} or less")
    if [token.id for token in record.tokens] != list(range(first, first + len(texts))):
        raise WeightsError(f"new tokens have ids that go on from {first}: {[t.id for t in record.tokens][:5]}")
    now = max(rows, first + len(texts))
    with tempfile.TemporaryDirectory() as place:
        _check_files(hub, state, record, (rows, now), folder, Path(place))
    return {name: longer(spec, now - rows) if name in names else spec for name, spec in base.items()}


def _check_files(
    hub: Hub, state: BaseState, record: Generation, vocabulary: tuple[int, int], folder: Path, place: Path
) -> None:
    there = hub.files(state.repo, state.head)
    for name in set(FILES) & there.keys():
        text = hub.read_text(state.repo, name, revision=state.head, max_bytes=MOST_BYTES)
        (place / name).write_text(text, encoding="utf-8")
    known = read_tokenizer(place)
    if known is None:
        raise WeightsError("the base has no tokenizer that new tokens could be put into")
    for token in record.tokens:
        if token.content in known.ids or (fault := fault_of(token.content, known)):
            raise WeightsError(f"{token.content!a} {fault if token.content not in known.ids else 'is no new token'}")
    write_tokens(place, record.tokens, vocabulary)
    for name in FILES:
        if not (folder / name).exists() and not (folder / name).is_symlink():
            continue
        path = own_file(folder, name)
        if not (place / name).is_file() or path.read_bytes() != (place / name).read_bytes():
            raise OutputError(f"{path} is not the base's {name} with the record's tokens")
