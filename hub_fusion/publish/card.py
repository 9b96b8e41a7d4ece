"""The model card of a generation: README.md of the base, rendered from its record and the lineage.

``python -m hub_fusion.publish.card [LINEAGE] [OUT]`` renders the newest generation of a folder with ``fusion/*.json``;
without arguments it rewrites the example in model_cards/.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from hub_fusion.publish.card_sections import Facts
from hub_fusion.publish.front_matter import card_data
from hub_fusion.publish.markdown import HUB
from hub_fusion.records import Generation, Index

PACKAGE = Path(__file__).resolve().parents[1]
TEMPLATES = next(p for p in (PACKAGE / "model_cards", PACKAGE.parent / "model_cards") if p.is_dir())
NOTES = re.compile(r"^<!-- hub_fusion:notes:start -->\n(.*?)^<!-- hub_fusion:notes:end -->", re.MULTILINE | re.DOTALL)


def render_card(
    record: Generation,
    index: Index,
    *,
    license: str | None,
    front: dict[str, Any] | None = None,
    previous: str | None = None,
    endpoint_url: str | None = None,
) -> str:
    """The text of README.md for `record`, front matter included.

    `index` may hold the record already or not; later generations in it are not shown. `front` is the present card's
    metadata and may hold anything. `previous` is the present README: its notes block is carried over. Links lead to
    `endpoint_url` (default: huggingface.co).
    """
    from huggingface_hub import ModelCard

    data = card_data(record, license, front)
    facts = Facts(record, index, endpoint_url or HUB, data.pipeline_tag)
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATES / "base.md.jinja"),
        notes=notes_of(previous),
        license=facts.license(license),
        **facts.sections(),
    )
    return str(card).rstrip("\n") + "\n"


def notes_of(readme: str | None) -> str:
    """The maintainer's block of a card, without its markers; "" where there is none."""
    found = NOTES.search((readme or "").replace("\r\n", "\n"))
    return found[1].strip("\n") if found else ""


def example(folder: Path) -> str:
    """The card of the newest generation in a folder that holds ``fusion/index.json``. Raises RecordError, OSError."""
    index = Index.from_json((folder / "fusion/index.json").read_text(encoding="utf-8"), source=str(folder))
    assert index.newest is not None
    path = folder / f"fusion/{index.newest.tag}.json"
    record = Generation.from_json(path.read_text(encoding="utf-8"), source=str(path))
    front = {"pipeline_tag": "fill-mask", "language": ["en"], "tags": ["roberta", "gen-2"]}
    return render_card(record, index, license="mit", front=front)


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    lineage = arguments[0] if arguments else PACKAGE.parent / "tests" / "golden" / "lineage"
    target = arguments[1] if len(arguments) > 1 else TEMPLATES / "example.md"
    target.write_text(example(lineage), encoding="utf-8")
