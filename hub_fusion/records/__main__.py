"""``python -m hub_fusion.records [FOLDER]``: write the JSON Schemas (default: hub_fusion/schemas)."""

import sys
from pathlib import Path

from hub_fusion.records.schemas import write_schemas

write_schemas(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "schemas")
