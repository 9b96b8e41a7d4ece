"""Discussions of a model on the Hub: which are open, what was said, and saying something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from hub_fusion.hub.calls import Calls

if TYPE_CHECKING:
    from hub_fusion.hub.client import Hub

PAGE = 50  # discussions that one request gives


@dataclass(frozen=True)
class Thread:
    """An open discussion; its title is a stranger's text."""

    number: int
    title: str
    author: str


class Discussions:
    """Those of the models of a Hub. Methods raise what those of `Hub` raise."""

    def __init__(self, hub: Hub) -> None:
        self._api: Any = hub.api
        self._calls = Calls(hub.endpoint)

    def newest(self, repo: str) -> Sequence[Thread]:
        """The newest open discussions that are no pull requests, newest first, at most 50: one request."""

        def ask() -> list[Any]:
            found = self._api.get_repo_discussions(
                repo, discussion_type="discussion", discussion_status="open", repo_type="model"
            )
            return list(islice(found, PAGE))

        return [Thread(d.num, str(d.title), str(d.author)) for d in self._calls.again(ask, repo)]

    def said_by(self, repo: str, number: int, account: str) -> list[str]:
        """What an account said in a discussion, oldest first; hidden comments are left out."""
        details = self._calls.again(lambda: self._api.get_discussion_details(repo, number), repo)
        comments = [e for e in details.events if e.type == "comment" and e.author == account]
        return [str(comment.content) for comment in comments if not comment.hidden]

    def say(self, repo: str, number: int, text: str) -> None:
        """Comment. When no answer comes it is not sent again: the next look sees whether it has arrived."""
        self._calls.again(lambda: self._api.comment_discussion(repo, number, text), repo, may=lambda: False)

    def close(self, repo: str, number: int) -> None:
        """Close it; one that is closed stays so."""
        self._calls.again(lambda: self._api.change_discussion_status(repo, number, "closed"), repo)
