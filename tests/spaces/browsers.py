"""A real Chromium for the tests, wherever this machine has one."""

from __future__ import annotations

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """What HUB_FUSION_CHROMIUM names, else the first of the usual names on the PATH."""
    if named := os.environ.get("HUB_FUSION_CHROMIUM"):
        return shutil.which(named)
    return next((path for path in map(shutil.which, NAMES) if path), None)


CHROMIUM = find_chromium()
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or name one in HUB_FUSION_CHROMIUM"
)
