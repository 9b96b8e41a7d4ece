"""A token that a generation has and its parent has not."""

from __future__ import annotations

from pydantic import Field

from hub_fusion.records.record import Record

MOST_CHARACTERS = 100  # of a token
MOST_TOKENS, MOST_OF_ONE = 1024, 256  # that one generation takes in, and that one contribution may bring


class AddedToken(Record):
    """What a tokenizer says of it, and whose rows of embedding and head are averaged for it."""

    content: str = Field(max_length=MOST_CHARACTERS)
    id: int = Field(ge=0, description="in the generation's tokenizer, and the row in its weights")
    special: bool = Field(False, description="left out when text is shown")
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    rows: dict[str, int] = Field(default_factory=dict, description="repo@sha of who brought it → the row it has there")
