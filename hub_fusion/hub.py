"""The only module that calls the Hub. One `Hub` wraps one `HfApi(endpoint=…)` and speaks in hub_fusion's errors.

What it adds to the client: retries with back-off where the client has none (of what may be sent twice; of a commit only
where it has not arrived), the wait that a rate limit asks for, a cache of its own for every endpoint other than the
default one, byte ranges, and one error tree.
Every method raises HubUnreachable when there is no answer, RepoMissing for what is not there (or hidden from the
token), HubError for other refusals.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from hub_fusion import __version__
from hub_fusion.errors import HubConflict, HubError, HubUnreachable, RepoMissing

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
    from huggingface_hub.hf_api import ModelInfo

    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

T = TypeVar("T")
RETRIES = 4
PATIENCE_S = 20.0  # no further try after so long: some of the client's calls have waited and tried again themselves
LIMITED_S = 600.0  # waited at most for rate limits to end, where the Hub says when: its windows have five minutes
SILENCE_S = 300.0  # after which a Hub that has taken a request and says nothing counts as unreachable
COMMIT = re.compile("[0-9a-f]{40}")
LIST_FIELDS = [
    "author",
    "cardData",
    "createdAt",
    "disabled",
    "gated",
    "lastModified",
    "private",
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


def _info(data: dict[str, Any]) -> ModelInfo:
    """A repository's metadata, with its card as the Hub gives it.

    The client turns cards into an object and fails on some: one card with the key ``self`` would end every listing.
    """
    from huggingface_hub import ModelInfo

    card = data.pop("cardData", None)
    info = ModelInfo(**data | {"siblings": data.get("siblings")})
    info.card_data = card
    return info


class Hub:
    """A Hugging Face Hub, real or local.

    Args:
        endpoint: its URL; default: ``HF_ENDPOINT``, else huggingface.co.
        token: an access token; default: the one saved by ``hf auth login`` or ``HF_TOKEN``.
        cache_dir: where downloads go; default: the client's cache, in a folder of its own for other endpoints.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None, cache_dir: Path | None = None) -> None:
        from huggingface_hub import HfApi, constants

        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.api = HfApi(endpoint=self.endpoint, token=token, library_name="hub_fusion", library_version=__version__)
        if cache_dir is None:
            cache_dir = Path(constants.HF_HUB_CACHE)
            if self.endpoint != "https://huggingface.co":  # the same repo id means another repository there
                cache_dir = cache_dir / f"endpoint-{hashlib.sha256(self.endpoint.encode()).hexdigest()[:12]}"
        self.cache_dir = cache_dir
        self.token = token
        self._direct: dict[tuple[str, str, str], str] = {}  # file → where the Hub redirects to

    def __repr__(self) -> str:
        return f"Hub({self.endpoint!r})"

    # reading -------------------------------------------------------------------------------------------------------

    def account(self) -> str | None:
        """The name behind the token, or None without one. Raises HubError for a token that the Hub rejects."""
        from huggingface_hub.errors import LocalTokenNotFoundError

        try:
            return str(self._read(self.api.whoami)["name"])
        except LocalTokenNotFoundError:
            return None

    def children(self, base: str, relation: str) -> Iterator[ModelInfo]:
        """All repositories whose card declares `base` with this relation, last modified first."""
        from huggingface_hub.utils import paginate

        query = {"filter": [f"base_model:{relation}:{base}"], "sort": "lastModified", "expand": LIST_FIELDS}
        headers = self.api._build_hf_headers()
        yield from self._read(lambda: [_info(item) for item in paginate(f"{self.endpoint}/api/models", query, headers)])

    def model(self, repo: str, revision: str | None = None) -> ModelInfo:
        """Metadata of one repository at a revision (default: main)."""
        from huggingface_hub.utils import get_session, hf_raise_for_status, validate_repo_id

        def fetch() -> ModelInfo:
            validate_repo_id(repo)
            url = f"{self.endpoint}/api/models/{repo}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
            headers = self.api._build_hf_headers()
            answer = get_session().get(url, params={"expand": LIST_FIELDS}, headers=headers, timeout=30)
            hf_raise_for_status(answer)
            return _info(answer.json())

        return self._read(fetch, repo, revision)

    def resolve(self, repo: str, revision: str = "main") -> str:
        """The commit (40 hex) behind a branch, tag or short sha."""
        return str(self.model(repo, revision).sha)

    def tags(self, repo: str) -> dict[str, str]:
        """Tag → commit."""
        refs = self._read(lambda: self.api.list_repo_refs(repo), repo)
        return {ref.name: ref.target_commit for ref in refs.tags}

    def branches(self, repo: str) -> dict[str, str]:
        """Branch → commit."""
        refs = self._read(lambda: self.api.list_repo_refs(repo), repo)
        return {ref.name: ref.target_commit for ref in refs.branches}

    def commits(self, repo: str, revision: str = "main") -> list[CommitInfo]:
        """The history of a branch, newest first."""
        found = self._read(lambda: list(self.api.list_repo_commits(repo, revision=revision)), repo, revision)
        return [CommitInfo(c.commit_id, c.title, c.created_at) for c in found]

    def files(self, repo: str, revision: str) -> dict[str, FileInfo]:
        """All files at a revision."""
        from huggingface_hub.hf_api import RepoFile

        tree = self._read(
            lambda: list(self.api.list_repo_tree(repo, recursive=True, revision=revision)), repo, revision
        )
        files = (entry for entry in tree if isinstance(entry, RepoFile))
        return {f.path: FileInfo(f.path, f.size, f.lfs.sha256 if f.lfs else None, f.blob_id) for f in files}

    def read_text(self, repo: str, path: str, *, revision: str = "main", max_bytes: int = 20_000_000) -> str:
        """A small text file. Raises RepoMissing if it is not there, HubError if it is larger than `max_bytes`.

        A branch or tag is resolved first: offline, the client would answer with whatever it saw there last.
        """
        if not COMMIT.fullmatch(revision):
            revision = self.resolve(repo, revision)
        ask: Any = partial(self.api.hf_hub_download, cache_dir=self.cache_dir, dry_run=True)
        size = self._read(lambda: ask(repo, path, revision=revision).file_size, repo, revision, path)
        if size > max_bytes:
            raise HubError(f"{repo}/{path} has {size} bytes, more than the {max_bytes} expected of it")
        local = Path(self._read(lambda: self._download(repo, path, revision), repo, revision, path))
        return local.read_text(encoding="utf-8", errors="replace")

    def download(self, repo: str, path: str, revision: str, folder: Path | None = None) -> Path:
        """Fetch one file (resumed, hash-checked by the caller) into `folder`, or into the cache."""
        return Path(self._read(lambda: self._download(repo, path, revision, folder), repo, revision, path))

    def snapshot(self, repo: str, revision: str, patterns: Sequence[str]) -> Path:
        """A folder with the files of a revision that match one of the glob patterns, from the cache where possible."""

        def fetch() -> str:
            return str(
                self.api.snapshot_download(
                    repo, revision=revision, allow_patterns=list(patterns), cache_dir=self.cache_dir
                )
            )

        return Path(self._read(fetch, repo, revision))

    def read_range(self, repo: str, path: str, revision: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file, fewer where it ends before. Raises HubError if the server ignores ranges."""
        body = bytearray(stop - start)
        return bytes(body[: self.read_into(repo, path, revision, start, memoryview(body))])

    def read_into(self, repo: str, path: str, revision: str, start: int, out: memoryview) -> int:
        """Fill `out` with the bytes of a file from `start` on; gives how many there were before it ended.

        A broken connection is taken up where it broke. The address that the Hub redirects to is kept for the next
        range, until it expires. Raises HubError if the server ignores ranges.
        """
        place, got = (repo, path, revision), 0

        def fetch() -> bool:
            nonlocal got
            if got == len(out):
                return True
            began, direct = got, place in self._direct
            try:
                for piece in self._range(place, start + got, start + len(out)):
                    used = min(len(piece), len(out) - got)
                    out[got : got + used] = piece[:used]
                    got += used
                    if used < len(piece):
                        break  # more than was asked for
            except Exception:
                self._direct.pop(place, None)
                if got == began and not direct:
                    raise
                return False  # it came further, or is asked for anew
            return True

        while not self._read(fetch, repo, revision, path):
            pass
        return got

    def _range(self, place: tuple[str, str, str], start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a file, as they arrive."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import get_session, hf_raise_for_status

        repo, path, revision = place
        origin = hf_hub_url(repo, path, revision=revision, endpoint=self.endpoint)
        url = self._direct.get(place, origin)
        ours = self.api._build_hf_headers() if url.startswith(f"{self.endpoint}/") else {}  # the token is the Hub's
        headers = ours | {"range": f"bytes={start}-{stop - 1}", "accept-encoding": "identity"}
        with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as answer:
            if answer.status_code != 206 and int(answer.headers.get("content-length", stop)) > stop:
                answer.read() if answer.status_code >= 400 else None
                hf_raise_for_status(answer)
                raise HubError(f"{self.endpoint} ignores byte ranges; cannot read {repo}/{path} in parts")
            if answer.status_code >= 400:
                answer.read()
                hf_raise_for_status(answer)
            if answer.status_code == 206:
                self._check_range(answer.headers.get("content-range", ""), start, stop, f"{repo}/{path}")
            if answer.history:
                self._direct[place] = str(answer.url)
            skip = 0 if answer.status_code == 206 else start
            for piece in answer.iter_raw():
                yield piece[skip:]
                skip = max(skip - len(piece), 0)

    def _check_range(self, told: str, start: int, stop: int, name: str) -> None:
        """Whether an answer holds the bytes that were asked for. Raises HubUnreachable, which is tried again."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", told.strip())
        first, last, size = (int(n) if n != "*" else stop for n in found.groups()) if found else (-1, -1, -1)
        if first != start or last + 1 not in (stop, size):
            asked = f"bytes {start}-{stop - 1} of {name} were asked for"
            raise HubUnreachable(f"{self.endpoint} answers with {told[:80] or 'no range'!r} where {asked}")

    # writing -------------------------------------------------------------------------------------------------------

    def create_repo(self, repo: str, *, private: bool = False) -> None:
        """Make a model repository if it is not there."""
        self._again(lambda: self.api.create_repo(repo, private=private, exist_ok=True), repo)

    def delete_repo(self, repo: str) -> None:
        """Remove a repository and everything in it."""
        self._once(lambda: self.api.delete_repo(repo), repo)

    def commit(
        self,
        repo: str,
        operations: Sequence[Operation],
        message: str,
        *,
        description: str = "",
        branch: str = "main",
        parent: str | None = None,
    ) -> str:
        """One atomic commit; gives its sha. Raises HubConflict if the branch is no longer at `parent`.

        When no answer comes it is sent again as long as the branch is at `parent`, so that of two only one can succeed.
        Where it has moved the commit may have arrived: that is HubUnreachable, and the caller's next look will tell.
        """

        def send() -> str:
            done = self.api.create_commit(
                repo,
                list(operations),
                commit_message=message,
                commit_description=description,
                revision=branch,
                parent_commit=parent,
            )
            return str(done.oid)

        def has_not_arrived() -> bool:
            return parent is not None and self.branches(repo).get(branch) == parent

        return self._again(send, repo, branch, may=has_not_arrived, patience_s=math.inf)  # its upload takes long

    def tag(self, repo: str, tag: str, revision: str, message: str = "") -> None:
        """Tag a commit. The same tag on the same commit is fine; on another one it raises HubConflict."""
        try:
            self._again(
                lambda: self.api.create_tag(repo, tag=tag, revision=revision, tag_message=message), repo, revision
            )
        except HubConflict:
            there = self.tags(repo).get(tag)
            if there != revision:
                raise HubConflict(f"tag {tag} of {repo} is on {there}, not on {revision}") from None

    def create_branch(self, repo: str, branch: str) -> None:
        """Start a branch at main if it is not there."""
        self._again(lambda: self.api.create_branch(repo, branch=branch, exist_ok=True), repo)

    # plumbing ------------------------------------------------------------------------------------------------------

    def _download(self, repo: str, path: str, revision: str, folder: Path | None = None) -> str:
        place: dict[str, Any] = {"local_dir": folder} if folder else {"cache_dir": self.cache_dir}
        return str(self.api.hf_hub_download(repo, path, revision=revision, **place))

    def _read(self, call: Callable[[], T], *what: str | None) -> T:
        """Call something that changes nothing."""
        return self._again(call, *what)

    def _again(
        self, call: Callable[[], T], *what: str | None, may: Callable[[], bool] = lambda: True,
        patience_s: float = PATIENCE_S,
    ) -> T:  # fmt: skip
        """Call something; try again on 429, 5xx and broken connections, after a wait that grows or that the Hub names.

        What the Hub has refused by 429 has not happened; in all other cases `may` is asked whether to send it again.
        """
        began, limited_s = time.monotonic(), 0.0
        for attempt in range(RETRIES + 1):
            try:
                return self._once(call, *what)
            except HubUnreachable as error:
                if error.retry_after_s is None:
                    wait = 0.5 * 2**attempt * (1 + random.random() / 4)  # noqa: S311 (jitter)
                    hopeless = time.monotonic() - began > patience_s
                else:
                    wait = error.retry_after_s + random.random()  # noqa: S311 (jitter)
                    limited_s += wait
                    hopeless = limited_s > LIMITED_S
                if hopeless or attempt == RETRIES or not (error.refused or may()):
                    raise
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _once(self, call: Callable[[], T], *what: str | None) -> T:
        """Call the client and translate its errors."""
        from huggingface_hub import errors
        from huggingface_hub.utils import httpx

        name = "/".join(part for part in what if part) or "the request"
        try:
            _end_silence()
            return call()
        except (errors.RemoteEntryNotFoundError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
            raise RepoMissing(f"{name} is not on {self.endpoint}, or this token may not see it") from error
        except errors.HfHubHTTPError as error:
            raise self._translate(error, name) from error
        except errors.LocalTokenNotFoundError:
            raise
        except (httpx.TransportError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
            raise HubUnreachable(f"{self.endpoint} does not answer ({name}): {error}") from error
        except errors.HFValidationError as error:
            raise HubError(f"{name} is not a valid name on the Hub: {error}") from error
        except ValueError as error:  # a card that the Hub refuses before it is committed
            raise HubError(f"{self.endpoint} refuses {name}: {error}") from error

    def _translate(self, error: Any, name: str) -> HubError:
        response = error.response
        text = error.server_message or str(error).splitlines()[0]
        if response.status_code in (409, 412):
            return HubConflict(f"{name}: {text}")
        if response.status_code == 429 or response.status_code >= 500:
            after = _retry_after_s(response.status_code, response.headers)
            later = "" if after is None else f"; try again in {after:.0f} s"
            words = f"{self.endpoint} answers {response.status_code} ({name}): {text}{later}"
            return HubUnreachable(words, retry_after_s=after, refused=response.status_code == 429)
        return HubError(f"{self.endpoint} answers {response.status_code} ({name}): {text}")


def _end_silence() -> None:
    """Give the client of this process, which would wait for ever, a limit, unless somebody has given it one."""
    from huggingface_hub.utils import get_session, httpx

    client = get_session()
    if client.timeout == httpx.Timeout(None):
        client.timeout = httpx.Timeout(SILENCE_S)


def _retry_after_s(status: int, headers: Mapping[str, str]) -> float | None:
    """In how many seconds the Hub will answer again: by ``RateLimit`` if that is why it did not, or ``Retry-After``."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers) if status == 429 else None
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = headers.get("retry-after", "").strip()
    return float(after) if after.isascii() and after.isdigit() else None
