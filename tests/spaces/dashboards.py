"""What the dashboard's tests share: a lineage as JSON, where it goes on a Hub, and a running dashboard."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

GOLDEN = Path(__file__).parents[1] / "golden" / "lineage" / "fusion"
BASE = "acme/roberta-fused"
NOW = datetime(2026, 11, 7, 14, 0, tzinfo=UTC)


@dataclass
class Files:
    """The JSON of a lineage, to be spoiled by tests."""

    index: dict[str, Any]
    records: dict[int, dict[str, Any]]
    status: dict[str, Any]

    def contents(self) -> dict[str, Any]:
        """Path in the base's repository → what is there."""
        records = {f"fusion/gen-{n}.json": record for n, record in self.records.items()}
        return {"fusion/index.json": self.index, "fusion/status.json": self.status} | records

    def write(self, folder: Path) -> Path:
        """As a snapshot, which goes through the same checks as what the Hub gives."""
        contents = self.contents() | {"snapshot.json": {"base": BASE, "read_at": NOW.isoformat()}}
        for path, content in contents.items():
            (file := folder / "snapshot" / path).parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content))
        return folder / "snapshot"


def read_golden() -> Files:
    """A fresh copy of the golden lineage."""
    read = {path.stem: json.loads(path.read_text()) for path in GOLDEN.glob("*.json")}
    return Files(read["index"], {n: read[f"gen-{n}"] for n in (1, 2, 3)}, read["status"])


def upload(api: HfApi, repo: str, files: Files) -> None:
    """Put a lineage where the watcher puts it."""
    api.create_repo(repo, exist_ok=True)
    api.create_branch(repo, branch="fusion-status", exist_ok=True)
    texts = {path: json.dumps(content).encode() for path, content in files.contents().items()}
    for branch in ("main", "fusion-status"):
        added = [CommitOperationAdd(path, text) for path, text in texts.items()
                 if path.endswith("status.json") is (branch != "main")]  # fmt: skip
        api.create_commit(repo, added, commit_message="A lineage", revision=branch)


@dataclass(frozen=True)
class Dashboard:
    """A running dashboard, and how long it took to answer."""

    url: str
    seconds: float

    def get(self, path: str) -> str:
        """The text at a path."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()


Start = Callable[..., AbstractContextManager[Dashboard]]
