"""A dataset on the Hub is a task: by the unmodified library, pinned, from its own files alone, and once only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from hub_fusion.errors import HubUnreachable, RecipeError
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.local_hub import LocalHub, add_user, serve
from hub_fusion.recipe import Task

PROJECT = Path(__file__).parents[2]
PUBLISH = """
import io, json
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub import HfApi

api = HfApi()
def put(name, files, tag=None):
    api.create_repo(name, repo_type="dataset", exist_ok=True)
    for path, content in files.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name, repo_type="dataset")
    if tag:
        api.create_tag(name, tag=tag, repo_type="dataset")
features = Features({"sentence": Value("string"), "verdict": ClassLabel(names=["no", "yes"]), "id": Value("int64")})
def rows(start, stop):
    numbers = range(start, stop)
    return Dataset.from_dict({"sentence": [f"t{n}" for n in numbers], "verdict": [n % 2 for n in numbers],
                              "id": list(numbers)}, features=features)
parts = DatasetDict(train=rows(0, 40), validation=rows(40, 60), test=rows(60, 90))
parts.push_to_hub("alice/moods", private=True)
api.create_tag("alice/moods", tag="v1", repo_type="dataset")
parts.push_to_hub("alice/moods", "small")
DatasetDict(train=rows(5, 40)).push_to_hub("alice/moods")
put("alice/plain", {"train.parquet": (file := io.BytesIO(), Dataset.from_dict({"text": ["t"]}).to_parquet(file))[0].getvalue()})
put("alice/lines", {"train.jsonl": b'{"text": "a", "label": 0}\\n'})
put("alice/script", {"script.py": b"open('/tmp/ran', 'w')", "train.txt": b"x"})
put("alice/broken", {"train.parquet": b"PAR1 and nothing more"})
card = "---\\nconfigs:\\n- config_name: default\\n  data_files: {path}\\n---\\n"
put("alice/elsewhere", {"train.csv": b"text,label\\na,0\\n", "README.md": card.format(path=SECRET).encode()})
put("alice/later", {"train.csv": b"text,label\\na,0\\n",
                    "README.md": card.format(path="hf://datasets/alice/later@main/train.csv").encode()})
"""  # noqa: E501
LOAD = """
import json, sys
from hub_fusion.errors import HubFusionError
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import Task

found = {}
for name, task in json.loads(sys.argv[1]).items():
    try:
        data = load_task(Task.model_validate({"name": "t"} | task), max_test=100)
        found[name] = {"sha256": data.sha256, "train": len(data.train), "names": data.train.names, "kind": data.kind,
                       "parts": {role: len(part) for role, part in data.parts.items()}}
    except HubFusionError as error:
        found[name] = {type(error).__name__: str(error)}
