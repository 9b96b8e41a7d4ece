"""The only part that calls the Hub: `Hub` wraps one client and speaks in hub_fusion's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_fusion.hub.client import Hub
from hub_fusion.hub.discussions import Discussions, Thread
from hub_fusion.hub.facts import CommitInfo, FileInfo
from hub_fusion.hub.spaces import SpaceInfo, Spaces

if TYPE_CHECKING:
    from hub_fusion.hub.client import Operation as Operation

__all__ = ["CommitInfo", "Discussions", "FileInfo", "Hub", "SpaceInfo", "Spaces", "Thread"]
