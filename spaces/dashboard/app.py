"""The dashboard: what one base on the Hub has become, read only. Settings are in README.md.

Addresses and names that do not change: ``?show=NAME`` (a key of pages.PAGES; none: the overview) and ``?gen=gen-N`` on
every page; the frame ``#dashboard`` with data-page, links ``#nav-NAME``, one ``h1``, the amber strip ``ul.strip``,
notices ``p.notice``; marks of charts are ``svg a.mark`` (one is in the tab order, arrow keys move, Enter selects) and
``svg g.mark.rejected``; ``button[data-copy=ID]`` copies ``pre#ID`` (``load``), ``button[data-save=csv|json]`` saves;
``form[data-filters]`` holds a page's selects and search fields, whose ids are their names in the address.
"""

from __future__ import annotations

import os
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from headers import Headers
from page import STYLE, THEME, build
from reader import Reader
from starlette.middleware import Middleware


def serve(reader: Reader, **options: Any) -> Any:
    """Serve what `reader` knows, and have it look at the Hub from now on; `options` are those of gradio's launch."""
    reader.start()
    if reader.data.read_at is None:  # no snapshot: the page is built with data where the Hub is quick
        reader.first.wait(3)
    demo = build(reader)
    demo.queue(default_concurrency_limit=20, max_size=200)
    demo.launch(
        theme=THEME, css_paths=[STYLE], ssr_mode=False, run_history=False, enable_monitoring=False,
        footer_links=["gradio", "settings"], max_file_size="1b", show_error=False, pwa=False, mcp_server=False,
        state_session_capacity=500, app_kwargs={"middleware": [Middleware(Headers)]}, **options,
    )  # fmt: skip
    return demo


if __name__ == "__main__":
    serve(Reader.from_environment())
