"""Lists: what only this server promises, and a crowd of models."""

import secrets
import time

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from hub_fusion.local_hub import LocalHub, add_user
from hub_fusion.local_hub.db import Database

from .conftest import safetensors


@pytest.fixture(scope="module")
def carol(hub: LocalHub) -> HfApi:
    """A user with three models."""
    api = HfApi(endpoint=hub.url, token=add_user(hub.root, "carol"))
    for n in range(3):
        add = [CommitOperationAdd("README.md", b"---\nbase_model: carol/base\nlicense: mit\n---\n")]
        api.create_repo(f"carol/ft-{n}")
        api.create_commit(f"carol/ft-{n}", add, commit_message="files")
    return api


def test_among_equals_the_newest_comes_first(carol, nobody) -> None:
    """Or pages of a list by likes would have gaps and doubles."""
    for sort in ("likes", "downloads", "created_at"):
        assert [m.id for m in nobody.list_models(author="carol", sort=sort)] == [f"carol/ft-{n}" for n in (2, 1, 0)]


def test_words_of_all_searches_and_local_apps_narrow_a_list(alice, nobody, raw) -> None:
    """list_datasets sends a name and words as two searches; an app runs what has a file of its format."""
    for name, file in (("words-one", "m.gguf"), ("words-two", "model.safetensors")):
        alice.create_repo(f"alice/{name}")
        alice.upload_file(path_or_fileobj=safetensors(), path_in_repo=file, repo_id=f"alice/{name}")
        alice.create_repo(f"alice/{name}", repo_type="dataset")
    both = nobody.list_datasets(dataset_name="words", search="two", author="alice")
    assert [found.id for found in both] == ["alice/words-two"]
    for app, name in (("ollama", "words-one"), ("vllm", "words-two")):
        assert [m.id for m in nobody.list_models(apps=app, author="alice", search="words")] == [f"alice/{name}"]
    assert raw("GET", "/api/models?apps=no-such-app").status == 400


def test_parameters_that_mean_nothing_are_refused(raw) -> None:
    """A cursor that nobody was given, a limit below one, an order that is none."""
    for query in ("cursor=%FF", "limit=-1", "sort=size", "num_parameters=min:many"):
        assert raw("GET", f"/api/models?{query}").status == 400


def test_ten_thousand_children_list_quickly(hub, nobody, carol) -> None:
    """A popular base has thousands of finetunes; a page of them must not cost a scan of everything."""
    db = Database(hub.root / "hub.sqlite3")
    with db.write() as con:
        row = dict(con.execute("SELECT * FROM repos WHERE key='carol/ft-1'").fetchone())
        columns = [name for name in row if name != "id"]
        for n in range(10_000):
            row |= {"full_name": f"crowd/m-{n}", "key": f"crowd/m-{n}", "created": n, "modified": n}
            new = con.execute(
                f"INSERT INTO repos ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})",
                [row[name] for name in columns],
            ).lastrowid
            con.executemany(
                "INSERT INTO repo_tags (tag, repo) VALUES (?, ?)",
                [("base_model:finetune:crowd/base", new), ("base_model:crowd/base", new), ("license:mit", new)],
            )
    began = time.perf_counter()
    first = list(
        nobody.list_models(filter="base_model:finetune:crowd/base", sort="created_at", limit=50, expand=["sha", "tags"])
    )
    first_page = time.perf_counter() - began
    assert [m.id for m in first[:2]] == ["crowd/m-9999", "crowd/m-9998"] and first_page < 1
    everything = list(nobody.list_models(filter=["base_model:finetune:crowd/base", "license:mit"], expand=["sha"]))
    assert len({m.id for m in everything}) == 10_000 and time.perf_counter() - began < 10
    with db.write() as con:
        con.execute("DELETE FROM repos WHERE key LIKE 'crowd/%'")
    db.close()


def test_lists_of_each_kind_show_what_the_hubs_show(alice, nobody) -> None:
    """A data set's author and head unasked, a card with `full` unless it is a model's, links where filtered by them."""
    word = secrets.token_hex(4)
    card = "---\nsdk: static\nmodels: [a/b]\nwidget: [{text: hi}]\n---\n"
    for kind in ("model", "dataset", "space"):
        alice.create_repo(f"alice/{word}", repo_type=kind, space_sdk="static" if kind == "space" else None)
        alice.upload_file(
            path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=f"alice/{word}", repo_type=kind
        )
    (data,) = nobody.list_datasets(search=word)
    assert (data.author, data.card_data, data.siblings) == ("alice", None, None) and data.sha and data.last_modified
    for found in (nobody.list_datasets(search=word, full=True), nobody.list_spaces(search=word, full=True)):
        assert next(iter(found)).card_data["models"] == ["a/b"]
    assert next(iter(nobody.list_models(search=word, full=True))).card_data is None
    assert next(iter(nobody.list_spaces(search=word))).models is None
    for filters in ({"linked": True}, {"models": "a/b"}):
        assert next(iter(nobody.list_spaces(search=word, **filters))).models == ["a/b"]
    assert nobody.model_info(f"alice/{word}").widget_data == [{"text": "hi"}]
