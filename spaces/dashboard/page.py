"""The app: one component that holds the page, and the one function that draws what a visitor asks for.

Handlers read memory only. What follows from one version of the data is made once (`View`), and a drawn page is kept for
the minute in which its times ("3 minutes ago") are true.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from pathlib import Path

import gradio as gr
from drawing import render
from pages import contributors, draw
from query import BRIEF, Query
from reader import Reader
from view import View

HERE = Path(__file__).parent
STYLE, SCRIPT = HERE / "style.css", HERE / "app.js"
KEPT = 60  # drawn pages; one of 200 generations takes half a megabyte
SANS = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))  # gradio's files of weight 600 hold no Latin letters
MONO = gr.themes.LocalFont("IBM Plex Mono", weights=(400,))
THEME = gr.themes.Base(
    primary_hue="blue", neutral_hue="slate", font=[SANS, "system-ui", "sans-serif"], font_mono=[MONO, "monospace"]
)
log = logging.getLogger("dashboard")


def build(reader: Reader) -> gr.Blocks:
    """The app over what `reader` knows."""
    pages = Pages(reader)

    def show(query: str = "") -> str:
        return pages.html(query)

    def save(asked: list[str]) -> str:
        return pages.saved(asked)

    with gr.Blocks(
        title=reader.data.base or "hub_fusion", analytics_enabled=False, delete_cache=(86400, 86400)
    ) as demo:
        gr.HTML(
            pages.first(), js_on_load=SCRIPT.read_text(), server_functions=[show, save], elem_id="fusion",
            apply_default_css=False,
        )  # fmt: skip
    return demo


class Pages:
    """Draws pages of what the reader knows at the time, and keeps them."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._view = View(reader.data)
        self._kept: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._lock = threading.Lock()

    def first(self) -> str:
        """What gradio's own answer holds: it is replaced as soon as the script asks, so it need not hold everything."""
        return self._drawn(BRIEF)

    def html(self, query: str) -> str:
        """The page at ``?query``, or an apology with a number that leads to the log."""
        return self._drawn(_parsed(query))

    def _drawn(self, asked: Query) -> str:
        now, view = datetime.now(UTC), self._current()
        key = (asked["brief"] + asked.link(asked["show"]), int(now.timestamp() // 60))
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        try:
            html = draw(view, asked, now)
        except Exception:
            mark = secrets.token_hex(4)
            log.exception("page failed: %s", mark)
            return render("sorry.html", base=view.data.base, mark=mark)
        with self._lock:
            if self._view is view:
                self._kept[key] = html
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return html

    def saved(self, asked: object) -> str:
        """Contributions as CSV or JSON: `asked` is the kind and the query whose filters hold."""
        kind, query = asked if isinstance(asked, list) and len(asked) == 2 else ("json", "")
        return contributors.saved(self._current(), _parsed(query), str(kind))

    def _current(self) -> View:
        """The view of the data as they are now; pages of older data are forgotten."""
        with self._lock:
            if self._view.data is not self._reader.data:
                self._view, self._kept = View(self._reader.data), OrderedDict()
            return self._view


def _parsed(query: object) -> Query:
    return Query.parse(query if isinstance(query, str) else "")
