"""Tasks that are datasets on the Hub: a commit's splits → Parquet files of ours, read like any other task's.

The `datasets` library says which files are which split; only repositories of Parquet and CSV files are taken, and only
files of the pinned commit: cards are strangers' text and may name anything else. No code of a repository is run. A
split is streamed once into a cache of our own; after that neither the library nor the Hub is asked again for a pinned
commit, and a branch or tag that cannot be resolved now stays at the commit where it was last. Within a process it
stays where it was first, so that all models of a round meet the same examples. The Hub is that of ``HF_ENDPOINT``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hub_fusion.errors import HubFusionError, HubUnreachable, RecipeError, RepoMissing
from hub_fusion.evaluate.task_files import MOST_FILE_BYTES, PARTS, Source, check_rows, is_plain, read_examples
from hub_fusion.hub import Hub
from hub_fusion.provenance import cache_home
from hub_fusion.recipe import Task

if TYPE_CHECKING:
    import pyarrow

COMMIT = re.compile(r"[0-9a-f]{40}")
SPLIT = re.compile(r"\w[\w.]{0,63}")
T = TypeVar("T")


def on_hub(task: Task) -> dict[str, Source]:
    """The parts of a task that is a dataset. Raises RecipeError; HubUnreachable if it is not at hand."""
    hub = Hub()
    sha = _commit(hub.endpoint, str(task.hub), task.revision)
    dataset = _Dataset(task, hub, sha)
    there = dataset.splits()
    if absent := [name for name in task.splits.values() if name not in there]:
        raise RecipeError(f"{dataset.where()} has no split {', '.join(absent)}; there are {', '.join(there) or 'none'}")
    free = [name for name in there if name not in task.splits.values()]
    usual = {part: next((name for name in names if name in free), None) for part, names in PARTS.items()}
    parts = {part: name for part in PARTS if (name := task.splits.get(part) or usual[part])}
    if not parts:
        raise RecipeError(f"{dataset.where()} has the splits {', '.join(there)}; name in the task's splits which is "
                          "train, gate and report")  # fmt: skip
    plain = cache(lambda: is_plain(dataset.file(list(parts.values())[-1]), task.columns))  # all splits have one form

    def source(name: str) -> Source:
        where = dataset.where(name)
        return Source(where, plain, lambda: read_examples(dataset.file(name), task.columns, where=where))

    return {part: source(name) for part, name in parts.items()}


class _Dataset:
    """A dataset at a commit, in the cache as far as it was needed."""

    def __init__(self, task: Task, hub: Hub, sha: str) -> None:
        self.repo, self.config, self.hub, self.sha = str(task.hub), task.config, hub, sha
        self.folder = _cached(hub.endpoint, self.repo, sha, self.config)
        self.builder = cache(self._open)

    def where(self, split: str = "") -> str:
        """What it is called in errors."""
        return " ".join(filter(None, [f"{self.repo}@{self.sha[:8]}", self.config, split]))

    def splits(self) -> list[str]:
        """The names of its splits."""
        known = self.folder / "splits.json"
        if not known.is_file():
            names = [str(name) for name in self.builder().config.data_files]
            if strange := [name for name in names if not SPLIT.fullmatch(name)]:
                raise RecipeError(f"{self.where()}: {strange[0][:80]!r} is no name of a split; use another dataset")
            _write(known, lambda file: file.write_text(json.dumps(names)))
        return list(json.loads(known.read_text()))

    def file(self, split: str) -> Path:
        """A split as a Parquet file, fetched if it was not there."""
        file = self.folder / f"{split}.parquet"
        if not file.is_file():
            sizes = self._ask(lambda: self.hub.files(self.repo, self.sha, "dataset"))
            paths = self.builder().config.data_files[split]
            size = sum(sizes[path.removeprefix(self._prefix)].size for path in paths)
            if size > MOST_FILE_BYTES:
                raise RecipeError(f"{self.where(split)}: has {size} bytes, more than {MOST_FILE_BYTES}; "
                                  "take another split or config of it")  # fmt: skip
            _write(file, lambda place: self._ask(partial(self._stream, split, place)))
        return file

    @property
    def _prefix(self) -> str:
        return f"hf://datasets/{self.repo}@{self.sha}/"

    def _open(self) -> Any:
        try:
            from datasets import load_dataset_builder
            from datasets.packaged_modules.csv.csv import Csv
            from datasets.packaged_modules.parquet.parquet import Parquet
        except ImportError:
            raise RecipeError(f"{self.where()}: tasks on the Hub need the datasets library: install "
                              "'hub-fusion[tasks]'") from None  # fmt: skip
        name = f"hf://datasets/{self.repo}"  # else a folder of that name here would come first
        builder = self._ask(lambda: load_dataset_builder(name, self.config, revision=self.sha))
        if not isinstance(builder, Parquet | Csv):
            raise RecipeError(f"{self.where()}: its files are read by {type(builder).__name__[:40]}; a task is made of "
                              "Parquet or CSV files: take another dataset, or convert it")  # fmt: skip
        paths = [path for files in builder.config.data_files.values() for path in files]
        if foreign := [path for path in paths if not path.startswith(self._prefix)]:
            raise RecipeError(f"{self.where()}: its card names files elsewhere, {str(foreign[0])[:200]!r}; a task is "
                              "made of the dataset's own files: take another one")  # fmt: skip
        return builder

    def _stream(self, split: str, place: Path) -> None:
        from pyarrow import parquet

        rows = self.builder().as_streaming_dataset(split=split)
        tables: Iterable[pyarrow.Table] = rows.with_format("arrow").iter(batch_size=10_000)
        writer, total, size = None, 0, 0
        try:
            for table in tables:
                check_rows(total := total + table.num_rows)
                if (size := size + table.nbytes) > MOST_FILE_BYTES:
                    raise ValueError(f"it unpacks to more than {MOST_FILE_BYTES} bytes; take another split")
                if writer is None:
                    about = rows.features.arrow_schema.metadata if rows.features else table.schema.metadata
                    writer = parquet.ParquetWriter(place, table.schema.with_metadata(about))
                writer.write_table(table.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()
        if not total:
            raise ValueError("it holds no example; take another split")

    def _ask(self, call: Callable[[], T]) -> T:
        """What the library answers. A stranger's files can make it fail in any way; a silent Hub is nobody's fault."""
        try:
            return call()
        except HubFusionError:
            raise
        except Exception as error:
            self.hub.dataset(self.repo, self.sha)  # raises HubUnreachable if that was the reason
            raise RecipeError(f"{self.where()}: cannot be read as a task: {str(error)[:300]}") from None


@cache
def _commit(endpoint: str, repo: str, revision: str | None) -> str:
    """The commit behind a revision; where the Hub is silent, the last one known here."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    known = _cached(endpoint, repo, "at", revision) / "commit"
    try:
        sha = Hub(endpoint).dataset(repo, revision)
    except HubUnreachable:
        if known.is_file():
            return known.read_text()
        raise
    except RepoMissing as error:
        raise RecipeError(f"{error}; evaluate.tasks[].hub and revision must name a dataset") from None
    _write(known, lambda file: file.write_text(sha))
    return sha


def _cached(*what: str | None) -> Path:
    """The folder of something in the cache."""
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
    return cache_home() / "tasks" / name


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all; another process may do the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
