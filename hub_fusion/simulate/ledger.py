"""What a simulation has done: one JSON object a line in ``scores.jsonl``, and the answers behind the scores.

A step is its key, the fields that `KEYS` names; a line is written when what it tells of is on disk. A line torn by a
kill is cut off at the next start. Two processes may share a folder if they do different kinds of steps.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hub_fusion.errors import RecordError
from hub_fusion.evaluate.scores import Key

KEYS = ("step", "model", "generation", "task", "role", "protocol", "seed")


class Ledger:
    """The lines of ``folder/scores.jsonl`` and the arrays in ``folder/answers``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / "scores.jsonl"
        self.lines: list[dict[str, Any]] = []
        self._done: set[tuple[Any, ...]] = set()
        self._size = 0
        self._mend()
        self.refresh()

    def refresh(self) -> None:
        """Take up what another process has written meanwhile."""
        if not self.file.exists():
            return
        with self.file.open("rb") as lines:
            lines.seek(self._size)
            whole = lines.read().rpartition(b"\n")
        for line in whole[0].splitlines():
            try:
                entry = json.loads(line)
                self._done.add(_key(entry))
            except (ValueError, TypeError, AttributeError) as error:
                raise RecordError(f"{self.file} is not JSON lines: {line[:80]!r}: {error}; remove that line") from None
            self.lines.append(entry)
        self._size += len(whole[0]) + len(whole[1])

    def done(self, **key: Any) -> bool:
        """Whether the step with this key has been carried out."""
        return _key(key) in self._done

    def write(self, **entry: Any) -> None:
        """Append a line, flushed to disk."""
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        with self.file.open("ab") as lines:
            lines.write(text.encode())
            lines.flush()
            os.fsync(lines.fileno())
        self.refresh()

    def keep(self, model: str, task: str, role: str, protocol: str, seed: int, correct: np.ndarray[Any, Any]) -> None:
        """Store which test examples were answered rightly, (examples,) of 0 and 1."""
        file = self._answers(model, task, role, protocol, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            np.save(part, correct.astype(np.uint8))
        Path(part.name).replace(file)

    def answers(self, model: str, role: str, protocol: str) -> dict[Key, np.ndarray[Any, Any]]:
        """Per task (seeds, examples) uint8 of everything measured on `model`; the seeds that all of them have."""
        found: dict[str, dict[int, Path]] = {}
        for line in self.lines:
            if [line.get(n) for n in ("step", "model", "role", "protocol")] == ["measure", model, role, protocol]:
                file = self._answers(model, line["task"], role, protocol, line["seed"])
                found.setdefault(line["task"], {})[line["seed"]] = file
        seeds = set.intersection(*map(set, found.values())) if found else set()
        return {
            (task, role, protocol): np.stack([np.load(files[s], allow_pickle=False) for s in sorted(seeds)])  # type: ignore[misc]
            for task, files in sorted(found.items())
            if seeds
        }

    def _answers(self, model: str, task: str, role: str, protocol: str, seed: int) -> Path:
        return self.folder / "answers" / model / f"{protocol}-{role}-{task}-{seed}.npy"

    def _mend(self) -> None:
        if self.file.exists() and not self.file.read_bytes().endswith(b"\n"):
            whole = self.file.read_bytes().rpartition(b"\n")
            with self.file.open("r+b") as lines:
                lines.truncate(len(whole[0]) + len(whole[1]))


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(name) for name in KEYS)
