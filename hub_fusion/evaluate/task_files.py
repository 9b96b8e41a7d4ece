"""Files of a task → examples: ``.npz``, ``.csv`` or ``.parquet``; plain text: ``.txt`` or ``.parquet``.

``.npz`` holds images: ``pixel_values`` float32 (n, channels, height, width), already normalised as the base expects,
and ``label`` int64 (n,). ``.csv`` and ``.parquet`` have the columns ``text``, optionally ``text_pair``, and ``label``
(or what the task's `columns` call them), ``.parquet`` also ``image`` (see task_images.py) in the place of texts. Labels
are words or whole numbers, which task_labels.py makes 0 … k−1. A Parquet file's metadata may name the numbers (the key
``label_names``, a JSON list, or the features that the datasets library writes). A Parquet file whose only column is
``text`` holds plain text, as does a ``.txt`` file, all of which is one text. Nothing is unpickled. A file has at most
`MOST_FILE_BYTES` and `MOST_ROWS`, plain text `MOST_BYTES`.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.recipe import Column, Part

if TYPE_CHECKING:
    import pyarrow

PARTS: dict[Part, tuple[str, ...]] = {"train": ("train",), "gate": ("gate", "validation"), "report": ("report", "test")}
SUFFIXES = (".npz", ".csv", ".parquet", ".txt")
MOST_BYTES = 100 * 2**20  # of plain text
MOST_FILE_BYTES = 2 * 2**30
MOST_ROWS = 1_000_000
Columns = Mapping[Column, str]


@dataclass(frozen=True, eq=False)
class Examples:
    """`inputs` (n, channels, height, width) float32, (n, 1 or 2) str, or (n, 1) bytes of images; `labels` (n,) int64.

    As they come from a table, labels may also be words, (n,) str.
    """

    inputs: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    names: tuple[str, ...] = ()  # of the labels, where the file says them
    labelled: bool = True  # plain text is not, and its labels are all 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def form(self) -> str:
        """What an input is: text, image (a file's bytes), or an array's dtype."""
        if self.inputs.dtype != object:
            return str(self.inputs.dtype)
        return "image" if isinstance(self.inputs.flat[0], bytes) else "text"

    def take(self, rows: np.ndarray[Any, Any]) -> Examples:
        """The examples at `rows`, in that order."""
        return Examples(self.inputs[rows], self.labels[rows], self.names, self.labelled)


@dataclass(frozen=True)
class Source:
    """Where a part of a task comes from: what it is called in errors, whether it is plain text, and how to read it."""

    where: str
    is_plain: Callable[[], bool]
    read: Callable[[], Examples]


def read_examples(file: Path, columns: Columns | None = None, *, where: str | None = None) -> Examples:
    """The examples in `file`, at least one. Raises RecipeError that names file (or `where`), broken law and remedy."""
    read: Callable[[Path, Columns], Examples] = {
        ".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet, ".txt": _read_text,
    }[file.suffix]  # fmt: skip

    def checked() -> Examples:
        if file.stat().st_size > MOST_FILE_BYTES:
            raise ValueError(f"it has more than {MOST_FILE_BYTES} bytes; a part of it tells as much")
        if columns and file.suffix in (".npz", ".txt"):
            raise ValueError(f"columns are named of .csv and .parquet; {file.suffix} has none, leave them out")
        return read(file, columns or {})

    return reading(where or str(file), checked)


def reading(where: str, read: Callable[[], Examples]) -> Examples:
    """What `read` gives, at least one example; what goes wrong in it as RecipeError that names `where`."""
    try:
        examples = read()
    except (
        OSError, EOFError, zipfile.BadZipFile, csv.Error, ValueError, LookupError, TypeError, AttributeError,
        NotImplementedError,
    ) as error:  # fmt: skip
        raise RecipeError(f"{where}: cannot be read as a task file: {error}; write it anew") from None
    if not len(examples):
        raise RecipeError(f"{where}: holds no example; a part of a task needs some, or remove the file")
    return examples


def is_plain(file: Path, columns: Columns) -> bool:
    """Whether a file holds texts without labels; looks at no example. One that cannot be read does not."""
    if file.suffix == ".parquet":
        from pyarrow import parquet

        try:
            return has_text_alone(parquet.read_schema(file).names, columns)
        except (OSError, ValueError):
            return False
    return file.suffix == ".txt"


def has_text_alone(there: Sequence[str], asked: Columns) -> bool:
    """Whether a table's only column is the text."""
    return list(there) == [asked.get("text", "text")] and set(asked) <= {"text"}


def _read_npz(file: Path, _: Columns) -> Examples:
    with np.load(file, allow_pickle=False) as arrays:
        pixels, labels = arrays["pixel_values"], arrays["label"]
    if pixels.ndim != 4 or pixels.dtype != np.float32 or not np.isfinite(pixels).all():
        raise ValueError(
            f"pixel_values must be finite float32 (n, channels, height, width), not {pixels.dtype} {pixels.shape}"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"label must be whole numbers ({len(pixels)},), not {labels.dtype} {labels.shape}")
    return Examples(pixels, labels.astype(np.int64))


def _read_csv(file: Path, asked: Columns) -> Examples:
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        inputs, label = _columns(list(reader.fieldnames or ()), asked)
        rows = list(reader)
    torn = [number for number, row in enumerate(rows, 2) if None in row or None in row.values()]
    if torn:
        raise ValueError(f"row {torn[0]} does not have one value per column")
    if unsaid := [number for number, row in enumerate(rows, 2) if not row[label].strip()]:
        raise ValueError(f"row {unsaid[0]} has no label")
    check_rows(len(rows))
    texts = np.array([[row[c] for c in inputs] for row in rows], dtype=object).reshape(len(rows), len(inputs))
    return Examples(texts, np.array([row[label].strip() for row in rows], dtype=object))


def _read_parquet(file: Path, asked: Columns) -> Examples:
    from pyarrow import parquet

    check_rows(parquet.read_metadata(file).num_rows)
    return from_table(parquet.read_table(file), asked)


def from_table(table: pyarrow.Table, asked: Columns) -> Examples:
    """The examples in a table of Arrow's. Raises ValueError for what is not as it should be, or is missing."""
    if has_text_alone(table.column_names, asked):
        return _plain(table.column(0).to_pylist())
    columns, label = _columns(table.column_names, asked)
    if columns == [asked.get("image", "image")]:
        return _pictures(table, columns[0], label)
    if empty := [c for c in (*columns, label) if table.column(c).null_count]:
        raise ValueError(f"every example has a text and a label; there are empty ones in {', '.join(empty)}")
    texts = np.array([table.column(c).to_pylist() for c in columns], dtype=object).reshape(len(columns), -1).T
    labels = _labels(table, label)
    if labels is None or not all(isinstance(text, str) for text in texts.flat):
        types = ", ".join(f"{name} ({table.schema.field(name).type})" for name in (*columns, label))
        raise ValueError(f"texts must be strings and labels words or whole numbers, not {types}")
    return Examples(texts, labels, _label_names(table.schema.metadata or {}, label))


def _labels(table: pyarrow.Table, label: str) -> np.ndarray[Any, Any] | None:
    """Words or int64; None if they are neither."""
    import pyarrow

    kind, values = table.schema.field(label).type, table.column(label)
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return np.array(values.to_pylist(), dtype=object)
    return values.to_numpy().astype(np.int64) if pyarrow.types.is_integer(kind) else None


def _pictures(table: pyarrow.Table, image: str, label: str) -> Examples:
    """Images as the datasets library writes them, a struct of bytes and path, or plain bytes. No path is followed."""
    from hub_fusion.evaluate.task_images import as_inputs, check_image

    labels = _labels(table, label)
    if labels is None or table.column(label).null_count:
        raise ValueError(f"every image has a label, a word or a whole number; {label} does not say them")
    rows = table.column(image).to_pylist()
    contents: list[Any] = [row.get("bytes") if isinstance(row, dict) else row for row in rows]
    for number, content in enumerate(contents):
        if not isinstance(content, bytes):
            raise ValueError(f"{image} of row {number} holds no bytes of an image; write them into the file (paths are "
                             "not followed)")  # fmt: skip
        check_image(content, f"{image} of row {number}")
    return Examples(as_inputs(contents), labels, _label_names(table.schema.metadata or {}, label))


def _columns(there: Sequence[str], asked: Columns) -> tuple[list[str], str]:
    """What the inputs and the label are called in a table, among the columns that are `there`."""
    if "image" in asked or (asked.get("text", "text") not in there and "image" in there):
        image, label = asked.get("image", "image"), asked.get("label", "label")
        if lost := [name for name in (image, label) if name not in there]:
            known = ", ".join(map(str, there)) or "none"
            raise ValueError(f"columns must be image and label; {', '.join(lost)} is missing, there are {known}; say "
                             "which is which in the task's columns")  # fmt: skip
        return [image], label
    names: dict[Column, str] = {"text": "text", "text_pair": "text_pair", "label": "label", **asked}
    absent: list[Column] = [c for c in names if names[c] not in there and (c != "text_pair" or c in asked)]
    if absent:
        lacking = ", ".join(names[c] if names[c] == c else f"{names[c]} ({c})" for c in absent)
        raise ValueError(
            f"columns must be text, perhaps text_pair, and label; {lacking} is missing, there are "
            f"{', '.join(map(str, there)) or 'none'}; say which is which in the task's columns, {{text: …, label: …}}"
        )
    inputs: tuple[Column, ...] = ("text", "text_pair")
    return [names[c] for c in inputs if names[c] in there], names["label"]


def check_rows(rows: int) -> None:
    """Raise ValueError for a table of more rows than a part may have."""
    if rows > MOST_ROWS:
        raise ValueError(f"it has {rows} examples, more than {MOST_ROWS}; a part of them tells as much")


def _read_text(file: Path, _: Columns) -> Examples:
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has {file.stat().st_size} bytes, more than {MOST_BYTES}; a part of it tells as much")
    return _plain([file.read_text(encoding="utf-8")])


def _plain(texts: list[Any]) -> Examples:
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("every row of the column text is a string")
    inputs = np.array([[text] for text in texts], dtype=object).reshape(len(texts), 1)
    return Examples(inputs, np.zeros(len(texts), dtype=np.int64), labelled=False)


def _label_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """Names of the labels from a schema's metadata, none if it does not say them."""
    names = json.loads(metadata.get(b"label_names", b"[]"))
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return tuple(map(str, names or features.get(label, {}).get("names", ())))