print(json.dumps({"found": found, "datasets": "datasets" in sys.modules}))
"""


@dataclass
class World:
    """A Hub with alice's datasets, and a home that has seen them or not."""

    hub: LocalHub
    token: str
    folder: Path

    def run(self, script: str, *arguments: str, **env: str) -> str:
        keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        env = keep | {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": self.token, "HOME": str(self.folder),
                      "XDG_CACHE_HOME": str(self.folder / "cache"), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1",
                      "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"} | env  # fmt: skip
        done = subprocess.run([sys.executable, "-c", script, *arguments], env=env, cwd=self.folder, text=True,
                              capture_output=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def load(self, tasks: dict[str, Any], **env: str) -> tuple[dict[str, Any], bool]:
        """What became of each task in a process of its own, and whether that needed the datasets library."""
        told = json.loads(self.run(LOAD, json.dumps(tasks), **env).splitlines()[-1])
        return told["found"], told["datasets"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A Hub with one dataset."""
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("world")
    token = add_user(folder / "store", "alice")
    with serve(folder / "store") as hub:
        api = HfApi(hub.url, token)
        api.create_repo("alice/table", repo_type="dataset")
        for part, content in {"train": b"text,label\na,no\nb,yes\n", "test": b"text,label\nc,yes\n"}.items():
            api.upload_file(path_or_fileobj=content, path_in_repo=f"data/{part}.csv", repo_id="alice/table",
                            repo_type="dataset")  # fmt: skip
        yield World(hub, token, folder)


@pytest.fixture(scope="module")
def world(small: World) -> World:
    """The same with many."""
    secret = small.folder / "secret.csv"
    secret.write_text("text,label\nsecret,0\nsecret,1\n")
    small.run(f"SECRET = {str(secret)!r}\n{PUBLISH}")
    return small


MAPPED = {"columns": {"text": "sentence", "label": "verdict"}}
GOOD: dict[str, dict[str, Any]] = {
    "tag": {"hub": "alice/moods", "revision": "v1", **MAPPED},
    "config": {"hub": "alice/moods", "config": "small", "role": "gate", **MAPPED},
    "other split": {"hub": "alice/moods", "config": "small", "splits": {"gate": "test"}, "role": "gate", **MAPPED},
    "split off": {"hub": "alice/moods", "config": "default", "split": {"gate": 0.3}, "role": "gate", **MAPPED},
    "csv": {"hub": "alice/table"},
    "plain": {"hub": "alice/plain", "splits": {"report": "train"}},
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no dataset": ({"hub": "alice/none"}, "alice/none is not on"),
    "no revision": ({"hub": "alice/moods", "revision": "v2"}, "v2 is not on"),
    "no config": ({"hub": "alice/moods", "config": "large"}, "small"),
    "no split": ({"hub": "alice/table", "splits": {"gate": "dev"}}, "no split dev; there are train, test"),
    "one part": ({"hub": "alice/moods", "config": "default"}, "needs a split to train on and one for gate or report"),
    "columns": (
        {"hub": "alice/moods", "revision": "v1"},
        r"train: .*text, label is missing, there are sentence, verdict, id",
    ),
    "other files": ({"hub": "alice/lines"}, "read by Json.* Parquet or CSV"),
    "a script": ({"hub": "alice/script"}, "scripts are no longer supported"),
    "broken": ({"hub": "alice/broken", "split": {"gate": 0.5}}, "alice/broken@.* cannot be read as a task"),
    "a file of ours": ({"hub": "alice/elsewhere", "split": {"gate": 0.5}}, "don't belong to alice/elsewhere"),
    "another commit": ({"hub": "alice/later", "split": {"gate": 0.5}}, "names files elsewhere, .*later@main"),
}


def test_a_dataset_is_the_task_that_its_examples_are_in_a_folder_and_is_fetched_once(
    small: World, tmp_path: Path
) -> None:
    """A commit that changes a card changes no suite, a mirror compares, and a round goes on while the Hub is away."""
    (tmp_path / "train.csv").write_text("text,label\na,no\nb,yes\n")
    (tmp_path / "report.csv").write_text("text,label\nc,yes\n")
    found, used = small.load({"csv": GOOD["csv"]})
    assert used and found["csv"]["sha256"] == load_task(Task(name="t", path=tmp_path), max_test=100).sha256
    again, used = small.load({"csv": GOOD["csv"]}, HF_HUB_OFFLINE="1")
    assert again == found and not used, "the library was asked again"


@pytest.mark.slow
def test_datasets_are_tasks_and_what_is_none_is_refused_by_name(world: World) -> None:
    """And a second process needs neither the library nor the Hub to find the same tasks, even by a branch's name."""
    found, _ = world.load(GOOD | {name: task for name, (task, _) in BAD.items()})
    whole = {"kind": "text", "names": ["no", "yes"]}
    for name, parts in {
        "tag": (40, {"gate": 20, "report": 30}), "config": (40, {"gate": 20}), "other split": (40, {"gate": 30}),
        "csv": (2, {"report": 1}),
    }.items():  # fmt: skip
        assert {k: v for k, v in found[name].items() if k != "sha256"} == whole | {"train": parts[0], "parts": parts[1]}
    assert found["split off"]["train"] + found["split off"]["parts"]["gate"] == 35
    for name, (_, law) in BAD.items():
        with pytest.raises(RecipeError, match=law):
            raise RecipeError(found[name].get("RecipeError", str(found[name])))
    assert not Path("/tmp/ran").exists()

    again, used = world.load(GOOD, HF_ENDPOINT=world.hub.url, HF_HUB_OFFLINE="1")
    assert again == {name: found[name] for name in GOOD} and not used, "the library and the Hub were asked again"
    elsewhere, _ = world.load({"csv": GOOD["csv"]}, HF_ENDPOINT="http://127.0.0.1:9")
    assert "HubUnreachable" in elsewhere["csv"], "another Hub's dataset of that name is another one"


def test_a_hub_that_never_answered_is_not_the_recipes_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A watcher waits and tries again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("hub_fusion.hub.calls.RETRIES", 0)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable):
        load_task(Task(name="t", hub="a/b"), max_test=10)


@pytest.mark.parametrize(
    ("task", "law"),
    [
        ({}, "either path"),
        ({"path": "x", "hub": "a/b"}, "either path"),
        ({"path": "x", "revision": "main"}, "are of a dataset"),
        ({"hub": "a"}, "pattern"),
        ({"hub": "../b/c"}, "pattern"),
        ({"hub": "a/b", "splits": {"gate": "test", "report": "test"}}, "given twice: test"),
    ],
)
def test_a_task_is_at_one_place(task: dict[str, Any], law: str) -> None:
    with pytest.raises(ValueError, match=law):
        Task.model_validate({"name": "t"} | task)
