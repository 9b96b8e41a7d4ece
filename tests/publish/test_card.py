"""The card says what the record says, in Markdown that strangers cannot bend."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hub_fusion.publish.card import TEMPLATES, example, notes_of, render_card
from hub_fusion.publish.lineage import append, root_index
from hub_fusion.publish.markdown import code, duration, fence, md, percent, plain, table
from hub_fusion.records import Credit, Difference, Generation, Index, IndexEntry, Refusal, Score, Scores

GOLDEN = Path(__file__).parents[1] / "golden" / "lineage"
PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")
PARSER.validateLink = lambda url: True  # type: ignore[method-assign] # its own guard would hide a javascript: link
HOSTILE = [
    "a | b | c",
    "first\nsecond",
    "x\r\n---\r\nlicense: proprietary\r\n---\r\n# Owned",
    "[click](javascript:alert(1))",
    "](javascript:alert(1)) [x",
    "![beacon](https://evil.example/pixel.png)",
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "</details><iframe src='https://evil.example'>",
    "```\n# not in a fence any more\n```",
    "`code` **bold** _em_ ~~gone~~ $\\int$ # head",
    "key: [unclosed, {a: 'b\n- !!python/object/apply:os.system [id]",
    "safe\u202eevil\u2066\u200b\x00\x1b[31m\ud800",
    "<https://evil.example> https://evil.example www.evil.example a@evil.example",
    "&lt;script&gt; &#60;img&#62; \\<b\\>",
    "<!-- hub_fusion:notes:start -->\nforged\n<!-- hub_fusion:notes:end -->",
    "{{ 7 * 7 }} {% raw %} {#",
    "| --- |",
    "a" * 5000,
]


def golden(number: int = 3) -> tuple[Generation, Index]:
    """A generation of the golden lineage, and the index."""
    record = Generation.from_json((GOLDEN / f"fusion/gen-{number}.json").read_text())
    return record, Index.from_json((GOLDEN / "fusion/index.json").read_text())


def spoiled(text: str) -> tuple[Generation, Index]:
    """The golden gen-3 with `text` wherever a stranger may write."""
    record, index = golden()
    names = {"repo": text, "author": text, "task": text, "license": text, "datasets": (text, text)}
    credit = record.contributions[0].model_copy(update=names)
    linkable = record.contributions[1].model_copy(update={"task": text, "license": text, "datasets": (text,)})
    refusal = record.refusals[0].model_copy(update={"repo": text, "author": text, "reason": text, "code": text})
    entries = tuple(e.model_copy(update={"authors": (text,), "reason": text}) for e in index.entries)
    changed = {"contributions": (credit, linkable), "refusals": (refusal,), "hardware": {text: text}}
    head = {"mean": 0.9, "low": 0.8, "high": 0.95, "role": "seen", "protocol": "head", "examples": 100}
    changed["heads"] = (Score.model_validate(head | {"task": text}),)
    return record.model_copy(update=changed), index.model_copy(update={"entries": entries, "contributors": {text: 1}})


def front_of(card: str) -> dict[str, Any]:
    """The front matter, as any YAML reader sees it."""
    return yaml.safe_load(card.split("---\n")[1])


def inline(card: str) -> list[Any]:
    """All inline and HTML tokens of the body."""
    tokens = PARSER.parse(ModelCard(card).text)
    return [t for token in tokens for t in [token, *(token.children or [])]]


def test_the_example_is_what_the_golden_lineage_renders_to() -> None:
    """Run ``python -m hub_fusion.publish.card`` after a change of the template."""
    assert example(GOLDEN) == (TEMPLATES / "example.md").read_text(encoding="utf-8")


def test_heads_are_told_with_their_scores_and_how_to_use_them() -> None:
    """Only where there are some; the accuracy is said to be no measure of a base."""
    record, index = golden()
    assert "## Heads" not in render_card(record.model_copy(update={"heads": ()}), index, license="mit")
    score = Score(mean=0.9, low=0.8, high=0.95, role="seen", protocol="head", examples=100, task="ag_news")
    card = render_card(record.model_copy(update={"heads": (score,)}), index, license="mit")
    assert "| ag\\_news | 90.0 (80.0 to 95.0) | 100 |" in card and "not how good a base it is" in card
    assert f'load_head("{record.base}", "ag_news", revision="gen-3").predict(inputs)' in card


def test_main_rewrites_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "card.md"
    monkeypatch.setattr("sys.argv", ["card", str(GOLDEN), str(out)])
    monkeypatch.delitem(sys.modules, "hub_fusion.publish.card")
    runpy.run_module("hub_fusion.publish.card", run_name="__main__")
    assert out.read_text(encoding="utf-8") == example(GOLDEN)


def test_front_matter_names_the_root_alone_and_keeps_what_is_sane() -> None:
    record, index = golden()
    front = {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "language": "en",
        "tags": ["roberta", "gen-2"],
    }
    data = front_of(render_card(record, index, license="mit", front=front))
    assert list(data.pop("model-index")[0]) == ["name", "results"]
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "license": "mit",
        "language": ["en"],
        "base_model": "FacebookAI/roberta-base",
        "tags": ["hub-fusion", "cold-fusion", "gen-3", "roberta"],
        "hub_fusion": {
            "schema": 1,
            "generation": 3,
            "parent_revision": record.parent_revision,
            "record": "fusion/gen-3.json",
        },
    }


@pytest.mark.parametrize("root", [None, "acme/roberta-fused", "Acme/Roberta-Fused", "not a repository"])
def test_an_unknown_root_is_left_out(root: str | None) -> None:
    """A base that names itself as its own base would close a loop."""
    record, index = golden()
    data = front_of(render_card(record.model_copy(update={"root": root}), index, license=None))
    assert "base_model" not in data
    assert "license" not in data


def test_the_card_says_what_a_licence_asks_and_that_stricter_ones_were_let_in() -> None:
    """People who pin a base must not learn it from a lawyer."""
    record, index = golden()
    assert "under stricter licences" not in render_card(record, index, license="mit")
    llama = render_card(record, index, license="llama3.1")
    assert "Built with Llama" in llama
    assert "To mend: the licence llama3" in llama
    policy = "{license_policy: allow-stricter, resulting_license: cc-by-nc-4.0}"
    strict = record.model_copy(update={"recipe": f"base: {record.base}\ncontributions: {policy}\n"})
    assert "under stricter licences than the base had" in render_card(strict, index, license="cc-by-nc-4.0")


@pytest.mark.parametrize(
    "front",
    [
        None,
        {},
        {"library_name": 5, "pipeline_tag": ["x"], "language": False, "tags": {"a": 1}},
        {
            "library_name": "a\nb: c",
            "pipeline_tag": "x: y",
            "language": ["no way", None],
            "tags": ["a\n- b", 3, "ok\n"],
        },
        {"license": "evil", "base_model": "evil/loop", "model-index": [{}], "eval_results": 5, "hub_fusion": {"x": 1}},
        {"tags": "hub-fusion-base:" + "0" * 40},
        {"tags": [text for text in HOSTILE if text.startswith(("<", "[", "!", "`", "|", "{"))], "language": HOSTILE},
    ],
)
def test_hostile_metadata_of_the_present_card_is_dropped(front: Any) -> None:
    record, index = golden()
    data = front_of(render_card(record, index, license="mit", front=front))
    assert set(data) == {"library_name", "license", "base_model", "tags", "hub_fusion", "model-index"}
    assert data["library_name"] == "transformers"
    assert data["tags"] == ["hub-fusion", "cold-fusion", "gen-3"]
    assert data["base_model"] == "FacebookAI/roberta-base"


def test_a_license_of_its_own_kind_keeps_its_name_and_link() -> None:
    """The Hub wants both beside ``license: other``; beside another licence they would be wrong."""
    record, index = golden()
    front = {"license_name": "acme-1", "license_link": "LICENSE.md"}
    data = front_of(render_card(record, index, license="other", front=front))
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "acme-1", "LICENSE.md")
    assert "license_name" not in front_of(render_card(record, index, license="mit", front=front))


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_cannot_bend_the_card(text: str) -> None:
    """Front matter keeps its keys; no link, image, HTML or heading in the body comes from a stranger."""
    clean, hostile = example(GOLDEN), render_card(*spoiled(text), license="mit", front={"pipeline_tag": "fill-mask"})
    expected = front_of(clean)
    expected.pop("language")
    expected["tags"].remove("roberta")
    assert front_of(hostile) == expected
    assert hostile.encode("utf-8")
    assert len(hostile) < 1.5 * len(clean)
    tokens = inline(hostile)
    assert not [t for t in tokens if t.type == "image"]
    for t in tokens:
        if t.type == "link_open":
            assert t.attrGet("href").startswith(("https://huggingface.co/", "https://arxiv.org/")), t
        if t.type in ("html_block", "html_inline"):
            known = ("<details><summary>", "</details>", "<!-- hub_fusion:notes:")
            assert t.content.strip().startswith(known), t
            assert "forged" not in t.content
        if t.type == "text":
            assert "://" not in t.content
            assert "www." not in t.content
            assert not set(t.content) & set("\u202e\u2066\u200b\x00\x1b")
    shape = [(t.type, t.tag) for t in PARSER.parse(ModelCard(hostile).text) if t.type in ("heading_open", "fence")]
    assert shape == [
        (t.type, t.tag) for t in PARSER.parse(ModelCard(clean).text) if t.type in ("heading_open", "fence")
    ]
    assert notes_of(hostile) == ""


def test_hostile_strings_do_not_break_table_rows() -> None:
    """Every row has as many cells as its header."""
    for text in HOSTILE:
        lines = render_card(*spoiled(text), license=None).splitlines()
        head = next(i for i, line in enumerate(lines) if line.startswith("| Contribution"))
        cells = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines[head : head + 4]]
        assert len(set(cells)) == 1, (text, lines[head : head + 4])


def test_a_recipe_cannot_leave_its_fence() -> None:
    record, index = golden()
    recipe = "base: a/b\n# ```\n# ````\n```\n<script>alert(1)</script>\n~~~\n---\n\r# \u2028<b>\n"
    card = render_card(record.model_copy(update={"recipe": recipe}), index, license="mit")
    fences = [t for t in PARSER.parse(ModelCard(card).text) if t.type == "fence" and t.info == "yaml"]
    assert len(fences) == 1
    assert "<script>" in fences[0].content
    assert card.count("<script>") == 1
    long = render_card(record.model_copy(update={"recipe": "# " + "x" * 10**6}), index, license="mit")
    assert len(long) < 40_000
    assert "the rest is in fusion/gen-3.json" in long


def test_the_notes_of_the_maintainer_survive() -> None:
    record, index = golden()
    notes = "## Ours\n\nWritten by hand: <b>bold</b>, {{ braces }}, `code`.\n\n---\nstill ours"
    empty = render_card(record, index, license="mit")
    written = empty.replace("notes:start -->\n", f"notes:start -->\n{notes}\n").replace("\n", "\r\n")
    once = render_card(record, index, license="mit", previous=written)
    assert notes_of(once) == notes
    assert render_card(record, index, license="mit", previous=once) == once
    assert set(front_of(once)) == set(front_of(empty))
    assert render_card(record, index, license="mit", previous="# a card by hand") == empty


def test_sections_without_data_are_left_out() -> None:
    """A card of a bare record has no placeholders."""
    record, _ = golden(1)
    bare = Generation(id=record.id, generation=1, base=record.base, created_at=record.created_at)
    card = render_card(bare, Index(base=bare.base, updated_at=bare.created_at), license=None)
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [
        "# acme/roberta-fused, generation 1",
        "## Load it",
        "## Intended use and limits",
        "## Where it comes from",
        "## Contribute back",
        "## Citation",
    ]
    assert "None" not in card
    assert "needed" not in card.lower()
    assert front_of(card)["hub_fusion"] == {"schema": 1, "generation": 1, "record": "fusion/gen-1.json"}


def test_the_result_is_one_sentence_with_its_interval() -> None:
    text = render_card(*golden(), license="mit")
    assert (
        "Mean accuracy over 5 held-out tasks, few-shot finetuning, examples that the gate never saw: **71.4** "
        "(95 % interval 70.6 to 72.2), +4.6 over gen-0, +0.4 over gen-2 (−0.2 to +1.0; the interval holds 0, so this "
        "may be chance)." in text
    )
    first = render_card(*golden(1), license="mit")
    assert "over gen-0 (+1.8 to +3.0)." in first
    assert "| gen-2 |" not in first, "a card of gen-1 rendered later knows nothing of later generations"


def test_scores_of_another_suite_are_not_subtracted() -> None:
    record, index = golden()
    entries = tuple(e.model_copy(update={"suite": "other"}) if e.generation == 0 else e for e in index.entries)
    card = render_card(record, index.model_copy(update={"entries": entries}), license="mit")
    assert "gen-0 † | 66.8" in card
    assert "another suite" in card
    assert "over gen-0," not in card


def test_older_generations_are_folded() -> None:
    """The table shows ten; the others are one click away."""
    record, _ = golden(1)
    index = root_index(record.base, record.root, "0" * 40, record.created_at)
    for n in range(1, 15):
        update = {"generation": n, "parent_generation": n - 1, "id": f"{n:064x}"}
        index = append(index, record.model_copy(update=update), revisions={})
    last = record.model_copy(update={"generation": 14, "parent_generation": 13, "id": f"{14:064x}"})
    card = render_card(last, index, license="mit")
    shown, folded = card.split("</details>")[0].split("Older generations")
    assert [f"| gen-{n} |" in shown for n in range(15)] == [False] * 5 + [True] * 10
    assert [f"| gen-{n} |" in folded for n in range(15)] == [True] * 5 + [False] * 10


def test_a_withdrawn_generation_says_so() -> None:
    record, index = golden()
    assert "**Withdrawn.**" in render_card(record.model_copy(update={"status": "yanked"}), index, license="mit")


def test_links_lead_to_the_hub_in_use() -> None:
    card = render_card(*golden(), license="mit", endpoint_url="http://127.0.0.1:8000/")
    assert "huggingface.co" not in ModelCard(card).text
    assert "(http://127.0.0.1:8000/alice/roberta-fused-anli/tree/" in card


def test_refusals_are_counted_not_named() -> None:
    """Nobody is shamed by name in the card."""
    record, index = golden()
    card = render_card(record, index, license="mit")
    assert "Considered and not used: 3 (" in card
    assert not [r.repo for r in record.refusals if r.repo in card]


def test_the_model_index_is_read_back_by_the_client() -> None:
    data: Any = ModelCard(example(GOLDEN)).data
    assert data.model_name == "acme/roberta-fused"
    assert data.eval_results is not None
    assert len(data.eval_results) == 10
    assert {r.metric_type for r in data.eval_results} == {"accuracy"}


def test_the_card_needs_no_torch() -> None:
    """`hub-fusion check` and the watcher's dry run work without it."""
    import subprocess

    code = "import sys; import hub_fusion.publish.card; assert not {'torch', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.text(max_size=100))
