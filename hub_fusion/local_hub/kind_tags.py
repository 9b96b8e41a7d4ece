"""The tags of datasets and Spaces, which are made of their cards by other rules than those of models.

A dataset's fields become ``field:value`` in the Hub's order, its own tags come last: `list_datasets` filters by them.
Not covered: modalities, libraries and sizes, which the Hub finds by reading the data.
"""

from collections import Counter
from pathlib import PurePosixPath

from hub_fusion.local_hub.cards import PAPER, Content, clean, strings

BEFORE_LANGUAGE = (
    "task_categories",
    "task_ids",
    "annotations_creators",
    "language_creators",
    "multilinguality",
    "source_datasets",
)
FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".arrow": "arrow",
    ".txt": "text",
    ".png": "imagefolder",
    ".jpg": "imagefolder",
    ".jpeg": "imagefolder",
    ".wav": "audiofolder",
    ".mp3": "audiofolder",
    ".flac": "audiofolder",
}


def dataset_tags(content: Content) -> list[str]:
    """All tags of a dataset with this content."""
    card = content.card or {}
    found = [
        f"{field}:{value}"
        for field in (*BEFORE_LANGUAGE, "language", "license", "size_categories")
        for value in strings(card.get(field))
    ]
    if kind := data_format(content.paths):
        found.append(f"format:{kind}")
    found += [f"arxiv:{number}" for number in PAPER.findall(content.text)]
    return clean([*found, "region:us", *strings(card.get("tags"))])


def space_tags(content: Content) -> list[str]:
    """All tags of a Space with this content but its SDK, which is not told by its files."""
    card = content.card or {}
    licences = [f"license:{name}" for name in strings(card.get("license"))]
    return clean([*strings(card.get("tags")), *licences, "region:us"])


def data_format(paths: tuple[str, ...]) -> str | None:
    """What most of the data files are; None without any that are known."""
    kinds = Counter(FORMATS.get(PurePosixPath(path).suffix.lower()) for path in paths)
    known = [(count, kind) for kind, count in kinds.items() if kind]
    return max(known)[1] if known else None
