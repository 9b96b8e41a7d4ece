"""`datasets` loads from a local Hub and pushes to it.

It looks for a dataset viewer beside the Hub and for a counter of downloads elsewhere, and works without either.
"""

import pytest

pytest.importorskip("datasets")

ELSEWHERE = ("datasets-server.127.0.0.1", "s3.amazonaws.com")

BEGIN = """
import warnings; warnings.simplefilter("ignore")
import io
import pandas as pd
from datasets import Dataset, DatasetDict, get_dataset_config_names, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi
api, name = HfApi(), "{repo}-data"
rows = pd.DataFrame([{{"text": f"t{{n}}", "label": n}} for n in range(10)])
def put(path, content):
    api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name, repo_type="dataset")
"""

FILES = """
api.create_repo(name, repo_type="dataset", private=True)
write = {{"csv": lambda f: rows.to_csv(f, index=False), "parquet": rows.to_parquet,
          "json": lambda f: rows.to_json(f, orient="records", lines=True)}}["{kind}"]
ending = {{"json": "jsonl"}}.get("{kind}", "{kind}")
for part in ("train", "test"):
    write(file := io.BytesIO())
    put(f"data/{{part}}.{{ending}}", file.getvalue())
api.create_tag(name, tag="v1", repo_type="dataset")
put(f"data/more-train.{{ending}}", file.getvalue())
found = load_dataset(name, revision="v1")
print(sorted(found), found["train"][3])
print(load_dataset(name, split="train").num_rows)
print(list(load_dataset(name, split="test", streaming=True))[9]["label"])
print(load_dataset(name, data_files={{"x": f"data/*.{{ending}}"}})["x"].num_rows)
print(load_dataset("{kind}", data_files=f"hf://datasets/{{name}}@v1/data/test.{{ending}}", split="train").num_rows)
"""

CONFIGS = """
api.create_repo(name, repo_type="dataset")
for config in "ab":
    for part in ("train", "test"):
        put(f"{{config}}/{{part}}.csv", f"x\\n{{config}}-{{part}}\\n".encode())
put("README.md", b'''---
license: mit
configs:
- config_name: a
  default: true
  data_files:
  - split: train
    path: a/train.csv
  - split: test
    path: "a/te*.csv"
- config_name: b
  data_files: b/*.csv
---
''')
print(get_dataset_config_names(name), get_dataset_split_names(name, "a"))
print(load_dataset(name)["test"]["x"][:], sorted(load_dataset(name, "b", split="train")["x"]))
"""

PUSH = """
data = Dataset.from_pandas(rows)
data.push_to_hub(name, private=True)
data.select(range(4)).push_to_hub(name, config_name="small", split="test", commit_message="a second one")
data.push_to_hub(name, "parts", num_shards=3)
done = DatasetDict(train=data, test=data).push_to_hub(name, "asked", create_pr=True)
print(api.dataset_info(name).private, sorted(get_dataset_config_names(name)))
print(load_dataset(name, split="train")[:] == data[:], load_dataset(name, "small")["test"].num_rows)
stream = load_dataset(name, "parts", split="train", streaming=True)
print(stream.num_shards, sorted(row["label"] for row in stream.shuffle(seed=1)) == list(range(10)))
print(sorted(load_dataset(name, "asked", revision=done.pr_revision)))
print([commit.title for commit in api.list_repo_commits(name, repo_type="dataset")][1])
stream.map(lambda row: {{"y": row["label"] + 1}}).push_to_hub(name + "-2")
print(load_dataset(name + "-2", split="train")["y"][:3], "format:parquet" in api.dataset_info(name).tags)
"""

MISSING = """
api.create_repo(name, repo_type="dataset", private=True)
put("a.csv", b"x\\n1\\n")
for which, options in ((name + "-none", {{}}), (name, {{"revision": "none"}}), (name, {{"token": False}})):
    try:
        load_dataset(which, **options)
    except DatasetNotFoundError as error:
        print(str(error)[:8])
print(load_dataset(name, split="train")["x"][:])
"""


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_files_are_found_loaded_and_streamed(script, repo, kind) -> None:
    """Splits by their names, patterns, a revision, single files by path; the repository is private."""
    assert script((BEGIN + FILES).format(repo=repo, kind=kind), ELSEWHERE)[-5:] == [
        "['test', 'train'] {'text': 't3', 'label': 3}",
        "20",
        "9",
        "30",
        "10",
    ]


def test_configurations_are_those_that_the_card_names(script, repo) -> None:
    """With splits and a default."""
    assert script((BEGIN + CONFIGS).format(repo=repo), ELSEWHERE)[-2:] == [
        "['a', 'b'] ['train', 'test']",
        "['a-test'] ['b-test', 'b-train']",
    ]


def test_what_was_pushed_is_what_is_loaded(script, repo) -> None:
    """Several configurations, shards, a pull request, from a stream."""
    assert script((BEGIN + PUSH).format(repo=repo), ELSEWHERE)[-6:] == [
        "True ['default', 'parts', 'small']",
        "True 4",
        "3 True",
        "['test', 'train']",
        "a second one",
        "[1, 2, 3] True",
    ]


def test_a_missing_dataset_is_said_to_be_missing(script, repo) -> None:
    """As is one that the caller may not see, and a missing revision."""
    assert script((BEGIN + MISSING).format(repo=repo), ELSEWHERE)[-4:] == ["Dataset ", "Revision", "Dataset ", "[1]"]
