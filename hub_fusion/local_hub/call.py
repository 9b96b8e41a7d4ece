"""One request as the handlers see it, and the shapes their answers take.

A handler is a plain function `Call -> Response`, run in a thread; it raises `HubError` to refuse. `Route` says which
requests it gets and how their body arrives.
"""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Literal, NamedTuple
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hub_fusion.local_hub.errors import HubError, gated, repo_not_found
from hub_fusion.local_hub.store import KINDS, Repo, Store
from hub_fusion.local_hub.users import User, access_status, check_can_write, may_read_files, may_see

API_REPO = "/api/{kind:hub_kind}/{ns}/{name}"
SPACE_REPO = "/api/{kind:hub_spaces}/{ns}/{name}"
STORE = "hub_fusion.store"  # a key in the scope: the store that an injected fault shows instead of the present one
TAGS_UNTIL = "hub_fusion.tags_until"  # likewise: the time (ms) after which tags are not in the index yet
FILE_REPOS = ("/{ns}/{name}", "/{kind:hub_kind}/{ns}/{name}")


@dataclass
class Call:
    """A request after routing and authentication. `params` are the decoded parts of its path."""

    store: Store
    request: Request
    params: dict[str, str]
    user: User | None
    body: bytes = b""
    spool: IO[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """ "model", "dataset" or "space"."""
        return KINDS[self.params.get("kind", "models")]

    @property
    def full_name(self) -> str:
        """The repository named in the path."""
        return f"{self.params['ns']}/{self.params['name']}"

    @property
    def base(self) -> str:
        """The endpoint as this client addresses it, so that URLs in answers lead back here."""
        return f"{self.request.url.scheme}://{self.request.url.netloc}"

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; 400 if it is none, 422 if its texts are none."""
        try:
            parsed = json.loads(self.body or b"{}")
        except (ValueError, RecursionError):
            raise HubError(400, "The request body is not valid JSON.") from None
        if b"\\u" in self.body and _halves(parsed):
            raise HubError(422, "The request body has halves of characters, which are not valid text.")
        if not isinstance(parsed, dict):
            raise HubError(400, "The request body must be a JSON object.")
        return parsed

    def form(self) -> dict[str, list[str]]:
        """The body as a form; a JSON object is taken as well."""
        if self.request.headers.get("content-type", "").startswith("application/json"):
            return {k: [str(v) for v in (v if isinstance(v, list) else [v])] for k, v in self.json().items()}
        try:
            return parse_qs(self.body.decode("utf-8"), keep_blank_values=True, max_num_fields=100_000)
        except ValueError:
            raise HubError(400, "The request body is not a valid form.") from None

    def flag(self, name: str) -> bool:
        """Whether a query parameter is set to something true."""
        return self.request.query_params.get(name, "").lower() in ("1", "true", "yes")

    def values(self, name: str) -> list[str]:
        """A repeated query parameter, in both spellings (`name`, `name[]`)."""
        query = self.request.query_params
        return query.getlist(name) + query.getlist(f"{name}[]")

    def repo(self, con: sqlite3.Connection) -> Repo:
        """The repository of the path, if the caller may see it; RepoNotFound, or 307 to its new name."""
        repo = self.store.find_repo(con, self.kind, self.full_name)
        if repo is None:
            moved = self.store.find_renamed(con, self.kind, self.full_name)
            if moved is not None and may_see(self.user, moved):
                raise Moved(self._path_of(moved))
        if repo is None or not may_see(self.user, repo):
            raise repo_not_found()
        return repo

    def writable_repo(self, con: sqlite3.Connection) -> Repo:
        """The repository of the path, if the caller may change it."""
        repo = self.repo(con)
        check_can_write(con, self.user, repo)
        return repo

    def readable_repo(self, con: sqlite3.Connection) -> Repo:
        """The repository of the path, if the caller may read its files; GatedRepo."""
        repo = self.repo(con)
        if not may_read_files(con, self.user, repo):
            url = f"{self.base}/{repo.url_path}"
            asked = None if self.user is None else access_status(con, self.user, repo)
            raise gated(repo.kind, repo.full_name, url, authenticated=self.user is not None, asked=asked)
        return repo

    def _path_of(self, repo: Repo) -> str:
        path: str = self.request.scope["path"]
        raw = self.request.scope["path_params"]
        query: str = self.request.scope["query_string"].decode("latin-1")
        path = path.replace(f"/{raw['ns']}/{raw['name']}", f"/{repo.full_name}", 1)
        return path + (f"?{query}" if query else "")


def _halves(value: object) -> bool:
    """Whether a text in it has a lone surrogate, which neither the database nor a file name can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


class Moved(HubError):
    """The repository has another name now; a relative Location, so that clients keep their credentials."""

    def __init__(self, location: str) -> None:
        super().__init__(307, "Temporary redirect", headers={"Location": location})


class Route(NamedTuple):
    """Which requests a handler gets. Body: whole in memory, spooled to a file, or left to an async handler."""

    method: str
    path: str
    handler: Callable[[Call], Any]
    body: Literal["memory", "spool", "stream"] = "memory"
    limit: int = 16 * 2**20
    token: bool = True  # False: the Authorization header, if any, is not a user's token


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
    return Response(body, status, headers, media_type="application/json")


def error_response(error: HubError) -> Response:
    """The body and headers a client reads a refusal from."""
    headers = dict(error.headers)
    headers["X-Error-Message"] = "".join(c if " " <= c <= "~" else "?" for c in " ".join(error.message.split())[:1000])
    if error.code:
        headers["X-Error-Code"] = error.code
    return answer({"error": error.message, **error.body}, error.status, headers)


async def drain(request: Request) -> None:
    """Read what is left of the request's body, so that it is not taken for the next request."""
    try:
        async for _ in request.stream():
            pass
    except ClientDisconnect:
        pass


async def refuse(error: HubError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a refusal before anything has looked at the request."""
    await drain(Request(scope, receive))
    await error_response(error)(scope, receive, send)
