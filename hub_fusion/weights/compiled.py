"""Compiling inner loops, with a cache on the disk if there is any place for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled when it is called first, without the interpreter's lock.

    Numba keeps compiled code in NUMBA_CACHE_DIR, beside the source or in the user's cache. Where it may write to none
    of these the code is compiled anew by every process, which takes some seconds.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # "no locator available"
        return njit(nogil=True)(function)


@compiled
def _nothing():
    return 0


def load() -> None:
    """Have numba import what it needs to run compiled code (0.3 s), which it does when it is first called."""
    _nothing()
