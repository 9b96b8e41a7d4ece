"""Cards: which tags they become, what they say about a model's bases, and which are refused."""

import pytest
from huggingface_hub import ModelCard, ModelCardData

BASE = "google-bert/bert-base-uncased"
SECOND = "google-bert/bert-large-uncased"

ADAPTER = {"adapter_config.json": b'{"peft_type": "LORA"}'}
QUANTIZED = {"config.json": b'{"model_type": "bert", "quantization_config": {"quant_method": "gptq", "bits": 4}}'}


@pytest.mark.parametrize(
    ("card", "files", "relation", "bases"),
    [
        (f"base_model: {BASE}", {}, "finetune", [BASE]),
        (f"base_model: [{BASE}]", {}, "finetune", [BASE]),
        (f"base_model: [{BASE}, {SECOND}]", {}, "merge", [BASE, SECOND]),
        (f"base_model: {BASE}\ntags: [merge]", {}, "merge", [BASE]),
        (f"base_model: {BASE}", ADAPTER, "adapter", [BASE]),
        (f"base_model: {BASE}", QUANTIZED, "quantized", [BASE]),
        (f"base_model: {BASE}", {"m.gguf": b"GGUF\0"}, "quantized", [BASE]),
        (f"base_model: {BASE}\nbase_model_relation: finetune", {"m.gguf": b"GGUF\0"}, "finetune", [BASE]),
    ],
)
def test_the_relation_is_the_authors_word_or_inferred(api, repo, push, soon, card, files, relation, bases) -> None:
    """No training library writes the relation: the Hub infers it, and everyone filters by what it inferred."""
    push(repo, {"README.md": f"---\n{card}\n---\n# hi".encode(), **files})
    wanted = {f"base_model:{base}" for base in bases} | {f"base_model:{relation}:{base}" for base in bases}
    soon(lambda: wanted <= set(api.model_info(repo).tags))
    assert wanted == {tag for tag in api.model_info(repo).tags if tag.startswith("base_model:")}
    assert api.model_info(repo, expand=["baseModels"]).base_models["relation"] == relation


def test_every_field_of_a_card_becomes_tags(api, repo, push, soon) -> None:
    """Library, model type, task, own tags, languages, datasets, papers, licence; an index may lag."""
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag="fill-mask",
        license="apache-2.0",
        language=["en", "no"],
        datasets=["stanfordnlp/imdb"],
        tags=["x-y"],
    )
    text = f"---\n{card}\n---\n# hi\nsee https://arxiv.org/abs/2212.01378\n"
    push(repo, {"README.md": text.encode(), "config.json": b'{"model_type": "bert"}'})
    wanted = {"transformers", "bert", "fill-mask", "x-y", "en", "no", "dataset:stanfordnlp/imdb", "arxiv:2212.01378",
              "license:apache-2.0", "region:us"}  # fmt: skip
    info = soon(lambda: (found := api.model_info(repo)) and wanted <= set(found.tags) and found)
    assert (info.library_name, info.pipeline_tag) == ("transformers", "fill-mask")
    assert info.card_data.license == "apache-2.0" and info.card_data.language == ["en", "no"]
    assert info.config["model_type"] == "bert"
    owner, _, name = repo.partition("/")
    for query in ({"filter": ["no", "transformers"]}, {"trained_dataset": "stanfordnlp/imdb"}, {"filter": "x-y"}):
        assert soon(lambda query=query: [m.id for m in api.list_models(author=owner, search=name, **query)]) == [repo]


def test_a_base_that_cannot_be_an_id_is_refused(api, repo, push) -> None:
    """PEFT writes local paths here: the push is refused before anything is sent, as on the Hub."""
    for text, part in {
        "license: lala": '"license"',
        "base_model: /home/me/model": '"base_model"',
        "base_model_relation: child": '"base_model_relation"',
    }.items():
        with pytest.raises(ValueError, match=part):
            push(repo, {"README.md": f"---\n{text}\n---\n".encode()})
    assert api.list_repo_files(repo) == [".gitattributes"]


def test_model_cards_are_validated_pushed_and_loaded(python, repo) -> None:
    """`ModelCard` speaks to HF_ENDPOINT alone, without a token where it validates."""
    script = f"""
from huggingface_hub import ModelCard, DatasetCard, HfApi, metadata_update
card = ModelCard("---\\nlicense: mit\\nbase_model: {BASE}\\nlibrary_name: transformers\\n---\\n# x")
card.push_to_hub("{repo}")
print(ModelCard.load("{repo}").data.base_model, HfApi().model_info("{repo}").card_data.license)
metadata_update("{repo}", {{"tags": ["later"]}})
print(ModelCard.load("{repo}").data.tags)
for text in ("license: lala", "base_model: /tmp/x"):
    try:
        ModelCard("---\\n" + text + "\\n---\\n").validate()
    except ValueError as error:
        print(str(error)[:12])
"""
    assert python(script).splitlines() == [f"{BASE} mit", "['later']", '- Error: "li', '- Error: "ba']


def test_a_card_without_metadata_is_only_text(api, repo, push, tmp_path) -> None:
    """The client warns of it."""
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        push(repo, {"README.md": b"# hi"})
    assert not [tag for tag in api.model_info(repo).tags if tag.startswith(("license", "base_model"))]
    path = api.hf_hub_download(repo, "README.md", cache_dir=tmp_path)
    assert ModelCard.load(path).text.strip() == "# hi"
