"""Names by which equal things are known to be equal."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping


def weights_identity(digests: Iterable[str]) -> str:
    """sha256 over the digests of a checkpoint's weight files: equal for equal files, whatever their names and order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def files_identity(digests: Mapping[str, str]) -> str:
    """sha256 over the sorted ``name digest`` lines of files; a digest is LFS's sha256, else git's name of the contents.

    The Hub lists both without a download, and they are the same for a copy in another repository.
    """
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def generation_number(tag: str) -> int | None:
    """N of the tag ``gen-N``, None for every other tag."""
    found = re.fullmatch(r"gen-(0|[1-9][0-9]{0,8})", tag, re.ASCII)
    return int(found[1]) if found else None


def withdrawal_title(withdrawn: int, restored: int) -> str:
    """The title of a commit that withdraws a generation; `restored_generation` reads it."""
    return f"Withdraw gen-{withdrawn}: main has the weights of gen-{restored} again"


def restored_generation(title: str) -> int | None:
    """Whose weights a commit brought back, None for a commit that withdraws nothing."""
    found = re.fullmatch(r"Withdraw gen-\d{1,9}: main has the weights of gen-(\d{1,9}) again", title, re.ASCII)
    return int(found[1]) if found else None


def data_name(name: str) -> str:
    """What a data set and its mirrors share, and often a task of it: ``PolyAI/Banking-77`` → ``banking77``."""
    return "".join(c for c in name.rpartition("/")[2].lower() if c.isalnum())


def attempt_id(parent_revision: str, recipe: str, suite: str, shas: Iterable[str]) -> str:
    """sha256 of (parent, recipe, suite, sorted contribution shas): an attempt with an equal id is not made twice.

    `recipe` is the canonical text of what decides the weights and the verdict, not the file with its comments.
    """
    payload = json.dumps([parent_revision, recipe, suite, sorted(shas)], separators=(",", ":"))
    return hashlib.sha256(payload.encode()).hexdigest()
