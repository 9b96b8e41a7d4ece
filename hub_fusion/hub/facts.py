"""What the Hub says about a repository."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

LIST_FIELDS = [
    "author",
    "cardData",
    "createdAt",
    "disabled",
    "gated",
    "lastModified",
    "library_name",
    "private",
    "safetensors",
    "sha",
    "siblings",
    "tags",
]


@dataclass(frozen=True)
class FileInfo:
    """A file of a repository at a commit; `sha256` is known for LFS files only, `oid` is git's name of the contents."""

    path: str
    size: int
    sha256: str | None
    oid: str = ""


@dataclass(frozen=True)
class CommitInfo:
    """A commit of a branch."""

    sha: str
    title: str
    created_at: datetime


def model_info(data: dict[str, Any]) -> ModelInfo:
    """A repository's metadata, with its card as the Hub gives it.

    The client turns cards into an object and fails on some: one card with the key ``self`` would end every listing.
    """
    from huggingface_hub import ModelInfo

    card = data.pop("cardData", None)
    info = ModelInfo(**data | {"siblings": data.get("siblings")})
    info.card_data = card
    return info
