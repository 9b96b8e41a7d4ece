"""Tensors with one row for each token: vocabularies that were extended, and heads tied to the embeddings.

A finetune with new tokens has the base's rows first (`resize_token_embeddings` adds at the end, and so does padding to
a multiple), so the rows that the base has are fused and the others left out, or kept (see added_rows.py).
A base may have grown since a contribution's generation, or shrunk when a generation was withdrawn: then only the rows
that both generations have are compared, and the rest counts as left as it is.
Not covered: another tokenizer with more tokens than the base's. Headers do not tell it; its norms do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from hub_fusion.weights.checkpoint import TensorSpec

EMBEDDINGS = re.compile(
    r"(.*\.)?(word_embeddings?|embed_tokens|wte|shared|tok_embeddings|token_embedding|tokens_embed|embed_in)\.weight"
    r"|(\w+\.)?embeddings\.weight|(transformer\.)?w\.weight"
)
HEADS = re.compile(
    r"(.*\.)?(lm_head|mlm_head|predictions|entity_predictions|mmm_text_head)(\.decoder)?\.(weight|bias)"
    r"|(.*\.)?(embed_out|generator_lm_head|vocab_projector|lm_loss|proj_out|pred_layer\.proj)\.(weight|bias)"
    r"|decoder\.(weight|bias)|output\.(weight|bias)|embedding_decoder\.bias|(.*\.)?final_logits_bias"
)


def is_vocabulary(name: str) -> bool:
    """Whether a tensor has one row (a bias: one element) for each token."""
    return bool(EMBEDDINGS.fullmatch(name) or HEADS.fullmatch(name))


def rows_beyond(name: str, base: TensorSpec, other: TensorSpec) -> int:
    """How many tokens more than the base a contribution has in this tensor; 0 if it is not extended.

    The base's rows are the first in its bytes too, so reading as many elements as the base has reads just them.
    """
    ours, theirs = base.shape, other.shape
    if not is_vocabulary(name) or len(ours) != len(theirs) or not ours:
        return 0
    axis = token_axis(ours) if ours[0] == theirs[0] else 0
    same = ours[:axis] == theirs[:axis] and ours[axis + 1 :] == theirs[axis + 1 :]
    return max(theirs[axis] - ours[axis], 0) if same else 0


def token_axis(shape: tuple[int, ...]) -> int:
    """Which dimension of a vocabulary's tensor counts the tokens: the first, but final_logits_bias is (1, tokens)."""
    return 1 if len(shape) == 2 and shape[0] == 1 else 0


def same_but_rows(name: str, one: TensorSpec, other: TensorSpec) -> bool:
    """Whether two tensors have one shape, or are vocabularies of which one has more tokens, at its end."""
    return one.shape == other.shape or bool(rows_beyond(name, one, other) or rows_beyond(name, other, one))


def with_rows_of(base: Mapping[str, TensorSpec], origin: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The base's tensors, vocabularies with no more tokens than an earlier generation had."""
    return {name: replace(spec, shape=origin[name].shape)
            if name in origin and rows_beyond(name, origin[name], spec) else spec
            for name, spec in base.items()}  # fmt: skip


def rows_in(spec: TensorSpec) -> int:
    """How many tokens a vocabulary's tensor has."""
    return spec.shape[token_axis(spec.shape)]


def longer(spec: TensorSpec, rows: int) -> TensorSpec:
    """A vocabulary's tensor with so many tokens more; its size is still to be made."""
    axis = token_axis(spec.shape)
    shape = tuple(n + rows if at == axis else n for at, n in enumerate(spec.shape))
    return replace(spec, shape=shape)


def stand_in(base: TensorSpec, other: Mapping[str, TensorSpec]) -> str | None:
    """Which of a contribution's tensors holds the tokens' matrix that it does not store under the base's name.

    Embeddings that it lacks are its head's matrix or its shared embeddings: it could not be loaded otherwise.
    """
    if len(base.shape) != 2:
        return None
    rows, columns = base.shape
    found = [n for n, s in other.items()
             if len(s.shape) == 2 and s.shape[1] == columns and s.shape[0] >= rows and is_vocabulary(n)]  # fmt: skip
    return min(found, key=lambda n: (not n.endswith("shared.weight"), n), default=None)


def is_tied_copy(name: str, other: Mapping[str, TensorSpec], matched: set[str]) -> bool:
    """Whether an unmatched tensor is embeddings of the shape of some that meet the base's: a copy of tied weights."""
    spec = other[name]
    return bool(EMBEDDINGS.fullmatch(name)) and any(
        other[n].shape == spec.shape and EMBEDDINGS.fullmatch(n) for n in matched
    )
