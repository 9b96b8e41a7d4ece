"""Logins that are stored in files, where whatever runs as the same user may read them."""

from __future__ import annotations

from pathlib import Path


def stored_logins() -> list[Path]:
    """The files of ``hf auth login`` that are there."""
    from huggingface_hub import constants

    places = (Path(constants.HF_TOKEN_PATH), Path(constants.HF_STORED_TOKENS_PATH))
    return [place for place in places if place.is_file()]
