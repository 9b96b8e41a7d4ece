"""One `Hub` wraps one `HfApi(endpoint=…)` and speaks in hub_fusion's errors.

What it adds to the client: retries with back-off where the client has none (of what may be sent twice; of a commit only
where it has not arrived), the wait that a rate limit asks for, a cache of its own for every endpoint other than the
default one, byte ranges, and one error tree.
Every method raises HubUnreachable when there is no answer, RepoMissing for what is not there (or hidden from the
token), HubError for other refusals, OutputError where a download cannot be written.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from hub_fusion import __version__
from hub_fusion.errors import HubConflict, HubError, RepoMissing
from hub_fusion.hub.calls import Calls
from hub_fusion.hub.facts import LIST_FIELDS, CommitInfo, FileInfo, Refs, file_infos, model_info
from hub_fusion.hub.ranges import Ranges
from hub_fusion.hub.trees import Trees

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
    from huggingface_hub.hf_api import ModelInfo

    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

T = TypeVar("T")
DEFAULT_ENDPOINT = "https://huggingface.co"
COMMIT = re.compile("[0-9a-f]{40}")
LIST_TIMEOUT_S = 60  # for a page of a thousand repositories with their cards


class Hub:
    """A Hugging Face Hub, real or local.

    Args:
        endpoint: its URL; default: ``HF_ENDPOINT``, else huggingface.co.
        token: an access token; default: the one saved by ``hf auth login`` or ``HF_TOKEN``.
        cache_dir: where downloads go; default: the client's cache, in a folder of its own for other endpoints.
        cached: False: small texts come from the Hub each time, and whatever lies in the cache is not believed.
    """

    def __init__(
        self, endpoint: str | None = None, token: str | None = None, cache_dir: Path | None = None, *,
        cached: bool = True,
    ) -> None:  # fmt: skip
        from huggingface_hub import HfApi, constants

        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.api = HfApi(endpoint=self.endpoint, token=token, library_name="hub_fusion", library_version=__version__)
        if cache_dir is None:
            cache_dir = Path(constants.HF_HUB_CACHE)
            if self.endpoint != DEFAULT_ENDPOINT:  # the same repo id means another repository there
                cache_dir = cache_dir / f"endpoint-{hashlib.sha256(self.endpoint.encode()).hexdigest()[:12]}"
        self.cache_dir, self.cached = cache_dir, cached
        self.token = token
        self._calls = Calls(self.endpoint)
        self._trees = Trees()
        self._ranges = Ranges(self.endpoint, self._calls, self.api._build_hf_headers)

    @property
    def environment(self) -> dict[str, str]:
        """What a process somewhere else needs to speak to this Hub; nothing for the default one."""
        return {} if self.endpoint == DEFAULT_ENDPOINT else {"HF_ENDPOINT": self.endpoint}

    def __repr__(self) -> str:
        return f"Hub({self.endpoint!r})"

    def uncached(self) -> Hub:
        """The same Hub for who shares a cache with others."""
        return Hub(self.endpoint, self.token, self.cache_dir, cached=False)

    def saved_token(self) -> str | None:
        """The token in use, whoever gave it."""
        from huggingface_hub import get_token

        return self.token or get_token()

    # reading -------------------------------------------------------------------------------------------------------

    def account(self) -> str | None:
        """The name behind the token, or None without one. Raises HubError for a token that the Hub rejects."""
        from huggingface_hub.errors import LocalTokenNotFoundError

        try:
            return str(self._read(self.api.whoami)["name"])
        except LocalTokenNotFoundError:
            return None

    def may_write(self) -> bool:
        """Whether the token may change anything at all. Raises HubError for one that the Hub rejects."""
        about = self._read(self.api.whoami)["auth"]["accessToken"]
        fine = about.get("fineGrained") or {}
        held = [*fine.get("global", ()), *(name for scope in fine.get("scoped", ()) for name in scope["permissions"])]
        return about["role"] not in ("read", "fineGrained") or any(name.endswith("write") for name in held)

    def children(self, base: str, relation: str | None = None, *, page: int | None = None) -> Iterator[ModelInfo]:
        """All repositories whose card declares `base`, with this relation or with any, last modified first.

        One request for each `page` repositories (default: as many as the Hub gives), made when the first of them is
        asked for: whoever has seen enough stops.
        """
        tag = f"base_model:{relation}:{base}" if relation else f"base_model:{base}"
        query: dict[str, Any] = {"filter": tag, "sort": "lastModified", "expand": LIST_FIELDS}
        query |= {"limit": page} if page else {}
        while query:
            items, query = self._read(partial(self._page, query), f"children of {base}")
            yield from map(model_info, items)

    def model(self, repo: str, revision: str | None = None) -> ModelInfo:
        """Metadata of one repository at a revision (default: main)."""
        from huggingface_hub.utils import get_session, hf_raise_for_status, validate_repo_id

        def fetch() -> ModelInfo:
            validate_repo_id(repo)
            url = f"{self.endpoint}/api/models/{repo}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
            headers = self.api._build_hf_headers()
            answer = get_session().get(url, params={"expand": LIST_FIELDS}, headers=headers, timeout=30)
            hf_raise_for_status(answer)
            return model_info(answer.json())

        return self._read(fetch, repo, revision)

    def standing(self, repo: str, revision: str) -> dict[str, Any]:
        """What a listing does not tell, as the Hub puts it: ``securityRepoStatus`` and ``downloads`` among others."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        def fetch() -> dict[str, Any]:
            url = f"{self.endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}"
            headers = self.api._build_hf_headers()
            answer = get_session().get(url, params={"securityStatus": "true"}, headers=headers, timeout=30)
            hf_raise_for_status(answer)
            found = answer.json()
            return found if isinstance(found, dict) else {}

        return self._read(fetch, repo, revision)

    def resolve(self, repo: str, revision: str = "main") -> str:
        """The commit (40 hex) behind a branch, tag or short sha."""
        return str(self.model(repo, revision).sha)

    def refs(self, repo: str) -> Refs:
        """All tags and branches, by one request."""
        found = self._read(lambda: self.api.list_repo_refs(repo), repo)
        tags, branches = ({ref.name: ref.target_commit for ref in refs} for refs in (found.tags, found.branches))
        return Refs(tags, branches)

    def tags(self, repo: str) -> dict[str, str]:
        """Tag → commit."""
        return self.refs(repo).tags

    def branches(self, repo: str) -> dict[str, str]:
        """Branch → commit."""
        return self.refs(repo).branches

    def commits(self, repo: str, revision: str = "main") -> list[CommitInfo]:
        """The history of a branch, newest first."""
        found = self._read(lambda: list(self.api.list_repo_commits(repo, revision=revision)), repo, revision)
        return [CommitInfo(c.commit_id, c.title, c.created_at) for c in found]

    def dataset(self, repo: str, revision: str | None = None) -> str:
        """The commit of a dataset behind a branch, a tag or a short sha (default: main)."""
        found = self._read(lambda: self.api.dataset_info(repo, revision=revision, expand=["sha"]), repo, revision)
        return str(found.sha)

    def files(self, repo: str, revision: str, kind: Literal["model", "dataset"] = "model") -> dict[str, FileInfo]:
        """All files at a revision. Those at a commit, which cannot change, are asked for once in a process.

        That a commit is still there it therefore does not prove; whoever then reads a file of it is told.
        """

        def ask() -> dict[str, FileInfo]:
            tree = self.api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)
            return file_infos(self._read(lambda: list(tree), repo, revision))

        return self._trees.get((kind, repo, revision), ask) if COMMIT.fullmatch(revision) else ask()

    def read_text(self, repo: str, path: str, *, revision: str = "main", max_bytes: int = 20_000_000) -> str:
        """A small text file. Raises RepoMissing if it is not there, HubError if it is larger than `max_bytes`.

        A branch or tag is resolved first: offline, the client would answer with whatever it saw there last.
        """
        if not COMMIT.fullmatch(revision):
            revision = self.resolve(repo, revision)
        if not self.cached:
            return self._read_fresh(repo, path, revision, max_bytes)
        ask: Any = partial(self.api.hf_hub_download, cache_dir=self.cache_dir, dry_run=True)
        size = self._read(lambda: ask(repo, path, revision=revision).file_size, repo, revision, path)
        if size > max_bytes:
            raise HubError(f"{repo}/{path} has {size} bytes, more than the {max_bytes} expected of it")
        local = Path(self._read(lambda: self._download(repo, path, revision), repo, revision, path))
        return local.read_text(encoding="utf-8", errors="replace")

    def _read_fresh(self, repo: str, path: str, revision: str, max_bytes: int) -> str:
        found = self.files(repo, revision).get(path)
        if found is None:
            raise RepoMissing(f"{repo}/{path} is not on {self.endpoint} at {revision[:8]}")
        if found.size > max_bytes:
            raise HubError(f"{repo}/{path} has {found.size} bytes, more than the {max_bytes} expected of it")
        text = self.read_range(repo, path, revision, 0, found.size) if found.size else b""
        return text.decode("utf-8", errors="replace")

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

        A broken connection is taken up where it broke. Raises HubError if the server ignores ranges.
        """
        return self._ranges.fill(repo, path, revision, start, out)

    def is_cached(self, repo: str, path: str, commit: str) -> bool:
        """Whether a file at a commit lies in the cache, as far as a glance tells."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(repo, path, cache_dir=self.cache_dir, revision=commit), str)

    # writing -------------------------------------------------------------------------------------------------------

    def create_repo(self, repo: str, *, private: bool = False) -> None:
        """Make a model repository if it is not there."""
        self._calls.again(lambda: self.api.create_repo(repo, private=private, exist_ok=True), repo)

    def delete_repo(self, repo: str) -> None:
        """Remove a repository and everything in it."""
        self._calls.once(lambda: self.api.delete_repo(repo), repo)

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

        return self._calls.again(send, repo, branch, may=has_not_arrived, patience_s=math.inf)  # its upload takes long

    def tag(self, repo: str, tag: str, revision: str, message: str = "") -> None:
        """Tag a commit. The same tag on the same commit is fine; on another one it raises HubConflict."""
        try:
            self._calls.again(
                lambda: self.api.create_tag(repo, tag=tag, revision=revision, tag_message=message), repo, revision
            )
        except HubConflict:
            there = self.tags(repo).get(tag)
            if there != revision:
                raise HubConflict(f"tag {tag} of {repo} is on {there}, not on {revision}") from None

    def delete_tag(self, repo: str, tag: str) -> None:
        """Remove a tag if it is there."""
        try:
            self._calls.again(lambda: self.api.delete_tag(repo, tag=tag), repo, tag)
        except RepoMissing:
            return  # somebody else was first, or the answer of a first try was lost

    def create_branch(self, repo: str, branch: str) -> None:
        """Start a branch at main if it is not there."""
        self._calls.again(lambda: self.api.create_branch(repo, branch=branch, exist_ok=True), repo)

    def squash(self, repo: str, branch: str, message: str) -> None:
        """Make one commit of a branch's history; its files stay as they are."""
        self._calls.again(
            lambda: self.api.super_squash_history(repo, branch=branch, commit_message=message), repo, branch
        )

    # plumbing ------------------------------------------------------------------------------------------------------

    def _download(self, repo: str, path: str, revision: str, folder: Path | None = None) -> str:
        place: dict[str, Any] = {"local_dir": folder} if folder else {"cache_dir": self.cache_dir}
        return str(self.api.hf_hub_download(repo, path, revision=revision, **place))

    def _page(self, query: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """One page of a list of models, and the query of the next one; empty after the last."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        url = f"{self.endpoint}/api/models"
        answer = get_session().get(url, params=query, headers=self.api._build_hf_headers(), timeout=LIST_TIMEOUT_S)
        hf_raise_for_status(answer)
        items, onwards = answer.json(), answer.links.get("next", {}).get("url")
        if not isinstance(items, list) or not all(isinstance(i, dict) and isinstance(i.get("id"), str) for i in items):
            raise HubError(f"{url} answers with something that is no list of models")
        return items, parse_qs(urlsplit(onwards).query) if onwards else {}

    def _read(self, call: Callable[[], T], *what: str | None) -> T:
        """Call something that changes nothing."""
        return self._calls.again(call, *what)
