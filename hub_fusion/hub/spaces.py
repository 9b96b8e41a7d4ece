"""Spaces on the Hub: their files, their variables, and who may see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hub_fusion.errors import RepoMissing
from hub_fusion.hub.calls import Calls
from hub_fusion.hub.facts import FileInfo, file_infos

if TYPE_CHECKING:
    from hub_fusion.hub.client import Hub, Operation


@dataclass(frozen=True)
class SpaceInfo:
    """A Space as it is; `tags` are those of its card."""

    private: bool
    sha: str
    tags: tuple[str, ...]
    files: dict[str, FileInfo]


class Spaces:
    """The Spaces of a Hub that the token may see. Methods raise what those of `Hub` raise."""

    def __init__(self, hub: Hub) -> None:
        self._api: Any = hub.api
        self._calls = Calls(hub.endpoint)

    def look(self, space: str) -> SpaceInfo | None:
        """What there is, or None."""
        try:
            info = self._calls.again(lambda: self._api.space_info(space), space)
            tree = self._calls.again(lambda: list(self._api.list_repo_tree(space, recursive=True, revision=info.sha,
                                                                           repo_type="space")), space)  # fmt: skip
        except RepoMissing:
            return None
        return SpaceInfo(bool(info.private), str(info.sha), tuple(info.tags or ()), file_infos(tree))

    def create(self, space: str, *, private: bool) -> None:
        """Make a Gradio Space if it is not there."""
        self._calls.again(
            lambda: self._api.create_repo(
                space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True
            ),
            space,
        )  # fmt: skip

    def variables(self, space: str) -> dict[str, str]:
        """Name → value; anybody who sees the Space sees them."""
        found = self._calls.again(lambda: self._api.get_space_variables(space), space)
        return {name: variable.value for name, variable in found.items()}

    def set_variable(self, space: str, name: str, value: str) -> None:
        """Set a variable, which restarts the Space."""
        self._calls.again(lambda: self._api.add_space_variable(space, name, value), space)

    def commit(self, space: str, operations: Sequence[Operation], message: str, parent: str | None) -> str:
        """One commit on main; gives its sha. Raises HubConflict if main is no longer at `parent`."""

        def send() -> str:
            done = self._api.create_commit(
                space, list(operations), commit_message=message, repo_type="space", parent_commit=parent
            )
            return str(done.oid)

        return self._calls.once(send, space)
