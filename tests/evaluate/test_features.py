"""Features are computed once, and a cache that is damaged, full or of something else is no worse than none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hub_fusion.evaluate.features import FeatureStore, task_features
from hub_fusion.evaluate.suite import measure
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.recipe import Task

from .conftest import make_bert, settings

A, B = "a" * 64, "b" * 64


@pytest.fixture
def task(texts: Path) -> TaskData:
    """The text task, in memory."""
    return load_task(Task(name="t", path=texts), max_test=100)


def ask(folder: Path, task: TaskData, store: FeatureStore | None, rows: slice = slice(None)) -> tuple[np.ndarray, str]:
    """Features of training examples, and what was said of the work."""
    said: list[str] = []
    found = task_features(folder, task, {"train": task.train.inputs[rows]}, "mean", 16, store=store,
                          progress=said.append)  # fmt: skip
    return found["train"], " ".join(said)


def test_only_what_is_new_is_computed(bert: Path, task: TaskData, tmp_path: Path) -> None:
    """Another seed or protocol asks for other rows of the same task; some texts occur twice in it."""
    different = len(set(task.train.inputs[:, 0]))
    first, said = ask(bert, task, FeatureStore(tmp_path, A), slice(10))
    assert said == f"features of {len(set(task.train.inputs[:10, 0]))} inputs of t"
    every, said = ask(bert, task, FeatureStore(tmp_path, A))
    assert said == f"features of {different - len(set(task.train.inputs[:10, 0]))} inputs of t"
    again, said = ask(bert, task, FeatureStore(tmp_path, A), slice(None, None, -1))
    assert said == "" and np.array_equal(again[::-1], every) and np.array_equal(every[:10], first)
    plain, _ = ask(bert, task, None)
    np.testing.assert_allclose(every, plain, atol=1e-5)  # other batches, other last bits


def test_other_weights_tokenizers_poolings_and_lengths_have_features_of_their_own(
    bert: Path, task: TaskData, tmp_path: Path
) -> None:
    store = FeatureStore(tmp_path, A)
    names = {store.name(bert, task, pooling, length) for pooling in ("mean", "cls") for length in (8, 16)}
    names.add(FeatureStore(tmp_path, B).name(bert, task, "mean", 16))
    twin = make_bert(tmp_path / "twin")
    assert store.name(twin, task, "mean", 16) in names
    (twin / "vocab.txt").write_text((twin / "vocab.txt").read_text() + "more\n")
    names.add(store.name(twin, task, "mean", 16))
    assert len(names) == 6


def test_damaged_files_are_made_anew(bert: Path, task: TaskData, tmp_path: Path) -> None:
    first, _ = ask(bert, task, FeatureStore(tmp_path, A))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damage in (b"", whole[: len(whole) // 2], bytes(flipped), b"not an archive"):
        file.write_bytes(damage)
        again, said = ask(bert, task, FeatureStore(tmp_path, A))
        assert said and np.array_equal(again, first)
        assert file.read_bytes()[:4] == whole[:4]
    np.savez(file, digests=np.zeros((2, 15), dtype=np.uint8), vectors=np.zeros((2, 3), dtype=np.float32))
    assert np.array_equal(ask(bert, task, FeatureStore(tmp_path, A))[0], first)


def test_files_that_were_used_longest_ago_go_first(bert: Path, task: TaskData, tmp_path: Path) -> None:
    ask(bert, task, FeatureStore(tmp_path, A))
    (first,) = tmp_path.iterdir()
    size = first.stat().st_size
    ask(bert, task, FeatureStore(tmp_path, B))
    (second,) = set(tmp_path.iterdir()) - {first}
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    assert ask(bert, task, FeatureStore(tmp_path, A))[1] == ""  # a use, so the second is the older one
    ask(bert, task, FeatureStore(tmp_path, "c" * 64, limit_bytes=int(2.5 * size)))
    assert first.exists() and not second.exists() and len(list(tmp_path.iterdir())) == 2


def test_logme_and_probe_ask_the_body_once(bert: Path, texts: Path) -> None:
    """Without a cache folder too."""
    said: list[str] = []
    asked = settings(texts, fewshot=None, logme={"examples": 20})
    measure(bert, asked, weights_sha256=A, progress=said.append)
    assert [line.split(" of ")[0] for line in said if line.startswith("features")] == ["features"] * 2
    alone: list[str] = []
    measure(bert, asked.model_copy(update={"logme": None}), weights_sha256=A, progress=alone.append)
    count = [sum(int(line.split()[2]) for line in lines if line.startswith("features")) for lines in (said, alone)]
    assert count[0] == count[1]
