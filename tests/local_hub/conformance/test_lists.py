"""Lists: filters, search, order, pages, fields."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_api
from huggingface_hub.errors import BadRequestError

from ..conftest import safetensors
from .conftest import PREFIX, Place

NAMES = ("base", "ft-0", "ft-1", "ft-2", "adapter", "secret")  # in the order in which they are made


class Family(NamedTuple):
    """A base, three finetunes, an adapter and a private finetune; all share `mark` in their names."""

    api: HfApi
    account: str
    mark: str

    @property
    def base(self) -> str:
        return f"{self.account}/{PREFIX}{self.mark}-base"

    def of(self, models: Any) -> list[str]:
        """The short names of those of the family, in the list's order."""
        start = f"{self.account}/{PREFIX}{self.mark}-"
        return [m.id.removeprefix(start) for m in models if m.id.startswith(start)]

    def list(self, **query: Any) -> list[str]:
        return self.of(self.api.list_models(author=self.account, search=self.mark, **query))


@pytest.fixture(scope="module")
def family(place: Place) -> Iterator[Family]:
    """Public models that anybody may list, and one that only the owner sees."""
    found = Family(HfApi(endpoint=place.url, token=False), place.account, secrets.token_hex(3))
    card = f"---\nbase_model: {found.base}\ntags: [round-1, {{n}}]\nlicense: mit\n---\n"
    made: list[str] = []
    try:
        for name in NAMES:
            repo = found.base.removesuffix("base") + name
            made.append(place.api.create_repo(repo, private=name == "secret").repo_id)
            text = "---\nlicense: mit\npipeline_tag: fill-mask\n---\n" if name == "base" else card.format(n=name)
            files = {"README.md": text.encode(), "model.safetensors": safetensors(rows=len(name))}
            if name == "adapter":
                files["adapter_config.json"] = b'{"peft_type": "LORA"}'
            add = [CommitOperationAdd(path, content) for path, content in files.items()]
            place.api.create_commit(repo, add, commit_message="files")
        _wait(place, lambda: len(found.list(filter=f"base_model:{found.base}")) == 4)
        yield found
    finally:
        for repo in made:
            place.api.delete_repo(repo, missing_ok=True)


def _wait(place: Place, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + (300 if place.live else 0)
    while not true() and time.monotonic() < deadline:
        time.sleep(10)


def test_relation_filters_find_the_children_of_a_base(place, family) -> None:
    """Discovery is this call: a filter is a tag, several filters must all hold."""
    base = family.base
    every = family.of(family.api.list_models(filter=f"base_model:{base}"))
    assert set(every) == {"ft-0", "ft-1", "ft-2", "adapter"}
    assert set(family.list(filter=f"base_model:finetune:{base}")) == {"ft-0", "ft-1", "ft-2"}
    assert family.list(filter=[f"base_model:adapter:{base}", "license:mit"]) == ["adapter"]
    assert family.list(filter=[f"base_model:{base}", "ft-1", "round-1"]) == ["ft-1"]
    assert family.list(filter=[f"base_model:{base}", "license:gpl-3.0"]) == []
    assert "secret" in family.of(place.api.list_models(filter=f"base_model:finetune:{base}"))


def test_details_count_the_children_that_the_caller_may_see(place, family) -> None:
    """A cheap sign that something changed, by relation."""
    expand = ["childrenModelCount"]
    assert family.api.model_info(family.base, expand=expand).children_model_count == {"adapter": 1, "finetune": 3}
    assert place.api.model_info(family.base, expand=expand).children_model_count["finetune"] >= 3
    child = family.base.removesuffix("base") + "ft-1"
    found = family.api.model_info(child, expand=["baseModels"]).base_models
    assert (found["relation"], [model["id"] for model in found["models"]]) == ("finetune", [family.base])


def test_lists_are_sorted_descending_with_the_newest_first(place, family) -> None:
    """The watcher stops reading at the last time it has seen."""
    assert family.list(sort="created_at") == ["adapter", "ft-2", "ft-1", "ft-0", "base"]
    changed = family.base.removesuffix("base") + "ft-0"
    place.api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=changed)
    _wait(place, lambda: family.list(sort="last_modified")[0] == "ft-0")
    assert family.list(sort="last_modified")[0] == "ft-0"
    assert family.list(sort="created_at") == ["adapter", "ft-2", "ft-1", "ft-0", "base"]
    for sort in ("downloads", "likes", "trending_score"):
        assert set(family.list(sort=sort)) == {"adapter", "ft-2", "ft-1", "ft-0", "base"}


