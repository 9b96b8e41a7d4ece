"""Cards: which tags they become, which are refused, and that none can hurt."""

import contextlib
import json
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.local_hub import cards, frontmatter, kind_tags
from hub_fusion.local_hub.cards import Content
from hub_fusion.local_hub.validate import check


def tags(card: dict | None = None, **content) -> list[str]:
    """The tags of a repository with this card."""
    return cards.tags(Content(content.pop("paths", ()), card, **content))


@pytest.mark.parametrize(
    ("content", "relation"),
    [
        (Content((), {"base_model": "a/b"}), "finetune"),
        (Content((), {"base_model": ["a/b"]}), "finetune"),
        (Content((), {"base_model": ["a/b", "c/d"]}), "merge"),
        (Content((), {"base_model": "a/b", "tags": ["merge"]}), "merge"),
        (Content((), {"base_model": "a/b"}, adapter={}), "adapter"),
        (Content(("m.gguf",), {"base_model": "a/b"}), "quantized"),
        (Content((), {"base_model": "a/b"}, config={"quantization_config": {"bits": 4}}), "quantized"),
        (Content(("m.gguf",), {"base_model": "a/b", "base_model_relation": "finetune"}), "finetune"),
        (Content((), {"base_model": ["a/b", "c/d"], "base_model_relation": "nonsense"}), "merge"),
    ],
)
def test_the_relation_is_the_authors_word_or_inferred_from_the_files(content, relation) -> None:
    """No training library writes the relation: the Hub infers it, and everyone filters by what it inferred."""
    assert cards.base_models(content)[0] == relation
    assert f"base_model:{relation}:a/b" in cards.tags(content) and "base_model:a/b" in cards.tags(content)


@pytest.mark.parametrize("base", [None, [], "", "/home/me/model", "./out", 7, {"a": 1}, [["a/b"]], "a/b/c", "a b"])
def test_a_base_that_cannot_be_an_id_gives_no_tag(base) -> None:
    """PEFT writes local paths here; such a model is nobody's child."""
    assert not [tag for tag in tags({"base_model": base}) if tag.startswith("base_model")]


def test_the_fields_of_a_card_become_tags_in_the_hubs_order() -> None:
    """Worked example: a finetune with everything."""
    card = {
        "library_name": "transformers",
        "license": "apache-2.0",
        "language": ["en", "no"],
        "datasets": ["a/data"],
        "co2_eq_emissions": {"emissions": 5},
        "tags": ["fusion", "en"],
        "base_model": "a/base",
    }
    found = tags(
        card,
        paths=("model.safetensors", "README.md"),
        text="see https://arxiv.org/abs/2212.01378 and https://huggingface.co/papers/2306.01708",
        config={"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]},
    )
    assert found == [
        "transformers",
        "safetensors",
        "roberta",
        "fill-mask",
        "fusion",
        "en",
        "no",
        "dataset:a/data",
        "co2_eq_emissions",
        "arxiv:2212.01378",
        "arxiv:2306.01708",
        "base_model:a/base",
        "base_model:finetune:a/base",
        "license:apache-2.0",
        "region:us",
    ]


def test_the_fields_of_a_datasets_card_become_tags_with_their_names() -> None:
    """In the Hub's order: tasks, language, licence, size, format, papers; the card's own tags come last."""
    card = {
        "tags": ["math"],
        "license": "cc-by-4.0",
        "language": ["en", 7],
        "size_categories": ["1K<n<10K"],
        "task_categories": ["question-answering", "text-generation"],
    }
    content = Content(
        ("README.md", "data/train.parquet", "data/test.parquet", "x.csv"), card, "arxiv.org/abs/2410.01560"
    )
    assert kind_tags.dataset_tags(content) == [
        "task_categories:question-answering",
        "task_categories:text-generation",
        "language:en",
        "license:cc-by-4.0",
        "size_categories:1K<n<10K",
        "format:parquet",
        "arxiv:2410.01560",
        "region:us",
        "math",
    ]
    assert kind_tags.dataset_tags(Content((), None)) == ["region:us"]


def test_a_spaces_tags_begin_with_its_sdk(alice) -> None:
    """Which is a fact of the repository, not of its files."""
    name = alice.create_repo(f"alice/s-{secrets.token_hex(4)}", repo_type="space", space_sdk="gradio").repo_id
    assert alice.space_info(name).tags == ["gradio", "region:us"]
    card = b"---\nsdk: gradio\ntags: [gradio, leaderboard]\nlicense: mit\n---\n"
    alice.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=name, repo_type="space")
    assert alice.space_info(name).tags == ["gradio", "leaderboard", "license:mit", "region:us"]
    assert [s.id for s in alice.list_spaces(filter=["gradio", "leaderboard"], search=name)] == [name]


def test_a_config_alone_does_not_name_the_library() -> None:
    """The Hub stopped guessing transformers from config.json; adapters are still known by their file."""
    assert cards.library(Content(("config.json",), {}, config={"model_type": "bert"})) is None
    assert cards.library(Content((), {}, adapter={})) == "peft"


