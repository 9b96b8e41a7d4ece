"""Which process a command of the loop is: the keeper of the token, its worker, or a peer of that.

`run` and `watch` as a user starts them are keepers: they start the same command once more, as a worker that has no
token that may write, and carry out for it what changes the Hub.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hub_fusion.cli.output import say
from hub_fusion.keeper.tokens import SOCKET, hide_memory

if TYPE_CHECKING:
    from hub_fusion.deeds import Deeds
    from hub_fusion.hub import Hub
    from hub_fusion.recipe import Recipe

ONE_PROCESS = "HUB_FUSION_ONE_PROCESS"  # set: no worker, for a debugger; the token is then where contributions are read


def hide() -> None:
    """Before anything else: nobody but root reads the memory and environment of a process that may have a token."""
    if SOCKET not in os.environ and ONE_PROCESS not in os.environ:
        hide_memory()


def deeds_apart(recipe: Recipe, hub: Hub, work: Path) -> Deeds | None:
    """In a worker the deeds to ask for; None where they are done at once, or by rank 0. A keeper leaves here."""
    from hub_fusion.keeper.asked import Asked
    from hub_fusion.keeper.process import keep
    from hub_fusion.keeper.tokens import go_on_without

    if os.environ.get(ONE_PROCESS):
        return None
    mark, is_peer = os.environ.get(SOCKET), int(os.environ.get("RANK", "0")) != 0
    if mark is None and is_peer:
        go_on_without(hub.saved_token())
    if mark is None:
        raise typer.Exit(keep(recipe, hub, work, sys.argv[1:], say))
    return None if is_peer else Asked.inherited(int(mark))
