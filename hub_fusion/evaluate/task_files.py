"""Files of a task → examples: ``.npz``, ``.csv`` or ``.parquet``; plain text: ``.txt`` or ``.parquet``.

``.npz`` holds images: ``pixel_values`` float32 (n, channels, height, width), already normalised as the base expects,
and ``label`` int64 (n,). ``.csv`` and ``.parquet`` have the columns ``text``, optionally ``text_pair``, and ``label``,
whole numbers from 0; a Parquet file's metadata may name the labels (the key ``label_names``, a JSON list, or the
features that the datasets library writes). A Parquet file whose only column is ``text`` holds plain text, as does a
``.txt`` file, all of which is one text. Nothing is unpickled.
"""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hub_fusion.errors import RecipeError

SUFFIXES = (".npz", ".csv", ".parquet", ".txt")
MOST_BYTES = 100 * 2**20  # of plain text


@dataclass(frozen=True, eq=False)
class Examples:
    """`inputs` (n, channels, height, width) float32, or (n, 1 or 2) str; `labels` (n,) int64."""

    inputs: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    names: tuple[str, ...] = ()  # of the labels, where the file says them
    labelled: bool = True  # plain text is not, and its labels are all 0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray[Any, Any]) -> Examples:
        """The examples at `rows`, in that order."""
        return Examples(self.inputs[rows], self.labels[rows], self.names, self.labelled)


def read_examples(file: Path) -> Examples:
    """The examples in `file`, at least one. Raises RecipeError that names file, broken law and remedy."""
    read = {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet, ".txt": _read_text}[file.suffix]
    try:
        examples = read(file)
    except (OSError, EOFError, zipfile.BadZipFile, csv.Error, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{file}: cannot be read as a task file: {error}; write it anew") from None
    if not len(examples):
        raise RecipeError(f"{file}: holds no example; a part of a task needs some, or remove the file")
    if int(examples.labels.min()) < 0:
        raise RecipeError(
            f"{file}: labels are 0, 1, 2 …, found {int(examples.labels.min())}; renumber them, and if it is −1 for "
            "hidden labels of a test set, use a part whose labels are published"
        )
    return examples


def _read_npz(file: Path) -> Examples:
    with np.load(file, allow_pickle=False) as arrays:
        pixels, labels = arrays["pixel_values"], arrays["label"]
    if pixels.ndim != 4 or pixels.dtype != np.float32 or not np.isfinite(pixels).all():
        raise ValueError(
            f"pixel_values must be finite float32 (n, channels, height, width), not {pixels.dtype} {pixels.shape}"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"label must be whole numbers ({len(pixels)},), not {labels.dtype} {labels.shape}")
    return Examples(pixels, labels.astype(np.int64))


def _read_csv(file: Path) -> Examples:
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        columns = [c for c in ("text", "text_pair") if c in (reader.fieldnames or ())]
        if columns[:1] != ["text"] or "label" not in (reader.fieldnames or ()):
            raise ValueError(f"columns must be text, perhaps text_pair, and label; there are {reader.fieldnames}")
        rows = list(reader)
    torn = [number for number, row in enumerate(rows, 2) if None in row or None in row.values()]
    if torn:
        raise ValueError(f"row {torn[0]} does not have one value per column")
    texts = np.array([[row[c] for c in columns] for row in rows], dtype=object).reshape(len(rows), len(columns))
    return Examples(texts, np.array([int(row["label"]) for row in rows], dtype=np.int64))


def _read_parquet(file: Path) -> Examples:
    from pyarrow import parquet

    table = parquet.read_table(file)
    if table.column_names == ["text"]:
        return _plain(table.column("text").to_pylist())
    columns = [c for c in ("text", "text_pair") if c in table.column_names]
    if columns[:1] != ["text"] or "label" not in table.column_names:
        raise ValueError(f"columns must be text, perhaps text_pair, and label; there are {table.column_names}")
    if empty := [c for c in (*columns, "label") if table.column(c).null_count]:
        raise ValueError(f"every example has a text and a label; there are empty ones in {', '.join(empty)}")
    texts = np.array([table.column(c).to_pylist() for c in columns], dtype=object).reshape(len(columns), -1).T
    labels = table.column("label").to_numpy()
    if labels.dtype.kind not in "iu" or not all(isinstance(text, str) for text in texts.flat):
        raise ValueError(f"texts must be strings and labels whole numbers, not {table.schema.types}")
    return Examples(texts, labels.astype(np.int64), _label_names(table.schema.metadata or {}))


def _read_text(file: Path) -> Examples:
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has {file.stat().st_size} bytes, more than {MOST_BYTES}; a part of it tells as much")
    return _plain([file.read_text(encoding="utf-8")])


def _plain(texts: list[Any]) -> Examples:
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("every row of the column text is a string")
    inputs = np.array([[text] for text in texts], dtype=object).reshape(len(texts), 1)
    return Examples(inputs, np.zeros(len(texts), dtype=np.int64), labelled=False)


def _label_names(metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """Names of the labels from a schema's metadata, none if it does not say them."""
    names = json.loads(metadata.get(b"label_names", b"[]"))
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return tuple(map(str, names or features.get("label", {}).get("names", ())))