def test_front_matter_is_read_by_yaml_1_2_rules() -> None:
    """Norwegian is not false, a date is text, NaN is nothing, keys are text."""
    text = "language: no\nflag: yes\nreal: true\ndate: 2026-01-02\nnan: .nan\n1: one\n"
    text += "huge: 123456789012345678901234567890\n"
    assert frontmatter.parse(text) == {
        "language": "no",
        "flag": "yes",
        "real": True,
        "date": "2026-01-02T00:00:00.000Z",
        "nan": None,
        "1": "one",
        "huge": "123456789012345678901234567890",
    }


HOSTILE = {
    "not closed": "a: [1, 2",
    "tab": "a:\tb\n\tc: d",
    "twice": "license: mit\nlicense: gpl",
    "list": "- a\n- b",
    "text": "just words",
    "two documents": "a: 1\n--- \nb: 2",
    "object": "a: !!python/object/apply:os.system ['true']",
    "deep": "a: " + "[" * 100_000 + "]" * 100_000,
    "deep blocks": "- " * 20_000 + "a",
    "laughs": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "itself": "a: &a [*a]",
    "bad date": "a: 2026-99-99",
    "bad escape": 'a: "\\ud800"',
    "control": "a: \x00",
    "long number": "a: " + "9" * 10_000,
    "bad base": "a: !!int 0x",
    "odd key": "? [a, b]\n: c",
    "merge": "<<: 7",
    "sexagesimal": "a: 190:20:30:15:99999999:1",
    "big float": "a: 1e999999",
    "timestamp": "a: 0001-01-01T00:00:00+23:59",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_front_matter_is_refused_or_read_but_never_crashes(name) -> None:
    """PyYAML's C loader takes the whole process down on deep nesting: depth is checked before it sees the text."""
    try:
        json.dumps(frontmatter.parse(HOSTILE[name]), allow_nan=False).encode()
    except frontmatter.BadFrontMatter as error:
        assert str(error)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab01:-[]{}&*!|>?,#'\"\\%@ \n\t.~<=", max_size=60))
def test_any_text_is_front_matter_or_is_refused(text) -> None:
    """Only one kind of error ever leaves the parser."""
    with contextlib.suppress(frontmatter.BadFrontMatter):
        json.dumps(frontmatter.parse(text), allow_nan=False)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["a/b", "merge"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "tags", "license", "language", "datasets", "base_model", "base_model_relation", "library_name", "pipeline_tag",
    "model-index",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), VALUES),
    st.dictionaries(st.sampled_from(["architectures", "model_type", "auto_map", "quantization_config"]), VALUES),
)
def test_fields_of_any_type_give_clean_tags(card, config) -> None:
    """What has the wrong type is passed over."""
    found = tags(card, config=config)
    assert found[-1] == "region:us" and len(set(found)) == len(found)
    assert all(isinstance(tag, str) and tag.isprintable() and tag for tag in found)


@pytest.mark.parametrize("name", ["not closed", "twice", "list", "laughs", "deep"])
def test_a_broken_card_is_served_with_null_card_data(alice, repo, raw, name) -> None:
    """Git pushes are not validated on the Hub, so such cards exist; the file itself is served as it is."""
    line = {"key": "file", "value": {"path": "README.md", "content": f"---\n{HOSTILE[name]}\n---\nx"}}
    body = "\n".join(json.dumps(part) for part in ({"key": "header", "value": {"summary": "s"}}, line)).encode()
    assert raw("POST", f"/api/models/{repo}/commit/main", body, token=alice.token).status == 200
    info = raw("GET", f"/api/models/{repo}").json
    assert info["cardData"] is None and info["tags"] == ["region:us"]
    listed = raw("GET", f"/api/models?author=alice&search={repo.partition('/')[2]}&full=true&cardData=true").json
    assert listed[0]["cardData"] is None


def test_the_validator_refuses_what_the_hub_refuses() -> None:
    """Licence from the list, bases that are ids, a known relation, fields of the right type, whole results, YAML."""
    whole = "[{name: a, results: [{task: {type: t}, dataset: {type: d, name: n}, metrics: [{type: f1, value: 0.5}]}]}]"
    assert check(f"---\nmodel-index: {whole}\n---\n") == ([], [])
    assert check("---\nlicense: mit\nbase_model: a/b\nlanguage: no\n---\n") == ([], [])
    result = "model-index: [{name: a, results: [{task: {type: t}"
    assert check("no metadata")[1] and not check("no metadata")[0]
    for bad, part in {
        "license: lala": '"license" must be one of',
        "base_model: /tmp/model": '"base_model" with value "/tmp/model" is not valid',
        "base_model: [a/b, 7]": '"base_model" with value "7"',
        "base_model_relation: child": '"base_model_relation" must be one of',
        "tags: {a: b}": '"tags" must be',
        "library_name: [a]": '"library_name" must be a string',
        "license: [": "cannot be read",
        "model-index: foo": '"model-index" must be an array',
        "model-index: [{results: []}]": '"model-index[0].name" is required',
        "model-index: [{name: a, results: [7]}]": '"model-index[0].results[0]" must be an object',
        f"{result}, metrics: []}}]}}]": '"model-index[0].results[0].dataset" is required',
        f"{result}, dataset: {{type: d, name: [n]}}, metrics: []}}]}}]": '.dataset.name" must be a string',
        f"{result}, dataset: {{type: d, name: n}}, metrics: [{{type: f1}}]}}]}}]": '.metrics[0].value" is required',
    }.items():
        (error,) = check(f"---\n{bad}\n---\n")[0]
        assert part in error