def test_each_parameter_narrows(family) -> None:
    """Author and search in any case, task, size, gates."""
    assert family.of(family.api.list_models(author=family.account.upper(), search=f"{family.mark}-FT-1")) == ["ft-1"]
    assert family.list(pipeline_tag="fill-mask") == ["base"]
    assert family.list(num_parameters="min:20") == ["adapter"]
    assert family.list(gated=True) == [] and len(family.list(gated=False)) == 5
    assert list(family.api.list_models(author=f"no-such-{family.mark}")) == []


def test_pages_join_without_gaps_or_doubles(place, family, wire) -> None:
    """Also while a repository is changed between two pages of a list by creation time."""
    path = f"/api/models?author={family.account}&search={family.mark}&sort=createdAt&limit=2&expand[]=sha"
    seen: list[str] = []
    while path:
        answer = wire("GET", path, token=False)
        assert all(set(item) == {"_id", "id", "sha"} for item in answer.json) and len(answer.json) <= 2
        seen += [item["id"].partition(f"{family.mark}-")[2] for item in answer.json]
        link = answer.headers.get("link", "")
        assert not link or (link.endswith('>; rel="next"') and link.startswith(f"<{place.url}/"))
        path = link[1:].partition(">")[0]
        place.api.upload_file(path_or_fileobj=b"%d" % len(seen), path_in_repo="x.txt", repo_id=family.base)
    assert seen == ["adapter", "ft-2", "ft-1", "ft-0", "base"]
    assert family.list(sort="created_at", limit=3) == ["adapter", "ft-2", "ft-1"]


def test_fields_are_those_that_were_asked_for(family) -> None:
    """Small by default; everything discovery needs in one call when asked."""

    def one(**query: Any) -> Any:
        (found,) = family.api.list_models(author=family.account, search=f"{family.mark}-ft-1", **query)
        return found

    plain = one()
    assert plain.tags and plain.created_at and plain.sha is None and plain.siblings is None
    full = one(full=True, cardData=True, fetch_config=True)
    assert full.sha and full.last_modified and full.card_data["base_model"] == family.base
    assert [s.rfilename for s in full.siblings] == [".gitattributes", "README.md", "model.safetensors"]
    some = one(expand=["sha", "lastModified", "createdAt", "gated", "tags", "cardData", "safetensors", "downloads"])
    assert some.safetensors.total == 16 and some.gated is False and some.siblings is None and some.card_data
    assert one(expand=["config", "likes", "author", "private", "disabled"]).author == family.account


def test_an_unknown_field_is_refused_in_the_hubs_words(nobody) -> None:
    """The whole request is refused; counts of children are for details only."""
    for field in ("childrenModelCount", "nonsense"):
        with pytest.raises(BadRequestError, match="Invalid option: expected one of"):
            list(nobody.list_models(expand=[field], limit=1))


@pytest.mark.parametrize("kind", ["Model", "Dataset", "Space"])
def test_details_know_the_fields_that_the_client_names_and_no_others(api, new_repo, kind) -> None:
    """The client's authors keep their list equal to the Hub's, from the text of this refusal."""
    name = new_repo(kind.lower())
    with pytest.raises(BadRequestError) as caught:
        api.repo_info(name, repo_type=kind.lower(), expand=["nonsense"])
    refused = caught.value.response.json()["error"]
    known = set(re.findall(r'"([^"]+)"', refused)) - {"xetEnabled"}
    fields = set(get_args(getattr(hf_api, f"Expand{kind}Property_T")))
    assert known == fields
    assert api.repo_info(name, repo_type=kind.lower(), expand=sorted(fields)).id == name