@settings(max_examples=200, deadline=None)
def test_escaped_text_is_only_text(text: str) -> None:
    """Whatever is put into a cell comes out of the parser as one cell of plain text, and the next cell is untouched."""
    tokens = PARSER.parse(f"| a | b |\n|---|---|\n| x{md(text)} | y |")
    cells = [t for t in tokens if t.type == "inline"]
    assert len(cells) == 4
    assert {child.type for child in cells[2].children or []} <= {"text", "text_special"}
    assert cells[3].content == "y"


@given(st.text(alphabet=st.sampled_from("`~\n\r\t\u2028 <a-"), max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_fence_holds_its_content(text: str) -> None:
    tokens = PARSER.parse(fence(text, "yaml") + "\n\nafter")
    assert [t.type for t in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


def test_small_words() -> None:
    assert plain("a\u202e\nb  c", 3) == "a …"
    assert code("a`b|c") == "`a'b\\|c`"
    assert percent(-0.0041, sign=True) == "−0.4"
    assert table(["a"], []) == ""
    assert [duration(s) for s in (0.4, 61, 5025)] == ["0 s", "1 min 1 s", "1 h 23 min"]
    assert md("a|b <b>*c*</b>") == "a\\|b &lt;b&gt;\\*c\\*&lt;/b&gt;"


def test_a_score_with_neither_role_nor_parent_measured_still_renders() -> None:
    """Gate role alone, one task, parent of another suite: no report sentence, no deltas, no error."""
    record, _ = golden(1)
    assert record.candidate_scores is not None
    mean = Score(mean=0.5, low=0.4, high=0.6, role="gate", protocol="other|protocol", examples=10)
    scores = record.candidate_scores.model_copy(update={"means": (mean,), "tasks": (), "suite": "s"})
    alone = record.model_copy(update={"candidate_scores": scores, "differences": (), "verdict": None})
    entry = IndexEntry(id="x", status="rejected", parent_generation=0, created_at=record.created_at)
    card = render_card(alone, Index(base="a/b", updated_at=record.created_at, entries=(entry,)), license="mit")
    assert "Mean accuracy, other\\|protocol, gate examples: **50.0** (95 % interval 40.0 to 60.0)." in card
    assert "rejected 1 other attempt" in card
    assert "model-index" not in front_of(card)


def test_contributions_from_folders_are_named_without_a_link() -> None:
    """`fuse` takes local folders, whose names are no repositories."""
    record, index = golden()
    credit = Credit(repo="my folder", sha="0" * 40, relation="finetune", author="me, myself")
    card = render_card(record.model_copy(update={"contributions": (credit,)}), index, license="mit")
    assert "| my folder | me, myself | finetune |" in card


def test_refusal_codes_read_as_words() -> None:
    record, index = golden()
    refusal = Refusal(repo="a/b", sha="", author="a", stage="screen", code="norm_outlier", reason="", fix="")
    old = record.model_copy(update={"refusals": (refusal,), "refused": {}})
    assert "(norm outlier 1)" in render_card(old, index, license="mit")
    new = record.model_copy(update={"refusals": (refusal,), "refused": {"norm_outlier": 9000}})  # one told in full
    assert "Considered and not used: 9000 (norm outlier 9000)" in render_card(new, index, license="mit")


def test_thanks_name_two_hundred_and_count_the_others() -> None:
    record, index = golden()
    many = {f"person-{n:03}": 1 for n in range(300)}
    card = render_card(record, index.model_copy(update={"contributors": many}), license="mit")
    assert "and 113 more." in card


def test_likelihoods_are_shown_in_nats_and_never_as_percent() -> None:
    record, index = golden()
    assert record.candidate_scores and record.parent_scores
    common = {"role": "report", "protocol": "perplexity", "examples": 40}
    ours, theirs = (
        tuple(Score(mean=m, low=m - 0.01, high=m + 0.01, task=t, **common) for t in ("news", None))
        for m in (-3.25, -3.5)
    )
    change = Difference(mean=0.25, low=0.2, high=0.3, role="report", protocol="perplexity")
    measured = record.model_copy(update={
        "candidate_scores": record.candidate_scores.model_copy(update={"likelihoods": ours}),
        "parent_scores": record.parent_scores.model_copy(update={"likelihoods": theirs}),
        "likelihood_differences": (change,),
    })  # fmt: skip
    card, before = render_card(measured, index, license=None), render_card(record, index, license=None)
    assert (
        "| news | report | perplexity | −3.5000 (−3.5100 to −3.4900) | −3.2500 (−3.2600 to −3.2400) | +0.2500 |" in card
    )
    assert "| mean | report | perplexity |" in card and "+0.2500 (+0.2000 to +0.3000) |" in card
    assert card.replace(card[card.index("In nats") : card.index("## Heads")], "") == before
    alone = Scores(suite=record.candidate_scores.suite, weights_sha256="7" * 64, likelihoods=ours)
    unmeasured = measured.model_copy(update={"candidate_scores": alone, "parent_scores": None})
    assert "## Evaluation\n\nIn nats" in render_card(unmeasured, index, license=None)
