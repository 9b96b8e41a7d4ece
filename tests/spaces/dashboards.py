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

from huggingface_hub import HfApi

GOLDEN = Path(__file__).parents[1] / "golden" / "lineage" / "fusion"
BASE = "acme/roberta-fused"
NOW = datetime(2026, 11, 7, 14, 0, tzinfo=UTC)


@dataclass
class Files:
    """The JSON of a lineage, to be spoiled by tests."""

    index: dict[str, Any]
    records: dict[int, dict[str, Any]]
    status: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """As a snapshot, which goes through the same checks as what the Hub gives."""
        data = {"read_at": NOW.isoformat(), "index": self.index, "generations": self.records, "status": self.status}
        (path := folder / "snapshot.json").write_text(json.dumps(data))
        return path


def read_golden() -> Files:
    """A fresh copy of the golden lineage."""
    read = {path.stem: json.loads(path.read_text()) for path in GOLDEN.glob("*.json")}
    return Files(read["index"], {n: read[f"gen-{n}"] for n in (1, 2, 3)}, read["status"])


def upload(api: HfApi, repo: str, files: Files) -> None:
    """Put a lineage where the watcher puts it."""
    api.create_repo(repo)
    texts = {"fusion/index.json": files.index} | {f"fusion/gen-{n}.json": r for n, r in files.records.items()}
    for path, data in texts.items():
        api.upload_file(path_or_fileobj=json.dumps(data).encode(), path_in_repo=path, repo_id=repo)
    api.create_branch(repo, branch="fusion-status")
    status = json.dumps(files.status).encode()
    api.upload_file(path_or_fileobj=status, path_in_repo="fusion/status.json", repo_id=repo, revision="fusion-status")


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
