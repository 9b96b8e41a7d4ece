"""JSON Schemas of what is published; ``python -m hub_fusion.records [FOLDER]`` writes them."""

from __future__ import annotations

import json
from pathlib import Path

from hub_fusion.records.attempt import Attempt, Generation
from hub_fusion.records.contribution import Contribution, Refusal
from hub_fusion.records.head import Head
from hub_fusion.records.index import Index
from hub_fusion.records.record import Record
from hub_fusion.records.status import Status

SCHEMAS: dict[str, type[Record]] = {
    "contribution": Contribution,
    "refusal": Refusal,
    "generation": Generation,
    "attempt": Attempt,
    "index": Index,
    "status": Status,
    "head": Head,
}


def write_schemas(folder: Path) -> None:
    """Write ``NAME.schema.json`` for every published record (JSON Schema draft 2020-12)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in SCHEMAS.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | record.model_json_schema()
        (folder / f"{name}.schema.json").write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n")
