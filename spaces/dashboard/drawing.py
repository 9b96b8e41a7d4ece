"""The templates, and the one way in which data get into them: on the server, escaped.

gr.HTML gets the finished page as its value. Data must not reach it through its own `{{ }}` templates: what they produce
is evaluated once more, as a JavaScript template literal, so that ``${alert(1)}`` in a contributor's text would run
(gradio 6.31).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import words
from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
for name in (
    "percent",
    "signed",
    "nats",
    "protocol_words",
    "span",
    "count",
    "day",
    "moment",
    "decimal",
    "license_class",
    "full_name",
    "shortened",
):
    TEMPLATES.filters[name] = getattr(words, name)
TEMPLATES.filters["ident"] = id
TEMPLATES.globals.update(marks=words.STATUS_MARKS, status_words=words.STATUS_WORDS, classes=words.LICENSE_CLASSES)


def render(template: str, **values: Any) -> str:
    """A template filled with values, every one of them escaped."""
    return TEMPLATES.get_template(template).render(values)
