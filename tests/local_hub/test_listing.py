"""Lists: filters, order, pages, fields."""

import re
import secrets
import time
from typing import get_args

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_api
from huggingface_hub.errors import BadRequestError

from hub_fusion.local_hub import LocalHub, add_user
from hub_fusion.local_hub.db import Database

from .conftest import safetensors

BASE = "carol/base"


@pytest.fixture(scope="module")
def carol(hub: LocalHub) -> HfApi:
    """A user whose repositories are a base, three finetunes, an adapter and a private finetune."""
    api = HfApi(endpoint=hub.url, token=add_user(hub.root, "carol"))
    card = f"---\nbase_model: {BASE}\ntags: [round-1, {{n}}]\nlicense: mit\n---\n"
    for name, extra in {
        "base": {},
        "ft-0": {},
        "ft-1": {},
        "ft-2": {},
        "adapter": {"adapter_config.json": b'{"peft_type": "LORA"}'},
        "secret": {},
    }.items():
        api.create_repo(f"carol/{name}", private=name == "secret")
        text = "---\nlicense: mit\npipeline_tag: fill-mask\n---\n" if name == "base" else card.format(n=name)
        files = {"README.md": text.encode(), "model.safetensors": safetensors(rows=len(name)), **extra}
        api.create_commit(f"carol/{name}", [CommitOperationAdd(p, c) for p, c in files.items()], commit_message="files")
    return api


def ids(models) -> list[str]:
    """The names without their namespace."""
    return [model.id.partition("/")[2] for model in models]


def test_relation_filters_find_the_children_of_a_base(carol, nobody) -> None:
    """Discovery is this call: a filter is a tag, several filters must all hold."""
    assert set(ids(nobody.list_models(filter=f"base_model:{BASE}"))) == {"ft-0", "ft-1", "ft-2", "adapter"}
    assert set(ids(nobody.list_models(filter=f"base_model:finetune:{BASE}"))) == {"ft-0", "ft-1", "ft-2"}
    assert ids(nobody.list_models(filter=[f"base_model:adapter:{BASE}", "license:mit"])) == ["adapter"]
    assert ids(nobody.list_models(filter=[f"base_model:{BASE}", "ft-1", "round-1"])) == ["ft-1"]
    assert ids(nobody.list_models(filter=[f"base_model:{BASE}", "license:gpl-3.0"])) == []
    assert "secret" in ids(carol.list_models(filter=f"base_model:finetune:{BASE}"))


def test_lists_are_sorted_descending_with_the_newest_first_among_equals(carol, nobody) -> None:
    """The watcher stops reading at the last time it has seen."""
    assert ids(nobody.list_models(author="carol", sort="created_at")) == ["adapter", "ft-2", "ft-1", "ft-0", "base"]
    carol.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="carol/ft-0")
    assert ids(nobody.list_models(author="carol", sort="last_modified"))[0] == "ft-0"
    assert ids(nobody.list_models(author="carol", sort="likes")) == ["adapter", "ft-2", "ft-1", "ft-0", "base"]


def test_search_author_task_and_size_narrow_a_list(carol, nobody) -> None:
    """Each parameter narrows, none is ignored."""
    assert ids(nobody.list_models(author="Carol", search="FT-1")) == ["ft-1"]
    assert ids(nobody.list_models(author="carol", search="ft_1")) == []
    assert ids(nobody.list_models(author="carol", pipeline_tag="fill-mask")) == ["base"]
    assert ids(nobody.list_models(author="carol", num_parameters="min:20")) == ["adapter"]
    assert ids(nobody.list_models(author="no-such-user")) == []
    assert ids(nobody.list_models(author="carol", gated=True)) == []


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


