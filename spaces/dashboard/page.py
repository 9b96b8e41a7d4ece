"""The page: where its parts stand, and the one handler that fills them. Handlers read memory only."""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime
from pathlib import Path

import gradio as gr
from draw import TEMPLATES, Page, draw
from reader import Reader

STYLE = Path(__file__).with_name("style.css")
THEME = gr.themes.Default()
log = logging.getLogger("dashboard")


def build(reader: Reader) -> gr.Blocks:
    """The app over what `reader` knows. ``?gen=gen-N`` selects a generation."""

    def parts(wanted: str | None) -> tuple[str, ...]:
        page = drawn(reader, wanted)
        return page.head, page.snippet, page.chart, page.generation, page.attempts

    def show(request: gr.Request) -> tuple[str, ...]:
        return parts(request.query_params.get("gen"))

    head, snippet, chart, generation, attempts = parts(None)
    with gr.Blocks(
        title=reader.data.base or "hub_fusion", analytics_enabled=False, delete_cache=(86400, 86400)
    ) as demo:
        outputs = [
            html(head),
            gr.Code(snippet, language="python", label="Load it", interactive=False, buttons=["copy"], wrap_lines=True,
                    show_line_numbers=False),
            html(chart),
            html(generation),
            html(attempts),
        ]  # fmt: skip
        demo.load(show, None, outputs, show_progress="hidden", queue=False, api_visibility="private")
    return demo


def html(value: str) -> gr.HTML:
    """A block of HTML that is complete: gr.HTML puts it in as it is (see draw.py for why)."""
    return gr.HTML(value, js_on_load=None, elem_classes="fusion")


def drawn(reader: Reader, wanted: str | None) -> Page:
    """The page, or an apology with a number that leads to the log."""
    try:
        return draw(reader.data, wanted, datetime.now(UTC))
    except Exception:
        mark = secrets.token_hex(4)
        log.exception("page failed: %s", mark)
        sorry = f"This page could not be drawn. The Space's log says why under {mark}."
        head = TEMPLATES.get_template("head.html").render(
            base=reader.data.base, url="", strip=[{"kind": "warn", "text": sorry}], notice="", verdict="", withdrawn=""
        )
        return Page(head, "", "", "", "")
