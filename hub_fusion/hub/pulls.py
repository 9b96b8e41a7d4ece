"""Pull requests on a model repository: opening one with a commit, finding one's own, closing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub_fusion.hub.calls import Calls

if TYPE_CHECKING:
    from hub_fusion.hub.client import Hub, Operation


@dataclass(frozen=True)
class Pull:
    """An open pull request; `text` is its first comment, `clean` whether it can be merged as main is now."""

    number: int
    title: str
    text: str
    clean: bool


class Pulls:
    """The pull requests of one repository. Methods raise what those of `Hub` raise."""

    def __init__(self, hub: Hub, repo: str) -> None:
        self._api: Any = hub.api
        self._hub, self._calls, self.repo = hub, Calls(hub.endpoint), repo

    def propose(self, operations: Sequence[Operation], title: str, text: str, parent: str) -> int:
        """One commit on a pull request of its own; gives its number.

        Never sent twice, or there would be two: where no answer came, the next look finds it, if it is there.
        """
        done = self._calls.again(
            lambda: self._api.create_commit(self.repo, list(operations), commit_message=title, commit_description=text,
                                            parent_commit=parent, create_pr=True),
            self.repo, may=lambda: False,
        )  # fmt: skip
        return int(done.pr_num)

    def own(self) -> list[Pull]:
        """The open ones of the token's account, oldest first; nobody else's, whatever they are called."""
        account = self._hub.account()
        listed = self._calls.again(lambda: list(self._api.get_repo_discussions(self.repo, author=account,
                                                                               discussion_type="pull_request",
                                                                               discussion_status="open")))  # fmt: skip
        return [self._look(found) for found in sorted(listed, key=lambda d: d.num) if found.author == account]

    def close(self, number: int, why: str) -> None:
        """Close one, with a comment."""
        self._calls.again(
            lambda: self._api.change_discussion_status(self.repo, number, new_status="closed", comment=why), self.repo
        )

    def _look(self, found: Any) -> Pull:
        details = self._calls.again(lambda: self._api.get_discussion_details(self.repo, found.num), self.repo)
        texts = [event.content for event in details.events if event.type == "comment"]
        return Pull(found.num, found.title, texts[0] if texts else "", not details.conflicting_files)
