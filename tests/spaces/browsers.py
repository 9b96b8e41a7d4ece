"""A real Chromium for the tests, wherever this machine has one, and what a visit with it noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from pages import PAGES as PAGES

NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 60_000  # for a busy machine
SHOWN = """page => {
  const shown = document.querySelector("#dashboard")
  const asked = performance.getEntriesByType("resource").some(e => e.name.includes("component_server") && e.responseEnd)
  return shown && asked && !document.querySelector(".busy") && (!page || shown.dataset.page === page)
}"""


def find_chromium() -> str | None:
    """What HUB_FUSION_CHROMIUM names, else the first of the usual names on the PATH."""
    if named := os.environ.get("HUB_FUSION_CHROMIUM"):
        return shutil.which(named)
    return next((path for path in map(shutil.which, NAMES) if path), None)


CHROMIUM = find_chromium()
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or name one in HUB_FUSION_CHROMIUM"
)


@dataclass
class Visit:
    """A tab of a browser at a dashboard, all that it asked for, and the errors of scripts."""

    tab: Any
    url: str
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Load an address and wait until what it asks for is shown."""
        self.tab.goto(self.url + path, timeout=WAIT_MS)
        self.settle()

    def settle(self, page: str = "") -> None:
        """Wait until nothing is on its way, and the page, if one is named, is shown."""
        self.tab.wait_for_function(SHOWN, arg=page, timeout=WAIT_MS)

    def turn_to(self, page: str) -> None:
        """Follow the link to a page in the navigation."""
        self.tab.locator(f"#nav-{page}").click()
        self.settle(page)

    def text(self, place: str = "#dashboard") -> str:
        """What can be read there."""
        return str(self.tab.inner_text(place))

    def check(self, where: object = "") -> None:
        """Nothing is wider than the window, the page has one heading, nobody else was asked, no script failed."""
        wide = self.tab.evaluate(
            """() => {
            const far = e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre, svg, nav")
            const out = [...document.querySelectorAll("#dashboard *")].filter(far).slice(0, 3)
            return [document.documentElement.scrollWidth, innerWidth, ...out.map(e => e.outerHTML.slice(0, 120))]
            }"""
        )
        assert wide[0] <= wide[1], (where, wide)
        assert self.tab.locator("h1").count() == 1, where
        assert {urlsplit(url).netloc for url in self.asked if "://" in url} == {urlsplit(self.url).netloc}, where
        assert not self.errors, where
        assert self.tab.evaluate("window.owned") is None, where


@contextmanager
def visiting(browser: Any, url: str, *, width: int = 1280, scheme: str = "light") -> Iterator[Visit]:
    """A visitor with an empty cache."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(WAIT_MS)
    visit = Visit(context.new_page(), url)
    visit.tab.on("request", lambda request: visit.asked.append(request.url))
    visit.tab.on("console", lambda said: "Security Policy" in said.text and visit.errors.append(said.text))
    visit.tab.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.tab.on("dialog", lambda dialog: (visit.errors.append(dialog.message), dialog.dismiss()))
    try:
        yield visit
    finally:
        context.close()
