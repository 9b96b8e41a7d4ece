"""Refusals the server answers with: one exception that knows its status, its code and its words.

The client tells a missing repository from a missing file by the ``X-Error-Code`` header alone, so each kind has a
constructor here and handlers never spell a code.
"""

from typing import Any


class HubError(Exception):
    """An answer other than success: HTTP status, sentence, the Hub's code if any, extra headers and body keys."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers or {}
        self.body = body or {}


def repo_not_found() -> HubError:
    """The repository does not exist, or the caller may not know that it does: the same answer on purpose."""
    return HubError(404, "Repository not found", code="RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    """No branch, tag or commit of this name."""
    return HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, revision: str, commit: str | None = None) -> HubError:
    """No such file; with the commit it was looked for in, the client remembers the miss."""
    headers = {"X-Repo-Commit": commit} if commit else None
    return HubError(404, f'{path} does not exist on "{revision}"', code="EntryNotFound", headers=headers)


def gated(kind: str, repo_id: str, url: str, *, authenticated: bool, asked: str | None) -> HubError:
    """The files of a gated repository were asked for by someone who was not let in, but may have `asked`."""
    if not authenticated:
        why = f"Access to {kind} {repo_id} is restricted: authenticate and ask for access at {url}."
    elif asked == "pending":
        why = f"Your request to access {kind} {repo_id} is awaiting a review by its owners."
    elif asked == "rejected":
        why = f"Your request to access {kind} {repo_id} has been rejected by its owners."
    elif asked == "accepted":
        why = f"Access to {kind} {repo_id} is restricted: this token may not read gated repositories."
    else:
        why = f"Access to {kind} {repo_id} is restricted and you are not in the authorized list: ask at {url}."
    return HubError(403 if authenticated else 401, why, code="GatedRepo")


def bad_credentials() -> HubError:
    """A token was sent that nobody was given."""
    return HubError(401, "Invalid credentials in Authorization header")


def sign_in_first() -> HubError:
    """No token where one is needed. The code makes clients answer over http as they do over https."""
    return HubError(401, "Invalid username or password.", code="RepoNotFound")
