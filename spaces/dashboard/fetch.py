"""Files of a base: on the Hub, or in the snapshot that lies beside the code.

huggingface_hub's own downloads repeat a failed request for 23 seconds; here every file has 5 seconds, once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fields import Malformed
from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, httpx

INDEX, STATUS = ("fusion/index.json", "main"), ("fusion/status.json", "fusion-status")
TIMEOUT_S = 5.0
MAX_BYTES = 5_000_000


class Unreachable(Exception):
    """The Hub did not give an answer that means anything."""


class Absent(Exception):
    """There is no such file, revision or repository, or not for us; the message is the Hub's error code."""


class Files(Protocol):
    """Where files are read from."""

    def read(self, path: str, revision: str) -> bytes:
        """The file's content. Raises Absent, Unreachable, or Malformed if it is too large."""
        ...


def record_path(generation: int) -> str:
    """Where a generation's record is."""
    return f"fusion/gen-{generation}.json"


@dataclass(frozen=True)
class Folder:
    """A snapshot: the files of main and of the status branch in one folder."""

    folder: Path

    def read(self, path: str, revision: str) -> bytes:
        """See Files."""
        try:
            with (self.folder / path).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise Absent("EntryNotFound") from None
        except OSError as error:
            raise Unreachable(type(error).__name__) from None
        return bytes(_fitting(content, path))


@dataclass(frozen=True)
class Fetch:
    """A repository on a Hub, and the token that may read it, if it needs one."""

    base: str
    endpoint: str
    token: str | None = None

    def read(self, path: str, revision: str) -> bytes:
        """See Files."""
        url = hf_hub_url(self.base, path, revision=revision, endpoint=self.endpoint)
        headers = build_hf_headers(token=self.token or False, library_name="hub_fusion-dashboard")
        until, content = time.monotonic() + TIMEOUT_S, bytearray()
        try:
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as answer:
                if answer.status_code in (401, 403, 404):
                    raise Absent(answer.headers.get("X-Error-Code") or f"HTTP {answer.status_code}")
                if answer.status_code != 200:
                    raise Unreachable(f"HTTP {answer.status_code}")
                for part in answer.iter_bytes():
                    content += part
                    _fitting(content, path)
                    if time.monotonic() > until:
                        raise Unreachable(f"{path} took more than {TIMEOUT_S:.0f} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreachable(type(error).__name__) from None
        return bytes(content)


def _fitting(content: bytes | bytearray, path: str) -> bytes | bytearray:
    if len(content) > MAX_BYTES:
        raise Malformed(f"{path} is larger than {MAX_BYTES // 1_000_000} MB")
    return content
