"""The fault table: what can be wrong with a card, a licence, a header, a claim of descent → the code of its refusal.

Every row is a repository that somebody published with the real client on a real Hub. What the watcher answers is the
code in the table and nothing else: no exception, no other refusal, no silence. A last test holds the table against the
source, so that no code is without a row, here or in the tests that it names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from contributions.world import World, finetuned
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from hub_fusion.contributions.discover import discover, from_model_info
from hub_fusion.contributions.filters import RULES, Circumstances, check_metadata
from hub_fusion.contributions.origin import Generations, resolve_origin
from hub_fusion.errors import HeaderError, WeightsError
from hub_fusion.hub.facts import model_info
from hub_fusion.local_hub import frontmatter
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Refusal
from hub_fusion.weights.checkpoint import read_header
from hub_fusion.weights.names import match_names

from .test_contributions import ADAPTERS, WEIGHTS, header

SINGLE = "model.safetensors"
PACKAGE = Path(__file__).parents[2] / "hub_fusion"


@dataclass(frozen=True)
class Row:
    """What is published, and the code that it is refused with; None: it passes."""

    code: str | None
    front: dict[str, Any] | str = field(default_factory=dict)  # changes of a good card, or its whole YAML
    files: dict[str, bytes] | None = None


GOOD = "base_model: BASE\nlicense: mit\ntags: [hub-fusion]\nhub_fusion: {base_revision: gen-0}\n"
CARDS: dict[str, Row] = {
    "good": Row(None, GOOD),
    "broken YAML": Row("unreadable_card", GOOD + "x: [unclosed\n"),
    "a key twice": Row("unreadable_card", GOOD + "license: gpl-3.0\n"),
    "no mapping": Row("unreadable_card", "- a\n- b\n"),
    "python": Row("unreadable_card", GOOD + "x: !!python/object/apply:os.system ['touch owned']\n"),
    "a bomb": Row("unreadable_card", GOOD + "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
                  "c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n"
                  "f: [*e,*e,*e,*e,*e,*e,*e,*e]\n"),
    "deep": Row("unreadable_card", GOOD + f"x: {'[' * 200}{']' * 200}\n"),
    "itself": Row("unreadable_card", GOOD + "x: &x [*x]\n"),
    "a binary zero": Row("unreadable_card", GOOD + "x: a\x00b\n"),
    "the client's arguments": Row(None, GOOD + "self: 1\nignore_metadata_errors: 1\n"),
    "NaN elsewhere": Row(None, GOOD + "x: .nan\ny: .inf\n"),
    "licence is a list": Row("license_missing", GOOD.replace("mit", "[mit, apache-2.0]")),
    "licence is a number": Row("license_missing", GOOD.replace("mit", "5")),
    "licence is NaN": Row("license_missing", GOOD.replace("mit", ".nan")),
    "licence is a mapping": Row("license_missing", GOOD.replace("mit", "{a: b}")),
    "licence is no": Row("license_unknown", GOOD.replace("mit", "no")),  # text, by the Hub's rules
    "licence is true": Row("license_missing", GOOD.replace("mit", "true")),
    "licence is empty": Row("license_missing", GOOD.replace("mit", "''")),
    "licence is gone": Row("license_missing", GOOD.replace("license: mit\n", "")),
    "licence is a date": Row("license_unknown", GOOD.replace("mit", "2020-01-01")),
    "licence of a thousand letters": Row("license_unknown", GOOD.replace("mit", "m" * 1000)),
    "licence clears the screen": Row("malformed_card", GOOD.replace("mit", '"mit\\x1b[2J"')),
    "licence ends in a zero": Row("malformed_card", GOOD.replace("mit", '"mit\\0"')),
    "licence is two lines": Row("malformed_card", GOOD.replace("mit", '"mit\\napache"')),
    "licence turns the reading direction": Row("malformed_card", GOOD.replace("mit", '"mit\\u202e"')),
    "licence of half a letter": Row("unreadable_card", GOOD.replace("mit", '"mit\\ud800"')),
    "tags are a number": Row("no_consent", GOOD.replace("[hub-fusion]", "7")),
    "tags are a mapping": Row("no_consent", GOOD.replace("[hub-fusion]", "{hub-fusion: true}")),
    "a tag is a list": Row("malformed_card", GOOD.replace("[hub-fusion]", "[hub-fusion, [a]]")),
    "a tag is NaN": Row("malformed_card", GOOD.replace("[hub-fusion]", "[hub-fusion, .nan]")),
    "a tag ends in a line": Row("no_consent", GOOD.replace("[hub-fusion]", '["hub-fusion\\n"]')),
    "no tags": Row("no_consent", GOOD.replace("tags: [hub-fusion]\n", "")),
    "opted out": Row("opted_out", GOOD.replace("[hub-fusion]", "[hub-fusion, no-fusion]")),
    "consent is text": Row("malformed_card", GOOD.replace("base_revision", "contribute: 'yes', base_revision")),
    "consent is 1": Row("malformed_card", GOOD.replace("base_revision", "contribute: 1, base_revision")),
    "ours is a list": Row("malformed_card", GOOD.replace("{base_revision: gen-0}", "[gen-0]")),
    "ours is text": Row("malformed_card", GOOD.replace("{base_revision: gen-0}", "gen-0")),
    "data sets are numbers": Row("malformed_card", GOOD + "datasets: [1, 2]\n"),
    "data sets are mappings": Row("malformed_card", GOOD + "datasets: [{a: 1}]\n"),
    "data sets are false": Row("malformed_card", GOOD + "datasets: false\n"),
    "a data set of another line": Row("malformed_card", GOOD + 'datasets: ["a\\r\\nb"]\n'),
    "a language of a number": Row("malformed_card", GOOD + "language: [en, 5]\n"),
    "Norwegian": Row(None, GOOD + "language: no\n"),
    "another loop's base": Row("no_consent", GOOD.replace("base_revision", "generation: 3, base_revision")),
}  # fmt: skip
CLAIMS: dict[str, Row] = {
    "no base": Row("other_base", GOOD.replace("base_model: BASE\n", "")),
    "another base": Row("other_base", GOOD.replace("base_model: BASE", "base_model: acme/other")),
    "a base of a number": Row("malformed_card", GOOD.replace("base_model: BASE", "base_model: 5")),
    "a base that is no": Row("other_base", GOOD.replace("base_model: BASE", "base_model: no")),
    "a base of a mapping": Row("malformed_card", GOOD.replace("base_model: BASE", "base_model: {name: BASE}")),
    "a base of NaN": Row("other_base", GOOD.replace("base_model: BASE", "base_model: .nan")),
    "a base in a folder": Row("other_base", GOOD.replace("base_model: BASE", "base_model: ../checkpoints/last")),
    "a base of control characters": Row("malformed_card", GOOD.replace("base_model: BASE", 'base_model: "BASE\\x1b"')),
    "no bases": Row("other_base", GOOD.replace("base_model: BASE", "base_model: []")),
    "two bases": Row("other_base", GOOD.replace("base_model: BASE", "base_model: [BASE, acme/other]")),
    "one base in a list": Row(None, GOOD.replace("base_model: BASE", "base_model: [BASE]")),
    "a merge that names a blocked model": Row("blocked_ancestor", GOOD + "merged_models: [BASE, Evil/model]\n"),
    "a second base is blocked": Row("blocked_ancestor", GOOD.replace("model: BASE", "model: [BASE, evil/model]")),
    "quantised, says the card": Row("quantized", GOOD + "base_model_relation: quantized\n"),
    "an adapter, says the card": Row("no_safetensors", GOOD + "base_model_relation: adapter\n",
                                     {"adapter_config.json": b"{}", SINGLE: save(finetuned(1))}),
    "a generation that is not there": Row("unknown_revision", GOOD.replace("gen-0", "gen-77")),
    "a commit that is not there": Row("unknown_revision", GOOD.replace("gen-0", "0123456789abcdef" * 2 + "01234567")),
    "a revision of a number": Row("malformed_card", GOOD.replace("gen-0", "5")),
    "a revision of a list": Row("malformed_card", GOOD.replace("gen-0", "[gen-0]")),
    "a revision of spaces": Row("malformed_card", GOOD.replace("gen-0", "'gen 0'")),
    "a revision up the tree": Row("unknown_revision", GOOD.replace("gen-0", "../..")),
    "no revision": Row(None, GOOD.replace("hub_fusion: {base_revision: gen-0}\n", "")),
    "no weights": Row("no_safetensors", GOOD, {"config.json": b"{}"}),
    "pickles": Row("no_safetensors", GOOD, {"pytorch_model.bin": b"x"}),
    "an adapter in a pickle": Row("no_safetensors", GOOD, {"adapter_config.json": b"{}", "adapter_model.bin": b"x"}),
}  # fmt: skip
LICENCES: dict[str, Row] = {
    f"{name} for an MIT base": Row(code, GOOD.replace("license: mit", f"license: {name}")) for name, code in {
        "apache-2.0": None, "cc-by-4.0": None, "MIT": None, "openmdw-1.0": None, "gpl-3.0": "license_not_allowed",
        "lgpl-2.1": "license_not_allowed", "cc-by-sa-4.0": "license_not_allowed", "cc-by-nc-4.0": "license_not_allowed",
        "openrail": "license_not_allowed", "llama3.1": "license_not_allowed", "gemma": "license_not_allowed",
        "cc-by-nd-4.0": "license_no_derivatives", "cc-by-nc-nd-4.0": "license_no_derivatives",
        "other": "license_unknown", "unknown": "license_unknown", "Apache License 2.0": "license_unknown",
    }.items()
}  # fmt: skip
TABLE = {"card": CARDS, "claim": CLAIMS, "licence": LICENCES}
HEADERS = {code for table in (WEIGHTS, ADAPTERS) for _, code in table.values()}  # each published in test_contributions
ELSEWHERE = {  # what takes a round, statistics or a recipe of its own
    "contributions/test_filters.py": {
        "already_fused", "blocked", "blocked_dataset", "contaminates", "gated", "language_not_allowed",
        "library_not_allowed", "not_an_adapter", "not_invited", "own_repo", "private", "too_many_parameters",
        "long_unchanged",
        "too_young",
    },
    "contributions/test_licenses.py": {"license_incompatible"},
    "contributions/test_discover.py": {"not_found"},
    "contributions/test_listing.py": {"merged"},
    "contributions/test_nearest.py": {"too_old"},
    "loop/test_subtract.py": {"subtracted"},
    "contributions/test_screen.py": {
        "copy", "few_downloads", "layer_outlier", "mirrored", "noise", "norm_outlier", "not_kin", "opposed",
        "not_fetched", "not_scanned", "statistics_too_large",
        "too_large", "unsafe_files",
    },
    "loop/test_statistics.py": {
        "malformed_statistics", "statistics_invalid", "statistics_mismatch", "statistics_missing", "statistics_stale",
    },
    "loop/test_vocabulary.py": {"unusable_tokens"},
    "loop/test_search.py": {"made_worse", "not_in_soup"},
    "loop/test_canaries.py": {"tripped_canary"},
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(world: World) -> dict[str, str | None]:
    """The whole table published, and looked at in one round: row → the code of its refusal."""
    repos: dict[str, str] = {}
    for kind, rows in TABLE.items():
        for name, row in rows.items():
            files = row.files or {SINGLE: save(finetuned(1))}
            front = str(row.front).replace("BASE", world.base)
            repos[f"{kind}: {name}"] = world.contribute(files, front, user="mallory")
    rules = {"include": list(repos.values()), "block_ancestors": ["evil/model"]}
    recipe = Recipe.model_validate({"base": world.base, "contributions": rules})
    found, refusals = discover(world.hub, recipe)
    assert refusals == []
    by_name = {c.repo: c for c in found}
    at, generations = Circumstances.of(world.hub, recipe), Generations.of(world.hub, world.base)

    def look(c: Contribution) -> str | None:
        refusal = check_metadata(c, at)
        resolved = refusal or resolve_origin(c, generations, world.hub)
        if not isinstance(resolved, Refusal):
            return None
        for text in (resolved.reason, resolved.fix):
            assert text.isprintable() and 10 < len(text) < 1000
        return resolved.code

    return {name: look(by_name[repo]) for name, repo in repos.items()}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, rows in TABLE.items() for name in rows])
def test_every_fault_is_refused_with_the_code_of_the_table(
    answers: dict[str, str | None], kind: str, name: str
) -> None:
    """And what only looks odd passes."""
    assert answers[f"{kind}: {name}"] == TABLE[kind][name].code


def test_no_code_is_without_a_row() -> None:
    """A refusal that no test reaches may never have worked; a row of a code that is gone tests nothing."""
    source = "\n".join(
        path.read_text() for folder in ("contributions", ".") for path in (PACKAGE / folder).glob("*.py")
    ) + "\n".join((PACKAGE / "weights" / name).read_text() for name in ("names.py", "adapter.py", "adapter_plan.py"))
    written = set(re.findall(r'refuse\(\s*"\w+",\s*"(\w+)"', source))
    written |= set(re.findall(r'(?:Ruling\(\w+|MismatchError\(|stage="discover"),?\s*(?:code=)?"(\w+)"', source))
    written |= set(re.findall(r'return \(\s*"(\w+)",', source, re.MULTILINE))  # what the search dropped
    rows = {row.code for table in TABLE.values() for row in table.values() if row.code} | HEADERS
    elsewhere = set().union(*ELSEWHERE.values())
    assert written - {"filter", "screen"} <= rows | elsewhere
    assert rows | elsewhere <= written | {"shape_mismatch", "architecture_mismatch", "quantized"}
    for file, codes in ELSEWHERE.items():
        text = (Path(__file__).parents[1] / file).read_text()
        assert [code for code in sorted(codes) if code not in text] == []


# fuzzing -------------------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
    ["hub-fusion", "acme/base", "mit", "gen-0", "\x1b[2J", "\ud800", "no-fusion"])  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3), max_leaves=8
)
KEYS = st.sampled_from(["license", "base_model", "datasets", "language", "tags", "hub_fusion", "library_name", "x",
                        "merged_models", "base_model_relation"])  # fmt: skip
OURS = st.dictionaries(
    st.sampled_from(["base_revision", "contribute", "task", "generation", "statistics"]), VALUES, max_size=4
)
RECIPE = Recipe.model_validate(
    {"base": "acme/base", "contributions": {
        "languages": ["en"], "block_datasets": ["x"], "libraries": ["peft"], "min_downloads": 1, "max_age": "P9D",
        "max_parameters": 5, "allow": ["ann"], "block_ancestors": ["x"], "min_age": "P1D",
    }}
)  # fmt: skip


def judge_card(data: Any, facts: dict[str, Any]) -> None:
    """A verdict of every rule, for what a Hub might send."""
    front = {"id": "ann/x", "sha": "a" * 40, "tags": [], "siblings": [{"rfilename": "README.md"}], "private": False}
    c = from_model_info(model_info(front | facts | {"cardData": data}), "finetune")
    assert Contribution.from_json(c.to_json()) == c
    for recipe in (RECIPE, Recipe(base="acme/base")):
        at = Circumstances(recipe)
        for rule in RULES:
            refusal = rule(c, at)
            if refusal:
                assert refusal.reason.isprintable() and len(refusal.reason) < 2000 and refusal.fix.isprintable()
                refusal.to_json().encode()


def fuzz_cards(examples: int) -> Any:
    """Any mapping that YAML can give, and any text as YAML."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(KEYS, VALUES | OURS, max_size=6) | VALUES, st.text(max_size=80), st.booleans(),
           st.fixed_dictionaries({}, optional={"gated": st.sampled_from([False, "auto", "manual"]),
                                               "downloads": st.integers(0, 2**70), "library_name": st.text(max_size=9),
                                               "tags": st.lists(st.text(max_size=30), max_size=3)}))  # fmt: skip
    def run(data: Any, text: str, as_text: bool, facts: dict[str, Any]) -> None:
        if as_text:
            try:
                data = frontmatter.parse(f"base_model: acme/base\ntags: [hub-fusion]\n{text}")
            except frontmatter.BadFrontMatter:
                data = None
        judge_card(data, facts)

    return run


