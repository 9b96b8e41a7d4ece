"""What the Hub says about a repository."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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
class Refs:
    """What the Hub answers about a repository's refs at once: name → commit."""

    tags: dict[str, str]
    branches: dict[str, str]


@dataclass(frozen=True)
class FileInfo:
    """A file of a repository at a commit; `sha256` is known for LFS files only, `oid` is git's name of the contents."""

    path: str
    size: int
    sha256: str | None
    oid: str = ""

    def holds(self, content: bytes) -> bool:
        """Whether this is the file's content, by what the Hub tells of it."""
        if self.size != len(content):
            return False
        if self.sha256:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        blob = b"blob %d\0" % len(content) + content  # as git names it
        return self.oid == hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def file_infos(tree: Iterable[Any]) -> dict[str, FileInfo]:
    """The files of a listed tree, by path."""
    from huggingface_hub.hf_api import RepoFile

    files = (entry for entry in tree if isinstance(entry, RepoFile))
    return {f.path: FileInfo(f.path, f.size, f.lfs.sha256 if f.lfs else None, f.blob_id) for f in files}


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