def test_datasets_are_found_by_the_fields_of_their_cards(api, new_repo, push, soon) -> None:
    """Each field is a prefix of its tags; languages and tasks are those of datasets, not of models."""
    repo = new_repo("dataset")
    card = (
        "---\nlicense: mit\nlanguage: [en, no]\ntask_categories: [text-classification]\nsize_categories: n<1K\n"
        "multilinguality: multilingual\ntags: [x-y]\n---\n"
    )
    push(repo, {"README.md": card.encode(), "data/train.csv": b"a\n1\n"}, repo_type="dataset")
    owner, _, name = repo.partition("/")
    tags = {"license:mit", "language:en", "language:no", "task_categories:text-classification", "x-y",
            "size_categories:n<1K", "multilinguality:multilingual", "region:us"}  # fmt: skip
    assert tags <= set(soon(lambda: api.dataset_info(repo).tags))

    def found(**query: Any) -> list[str]:
        return [dataset.id for dataset in api.list_datasets(author=owner, search=name, **query)]

    soon(lambda: found(language="no") == [repo])
    assert found(language=["en", "no"], task_categories="text-classification", size_categories="n<1K") == [repo]
    assert found(multilinguality="multilingual", filter=["license:mit", "x-y"]) == [repo]
    assert found(language="fr") == found(task_ids="x") == found(benchmark=True) == []
    assert [d.id for d in api.list_datasets(author=owner, dataset_name=name)] == [repo]
    (full,) = api.list_datasets(author=owner, search=name, full=True)
    assert full.sha and full.card_data["language"] == ["en", "no"]
    assert {s.rfilename for s in full.siblings} == {".gitattributes", "README.md", "data/train.csv"}


def test_spaces_are_found_by_their_sdk_and_by_what_they_use(api, new_repo, push, soon) -> None:
    """The card names models and datasets."""
    repo = new_repo("space")
    card = "---\nsdk: static\nmodels: [a/model]\ndatasets: a/data\ntags: [x-y]\n---\n"
    push(repo, {"README.md": card.encode(), "index.html": b"<p>"}, repo_type="space")
    owner, _, name = repo.partition("/")

    def found(**query: Any) -> list[str]:
        return [space.id for space in api.list_spaces(author=owner, search=name, **query)]

    assert soon(lambda: found(filter="static")) == [repo]
    assert found(models="a/model") == found(datasets=["a/data"], filter="x-y") == [repo]
    assert found(models="a/other") == found(filter="gradio") == []
    (space,) = api.list_spaces(author=owner, search=name, expand=["sdk", "models", "datasets", "subdomain", "tags"])
    assert (space.sdk, space.models, space.datasets) == ("static", ["a/model"], ["a/data"]) and space.subdomain
    assert "static" in space.tags and "x-y" in space.tags and api.space_info(repo).sdk == "static"


def test_kinds_have_lists_of_their_own(api, new_repo, soon) -> None:
    """The same id may be a model and a dataset."""
    name = new_repo("dataset")
    owner, _, short = name.partition("/")
    assert soon(lambda: [d.id for d in api.list_datasets(author=owner, search=short)]) == [name]
    assert [*api.list_models(author=owner, search=short), *api.list_spaces(author=owner, search=short)] == []
    api.create_repo(name, private=True)
    try:
        assert soon(lambda: [m.id for m in api.list_models(author=owner, search=short)]) == [name]
    finally:
        api.delete_repo(name)
    assert api.repo_exists(name, repo_type="dataset") and not api.repo_exists(name)