def test_pages_join_without_gaps_or_doubles(carol, nobody, raw) -> None:
    """Also while a repository is changed between two pages of a list by creation time."""
    seen, path = [], "/api/models?author=carol&sort=createdAt&limit=2&expand[]=sha"
    while path:
        answer = raw("GET", path)
        seen += [item["id"] for item in answer.json]
        assert all(set(item) == {"_id", "id", "sha"} for item in answer.json)
        link = answer.headers.get("link")
        path = link.partition(">")[0].partition("/api/")[2] if link else ""
        path = f"/api/{path}" if path else ""
        carol.upload_file(path_or_fileobj=b"%d" % len(seen), path_in_repo="x.txt", repo_id="carol/base")
    assert [name.partition("/")[2] for name in seen] == ["adapter", "ft-2", "ft-1", "ft-0", "base"]
    assert ids(nobody.list_models(author="carol", sort="created_at", limit=3)) == ["adapter", "ft-2", "ft-1"]
    assert raw("GET", "/api/models?cursor=%FF").status == 400
    assert raw("GET", "/api/models?limit=-1").status == 400
    assert raw("GET", "/api/models?sort=size").status == 400


def test_fields_are_those_that_were_asked_for(carol, nobody) -> None:
    """Small by default; everything discovery needs in one call when asked."""
    plain = next(iter(nobody.list_models(author="carol", search="ft-1")))
    assert plain.tags and plain.sha is None and plain.siblings is None
    full = next(iter(nobody.list_models(author="carol", search="ft-1", full=True, cardData=True)))
    assert full.sha and full.card_data["base_model"] == BASE
    assert [s.rfilename for s in full.siblings] == [".gitattributes", "README.md", "model.safetensors"]
    wanted = ["sha", "lastModified", "createdAt", "gated", "tags", "cardData", "safetensors", "downloads", "baseModels"]
    some = next(iter(nobody.list_models(author="carol", search="ft-1", expand=wanted)))
    assert some.safetensors.total == 16 and some.gated is False and some.siblings is None
    assert some.base_models["models"][0]["id"] == BASE


def test_an_unknown_field_is_refused_in_the_hubs_words(nobody) -> None:
    """The whole request is refused; counts of children are for details only."""
    for field in ("childrenModelCount", "usedStorage", "nonsense"):
        with pytest.raises(BadRequestError, match="Invalid option: expected one of"):
            list(nobody.list_models(expand=[field]))


@pytest.mark.parametrize("kind", ["Model", "Dataset", "Space"])
def test_details_know_the_fields_that_the_client_names_and_no_others(alice, raw, kind) -> None:
    """The client's authors keep their list equal to the Hub's, from the text of this refusal."""
    name = f"alice/fields-{secrets.token_hex(4)}"
    alice.create_repo(name, repo_type=kind.lower(), space_sdk="static" if kind == "Space" else None)
    with pytest.raises(BadRequestError) as caught:
        alice.repo_info(name, repo_type=kind.lower(), expand=["nonsense"])
    refused = caught.value.response.json()["error"]
    known = set(re.findall(r'"([^"]+)"', refused)) - {"xetEnabled"}
    fields = set(get_args(getattr(hf_api, f"Expand{kind}Property_T")))
    assert known == fields
    assert alice.repo_info(name, repo_type=kind.lower(), expand=sorted(fields)).id == name


def test_details_count_the_children_that_the_caller_may_see(carol, nobody) -> None:
    """A cheap sign that something changed."""
    expand = ["childrenModelCount"]
    assert nobody.model_info(BASE, expand=expand).children_model_count == {"adapter": 1, "finetune": 3}
    assert carol.model_info(BASE, expand=expand).children_model_count == {"adapter": 1, "finetune": 4}


def test_datasets_and_spaces_have_lists_of_their_own(carol) -> None:
    """The same id may be a model and a data set."""
    carol.create_repo("carol/base", repo_type="dataset")
    carol.create_repo("carol/board", repo_type="space", space_sdk="gradio")
    assert [d.id for d in carol.list_datasets(author="carol")] == ["carol/base"]
    assert [s.id for s in carol.list_spaces(author="carol")] == ["carol/board"]


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
