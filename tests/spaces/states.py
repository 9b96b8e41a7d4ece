"""What a lineage can look like: a name for each state, and the files that make it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dashboards import Files, read_golden

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "dashboard" / "lineages.py"
HOSTILE = (
    "<img src=x onerror=window.owned=1>",
    "<script>window.owned=1</script>",
    '"><svg onload=window.owned=1>',
    "' autofocus onfocus=window.owned=1 x='",
    "${window.owned=1}",
    "`${window.owned=1}`",
    "{{constructor.constructor('window.owned=1')()}}",
    "\\x3cimg src\\x3dx onerror\\x3dwindow.owned\\x3d1\\x3e",
    "\\u003cimg src=x onerror=window.owned=1\\u003e",
    "&lt;img src=x onerror=window.owned=1&gt;",
    "javascript:window.owned=1",
    "[x](javascript:window.owned=1)",
    "![x](http://127.0.0.1:9/pixel.png)",
    "<iframe srcdoc='<script>parent.owned=1</script>'>",
    "</textarea></title></style></script><img src=x onerror=window.owned=1>",
    "<a href='//127.0.0.1:9/'>x</a><style>*{background:url(//127.0.0.1:9/)}</style>",
    "{% raw %}{{ 7*7 }}{{#if 1}}{{{@root}}}",
    "\u202e\u0007\x1b[31mred",
)


def fresh(files: Files) -> Files:
    """With a watcher that was here a minute ago."""
    files.status["heartbeat"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    return files


def golden() -> Files:
    """The golden lineage, its watcher alive."""
    return fresh(read_golden())


def cut(entries: int) -> Files:
    """The first entries of the index, with the records that belong to them."""
    files = golden()
    files.index["entries"] = files.index["entries"][:entries]
    kept = {entry["generation"] for entry in files.index["entries"]}
    files.records = {n: record for n, record in files.records.items() if n in kept}
    files.status |= {"rejected": [], "queue": files.status["queue"][:1]}
    return files


def rejected() -> Files:
    """gen-0 and attempts that the gate rejected."""
    files = golden()
    files.index["entries"] = [e for e in files.index["entries"] if e["status"] in ("root", "rejected")]
    files.index["entries"][1]["parent_generation"] = 0
    files.records = {}
    files.status["rejected"][0]["parent_generation"] = 0
    return files


def malformed() -> Files:
    """gen-1's record is of a newer schema, gen-2's entry has impossible scores, gen-3's record bad rows and tables."""
    files = golden()
    files.records[1]["schema_version"] = 2
    files.index["entries"][2]["scores"][0]["mean"] = 76.84
    files.records[3]["contributions"][0] = 5
    files.records[3]["refusals"][0]["repo"] = None
    files.records[3]["analysis"] = {"contributions": ["x"], "cosines": [[5, 5]]}
    files.status["rejected"] = [7]
    return files


def newer() -> Files:
    """An index that needs a newer dashboard."""
    files = golden()
    files.index["schema_version"] = 2
    return files


def stale() -> Files:
    """The watcher was last seen weeks ago, with an error, and told that a fused contribution is gone."""
    files = read_golden()
    return Files(
        files.index,
        files.records,
        files.status
        | {
            "last_error": "the disk is full",
            "later": [
                {
                    "repo": "ann/finetune",
                    "sha": "a" * 40,
                    "generation": 1,
                    "code": "gone",
                    "reason": "Its repository is gone, or private. <img src=x onerror=alert(1)>",
                },
                {"repo": 7},
            ],
        },
    )


def yanked() -> Files:
    """The newest generation was withdrawn."""
    files = golden()
    files.index["entries"][-1]["status"] = "yanked"
    withdrawn = {"reason": "a data leak", "at": "2026-11-08T00:00:00Z", "to_generation": 2}
    files.records[3] |= {"status": "yanked", "withdrawn": withdrawn}
    return files


def hostile() -> Files:
    """Strangers' code in every text of the records, one after another; keys too. What must be well-formed is left."""
    files = analysed(golden())
    place = 0

    def spoil(value: Any, key: str = "") -> Any:
        nonlocal place
        if isinstance(value, dict):
            strange = key in ("contributors", "drift", "versions", "left_out")
            return {(f"{name} {HOSTILE[n % len(HOSTILE)]}" if strange else name): spoil(item, name)
                    for n, (name, item) in enumerate(value.items())}  # fmt: skip
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        formed = key in ("status", "created_at", "revision", "sha", "heartbeat", "since", "id", "suite", "at", "kind")
        if not isinstance(value, str) or formed:
            return value
        place += 1
        return HOSTILE[place % len(HOSTILE)] if key not in ("role", "protocol", "task") else f"{value} {HOSTILE[1]}"

    records = {number: spoil(record) for number, record in files.records.items()}
    return Files(spoil(files.index), records, spoil(files.status))


def analysed(files: Files) -> Files:
    """With the tables of an analysis and measurements of who was left out in the newest record."""
    record = files.records[3]
    keys = [f"{c['repo']}@{c['sha']}" for c in record["contributions"]]
    table = [[1.0 if a == b else round(0.1 * (len(a) + len(b)) % 1 - 0.3, 3) for b in keys] for a in keys]
    record["analysis"] |= {
        "contributions": keys, "cosines": table, "opposed": table, "spectrum": [1 / len(keys)] * len(keys),
        "directions": 5.5, "drift": {f"encoder.layer.{n}": 0.001 * (n + 1) for n in range(12)},
    }  # fmt: skip
    change = {"mean": 0.004, "low": -0.002, "high": 0.01}
    trial = {"members": 6, "step": 1.0, "candidate": 0.74, "change": change, "accepted": True}
    steps = [{**trial, "kind": "step", "contribution": None, "step": step} for step in (1.0, 0.5, 0.25)]
    record["verdict"]["trials"] = steps + [{**trial, "kind": "without", "contribution": key} for key in keys]
    return files


def big() -> Files:
    """200 generations with 50 contributions each."""
    spec = importlib.util.spec_from_file_location("lineages", SCRIPT)
    assert spec and spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    texts = {path: json.loads(text) for path, text in module.lineage(200, 50)}
    records = {n: texts[f"fusion/gen-{n}.json"] for n in range(1, 201)}
    return Files(texts["fusion/index.json"], records, texts["fusion/status.json"])


STATES: dict[str, Callable[[], Files]] = {
    "golden": lambda: analysed(golden()), "root": lambda: cut(1), "one": lambda: cut(2), "rejected": rejected,
    "malformed": malformed, "newer": newer, "stale": stale, "yanked": yanked, "hostile": hostile, "big": big,
}  # fmt: skip