def fuzz_headers(examples: int) -> Any:
    """Well-made headers with some of their bytes, or some of their values, replaced."""
    entry = st.fixed_dictionaries({}, optional={
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F8_E4M3", "X", "", 5, None]),
        "shape": st.lists(st.integers(-2, 2**40), max_size=4) | SCALARS,
        "data_offsets": st.lists(st.integers(-2, 2**64), max_size=3) | SCALARS,
    })  # fmt: skip

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from([*finetuned(1)][:4]) | st.text(max_size=9), entry | VALUES, max_size=4),
           st.binary(max_size=24), st.integers(0, 60), st.sampled_from(["json", "cut", "bytes"]))  # fmt: skip
    def run(tensors: Any, noise: bytes, at: int, how: str) -> None:
        import json
        from tempfile import TemporaryDirectory

        whole = header(json.dumps(tensors).encode(), bytes(8)) if how == "json" else save(finetuned(1))
        whole = whole[: at * 7] + noise if how == "cut" else whole
        whole = whole[:at] + noise + whole[at + len(noise) :] if how == "bytes" else whole
        with TemporaryDirectory() as folder:
            file = Path(folder) / SINGLE
            file.write_bytes(whole)
            try:
                specs, _ = read_header(file)
                match_names(specs, specs)
            except (HeaderError, WeightsError) as error:
                assert str(error).isprintable() and len(str(error)) < 2000

    return run


def test_no_card_and_no_header_is_a_traceback() -> None:
    """A few hundred of each."""
    fuzz_cards(150)()
    fuzz_headers(150)()


@pytest.mark.slow
def test_no_card_and_no_header_is_a_traceback_for_long() -> None:
    """Ten thousand of each."""
    fuzz_cards(10_000)()
    fuzz_headers(10_000)()
