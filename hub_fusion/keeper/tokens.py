"""What a worker must not see: its keeper's tokens, in the environment, in files that the client reads, in memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

READ_TOKEN = "HUB_FUSION_READ_TOKEN"  # noqa: S105 - the name of an environment variable
SOCKET = "HUB_FUSION_KEEPER"  # in a worker's environment: the number of its end of the socket; "peer" in its peers'
NAMES = frozenset({  # from which the client, or what is used with it, takes tokens
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "HUGGINGFACE_TOKEN",
    "HF_API_TOKEN", "HF_ACCESS_TOKEN", "HF_OIDC_RESOURCE", "HF_OIDC_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_URL", "OAUTH_CLIENT_SECRET", "HF_TOKEN_PATH", READ_TOKEN,
})  # fmt: skip
NOWHERE = "/nonexistent/token"
PR_SET_DUMPABLE = 4
SHORTEST = 8  # what is shorter is no token, and may be in any value


def without_tokens(environment: Mapping[str, str], token: str | None) -> dict[str, str]:
    """An environment in which the client finds no token but the one for reading, if the user gives one.

    Variables of any name whose value has `token` in it go too.
    """
    found = {name: value for name, value in environment.items()
             if name not in NAMES and not (token and len(token) >= SHORTEST and token in value)}  # fmt: skip
    given = environment.get(READ_TOKEN, "").strip()
    only = {"HF_TOKEN": given} if given else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    return found | only | {"HF_TOKEN_PATH": NOWHERE}


def hide_memory() -> None:
    """Let no other process of this user read this one's memory and environment (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def go_on_without(token: str | None) -> None:
    """Go on as the same program, as a peer of a worker, with no token that may write."""
    clean = without_tokens(os.environ, token) | {SOCKET: "peer"}
    os.execve(sys.executable, command(sys.argv[1:]), clean)  # noqa: S606


def command(arguments: Sequence[str]) -> list[str]:
    """What starts ``hub-fusion ARGUMENTS``, with modules from the current folder only where they are taken from now."""
    safe = [] if {"", str(Path.cwd())} & set(sys.path) else ["-P"]
    return [sys.executable, *safe, "-m", "hub_fusion", *arguments]
