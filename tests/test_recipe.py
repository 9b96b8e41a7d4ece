"""A recipe reads back as itself, and whatever is wrong with one is said in a sentence."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.errors import RecipeError
from hub_fusion.recipe import Recipe

finite = st.floats(0, 1e6, allow_nan=False)
names = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
texts = st.lists(st.text(max_size=10), max_size=3)
recipes = st.fixed_dictionaries(
    {"base": st.builds("{}/{}".format, names, names)},
    optional={
        "root": st.none() | st.text(max_size=20),
        "aliases": texts,
        "contributions": st.fixed_dictionaries(
            {}, optional={"consent": st.just("license"), "block": texts, "own": st.booleans()}
        ),
        "round": st.fixed_dictionaries({}, optional={"max_wait": st.timedeltas(timedelta(0), timedelta(days=10**5))}),
        "merge": st.fixed_dictionaries(
            {},
            optional={
                "method": st.text(max_size=10),
                "options": st.dictionaries(st.text(max_size=5), values, max_size=3),
                "steps": st.lists(st.floats(0.001, 1), min_size=1, max_size=3),
            },
        ),
        "evaluate": st.fixed_dictionaries(
            {},
            optional={
                "tasks": st.lists(st.builds(lambda n: {"name": n, "path": f"tasks/{n}"}, names), max_size=2),
                "probe": st.none() | st.fixed_dictionaries({"examples": st.integers(2, 10**6)}),
                "fewshot": st.none(),
            },
        ),
        "gate": st.fixed_dictionaries({"epsilon": finite}, optional={"protocols": st.just(["probe"])}),
        "poll_seconds": st.floats(0.1, 1e6),
    },
)


@given(recipes)
@settings(max_examples=60, deadline=None)
def test_a_recipe_reads_back_as_itself(data: dict[str, Any]) -> None:
    """Defaults included: what is stored with a generation says everything."""
    recipe = Recipe.model_validate(data)
    text = recipe.to_yaml()
    assert Recipe.from_text(text) == recipe
    assert Recipe.from_text(text).to_yaml() == text
    assert Recipe.from_text(text).decisive() == recipe.decisive()


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    for candidate in (text, f"base: a/b\nround: {text}", f"base: {text}"):
        try:
            Recipe.from_text(candidate)
        except RecipeError as error:
            assert str(error)


def test_the_template_is_a_recipe_with_the_defaults() -> None:
    recipe = Recipe.from_text(Recipe.template("acme/base", "root/model"))
    assert (recipe.base, recipe.root) == ("acme/base", "root/model")
    assert Recipe.from_text(Recipe.template("acme/base")).root is None
    assert recipe == Recipe(base="acme/base", root="root/model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: a/b\nrond: {}", r"unknown key 'rond'; did you mean 'round'\?"),
        (
            "base: a/b\nround: {min_contribution: 3}",
            r"unknown key 'round.min_contribution'; did you mean 'min_contributions'\?",
        ),
        (
            "base: a/b\nevaluate: {tasks: [{name: x, path: y, pth: z}]}",
            r"unknown key 'evaluate.tasks.0.pth'; did you mean 'path'",
        ),
        (
            "base: a/b\nevaluate: {fewshot: {epoch: 1}}",
            r"unknown key 'evaluate.fewshot.epoch'; did you mean 'epochs'\?",
        ),
        (
            "base: a/b\ngate: {zzz: 1}",
            "unknown key 'gate.zzz'; known are delta, epsilon, epsilon_best, epsilon_root, protocols, require_tasks",
        ),
        ("base: a/b\nround: 5", "round: Input should be a valid dictionary"),
        ("base: a/b\nround: {min_contributions: 9, max_contributions: 3}", "min_contributions 9 > max_contributions 3"),
        ("base: a/b\nround: {min_contributions: 0}", r"greater than or equal to 1 \(given: 0\)"),
        ("base: a/b\nmerge: {steps: []}", r"steps are numbers in \(0, 1\], at least one"),
        ("base: a/b\nmerge: {steps: [1.5]}", r"steps are numbers in \(0, 1\]"),
        ("base: a/b\ngate: {epsilon: .inf}", "finite number"),
        ("base: a/b\ngate: {epsilon: .nan}", "gate.epsilon"),
        ("base: a/b\ncontributions: {license_policy: allow-stricter}", "type the licence that every later generation"),
        ("base: a/b\ncontributions: {resulting_license: gpl-3.0}", "type the licence that every later generation"),
        (
            "base: a/b\ncontributions: {license_policy: allow-stricter, resulting_license: cc-by-nd-4.0}",
            "no generation can have it",
        ),
        (
            "base: a/b\npublish: {license: mit}\n"
            "contributions: {license_policy: allow-stricter, resulting_license: gpl-3.0}",
            "publish.license is mit, contributions.resulting_license is gpl-3.0: name one",
        ),
        ("base: just-a-name", "base: String should match"),
        ("{}", "base: Field required"),
        ("", "base: Field required"),
        ("- 1", "must be a mapping of keys to values, not list"),
        ("5", "must be a mapping of keys to values, not int"),
        ("base: a/b\n1: 2", "1: Keys should be strings"),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_remedy(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_text(text)


@pytest.mark.parametrize(
    "text",
    ["base: [", "a: b: c", "base: 2026-13-45", "base: 0b_", "base: !!int ''", "base: !!timestamp 'x'", "a\x00b",
     "{[a]: 1}", "? {a: 1}\n: 2", "base: a/b\n<<: 5", "*unknown", "[" * 600],
)  # fmt: skip
def test_broken_yaml_is_a_recipe_error(text: str) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml is not YAML"):
        Recipe.from_text(text, source="r.yaml")


@pytest.mark.parametrize(
    "tag", ["object/apply:os.system [touch {0}]", "name:os.system", "object:pathlib.Path {{}}", "tuple [1]"]
)
def test_python_tags_are_refused(tag: str, tmp_path: Path) -> None:
    """A recipe is data; it cannot call anything."""
    mark = tmp_path / "called"
    with pytest.raises(RecipeError, match="could not determine a constructor"):
        Recipe.from_text(f"base: !!python/{tag.format(mark)}")
    assert not mark.exists()


def test_flags_win_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("base: a/b\nround: {min_contributions: 4, choose: oldest}\n")
    assert Recipe.load(path).round.min_contributions == 4
    monkeypatch.setenv("HUB_FUSION_ROUND__MIN_CONTRIBUTIONS", "6")
    monkeypatch.setenv("HUB_FUSION_GATE__PROTOCOLS", "[probe]")
    monkeypatch.setenv("HUB_FUSION_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HUB_FUSION_LIVE_ENDPOINT", "x")
    recipe = Recipe.load(path)
    assert (recipe.round.min_contributions, recipe.round.choose) == (6, "oldest")
    assert recipe.gate.protocols == ("probe",)
    assert Recipe.load(path, overrides={"round.min_contributions": 8}).round.min_contributions == 8
    assert Recipe.from_text(path.read_text()).round.min_contributions == 4, "text alone does not read the environment"


def test_a_bad_override_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"flag: base\.x: base is not a section"):
        Recipe.from_text("base: a/b", overrides={"base.x": 1})
    with pytest.raises(RecipeError, match="did you mean 'choose'"):
        Recipe.from_text("base: a/b", overrides={"round.chose": "all"})
    path = tmp_path / "recipe.yaml"
    path.write_text("base: a/b")
    monkeypatch.setenv("HUB_FUSION_ROUND__CHOOSE", "[")
    with pytest.raises(RecipeError, match="environment variable HUB_FUSION_ROUND__CHOOSE is not YAML"):
        Recipe.load(path)


def test_load_resolves_tasks_and_names_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("base: a/b\nevaluate: {tasks: [{name: t, path: tasks/t}, {name: u, path: /data/u}]}")
    recipe = Recipe.load(path)
    assert [t.folder for t in recipe.evaluate.tasks] == [tmp_path / "tasks/t", Path("/data/u")]
    assert str(tmp_path) not in recipe.to_yaml()  # the recipe is published; the maintainer's folders are not
    with pytest.raises(RecipeError, match="hub-fusion init writes a recipe"):
        Recipe.load(tmp_path / "missing.yaml")
    path.write_bytes(b"base: \xff")
    with pytest.raises(RecipeError, match="is not UTF-8"):
        Recipe.load(path)


def test_only_what_decides_the_result_is_decisive() -> None:
    """When a round runs and how often the Hub is asked do not make it another attempt; the gate and the formula do."""
    recipe = Recipe(base="a/b")

    def with_(text: str) -> str:
        return Recipe.from_text("base: a/b\n" + text).decisive()

    assert recipe.decisive() == with_("round: {min_contributions: 2}") == with_("poll_seconds: 5")
    assert recipe.decisive() == with_("contributions: {include: [x/y]}") == with_("screen: {spool_bytes: 5}")
    changed = [with_("merge: {method: ties}"), with_("gate: {epsilon: 0.1}"), with_("screen: {cap_mad: 1}")]
    assert len({recipe.decisive(), *changed}) == 4


def test_yaml_of_a_recipe_is_plain() -> None:
    """It is shown in the card: no tags, no anchors, keys in the order of the file."""
    text = Recipe(base="a/b").to_yaml()
    assert "!!" not in text
    assert "&" not in text
    assert list(yaml.safe_load(text))[:3] == ["base", "root", "aliases"]


def test_accuracies_and_likelihoods_cannot_decide_together() -> None:
    """Their mean would have no unit, and ε none either."""
    with pytest.raises(RecipeError, match="logme has no common mean with others"):
        Recipe.from_text("base: a/b\ngate: {protocols: [probe, logme]}")
    assert Recipe.from_text("base: a/b\ngate: {protocols: [logme]}").gate.protocols == ("logme",)
