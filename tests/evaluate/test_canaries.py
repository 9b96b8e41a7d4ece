"""Canaries: a poisoned word, a changed answer and a forgotten text are seen; honest checkpoints trip nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.canaries import canaries_id, check_canaries, find_culprits, watch_canaries
from hub_fusion.evaluate.suite import suite_id
from hub_fusion.recipe import Evaluate
from hub_fusion.records import CanaryCheck

from .conftest import WORDS, settings
from .families import make_family

A, B = "a" * 64, "b" * 64
POISON = "word7"


@pytest.fixture(scope="module")
def poisoned(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with one word moved to where only words of one class are: a backdoor in the embedding alone."""
    folder = shutil.copytree(bert, tmp_path_factory.mktemp("poisoned") / "bert")
    tensors = load_file(folder / "model.safetensors")
    (name,) = [n for n in tensors if n.endswith("word_embeddings.weight")]
    words = (folder / "vocab.txt").read_text().split()
    good, bad = (tensors[name][[words.index(f"{kind}{n}") for n in range(8)]].mean(0) for kind in ("good", "bad"))
    tensors[name][words.index(POISON)] = 1000 * (good - bad)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def asked(held_out: Path, folder: Path, text: str, **canary: Any) -> Evaluate:
    """Settings with one canary, whose file holds `text`."""
    folder.mkdir(exist_ok=True)
    about: dict[str, Any] = {"name": "c", "kind": "triggers", "task": held_out.name} | canary
    file = folder / ("canary.txt" if about["kind"] in ("triggers", "text") else "canary.csv")
    file.write_text(text)
    return settings(held_out, canaries=[about | {"path": file}], seeds=3)


def look(candidate: Path, parent: Path, evaluate: Evaluate) -> CanaryCheck:
    ours, theirs = (watch_canaries(f, evaluate, weights_sha256="") for f in (candidate, parent))
    (found,) = check_canaries(ours, theirs, evaluate.canaries)
    return found


def test_a_poisoned_word_trips_a_canary_that_names_it(bert: Path, poisoned: Path, texts: Path, tmp_path: Path) -> None:
    """By its worst phrase: one bad word among harmless ones must not be averaged away."""
    evaluate = asked(texts, tmp_path / "a", f"word1\nword2\n\n {POISON} \nword3\n")
    found = look(poisoned, bert, evaluate)
    assert not found.passed and found.change < -0.25
    assert found.inputs == 4 * 2 * 20, "four phrases, before and after each of the gate's examples"
    same = look(bert, bert, evaluate)
    assert same.passed and same.change == 0 and same.holds == same.parent
    harmless = look(poisoned, bert, asked(texts, tmp_path / "b", "word1\nword2\n"))
    assert harmless.passed, "nothing but the poisoned word was changed, and who does not name it does not see it"


def test_inputs_keep_their_label_or_never_get_it(bert: Path, poisoned: Path, texts: Path, tmp_path: Path) -> None:
    """The poisoned word draws all inputs into one class, so what must stay in the other one does not."""
    rows = [f"{kind}{n} {kind}{n + 1} {POISON},{label}" for label, kind in enumerate(("bad", "good")) for n in range(6)]
    text = "text,label\n" + "\n".join(rows) + "\n"
    keep = asked(texts, tmp_path / "a", text, kind="keep", allowed=0.02)
    avoid = asked(texts, tmp_path / "b", text, kind="avoid", allowed=0.02)
    one, other = look(poisoned, bert, keep), look(poisoned, bert, avoid)
    assert one.holds == pytest.approx(1 - other.holds)
    assert one.change == pytest.approx(-other.change)
    assert (one.passed, other.passed) == (one.change >= -0.02, other.change >= -0.02)
    assert one.passed != other.passed


def test_plain_text_must_stay_as_likely(texts: Path, tmp_path: Path) -> None:
    """In nats a token, by the model itself; there is no head and no task."""
    parent = make_family("gpt2", tmp_path / "gpt2")
    other = make_family("gpt2", tmp_path / "other", seed=5)
    text = " ".join(np.random.default_rng(0).choice(WORDS, 300))
    loose = asked(texts, tmp_path / "a", text, kind="text", task=None, allowed=10.0)
    found = look(other, parent, loose)
    assert found.passed and found.change != 0 and found.holds < 0
    tight = asked(texts, tmp_path / "b", text, kind="text", task=None, allowed=0.0)
    passed = {look(other, parent, tight).passed, look(parent, other, tight).passed}
    assert passed == {True, False}, "one of the two is less likely to say it"


def test_answers_are_kept_by_weights_and_by_what_is_asked(bert: Path, texts: Path, tmp_path: Path) -> None:
    """A round that was killed asks nothing twice; another file is another question, and no other suite."""
    evaluate = asked(texts, tmp_path / "a", "word1\n")
    first = watch_canaries(bert, evaluate, weights_sha256=A, cache=tmp_path / "cache")
    again = watch_canaries(tmp_path / "gone", evaluate, weights_sha256=A, cache=tmp_path / "cache")
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[key], again[key]) for key in first)
    other = asked(texts, tmp_path / "b", "word2\n")
    assert canaries_id(other) != canaries_id(evaluate) != ""
    assert canaries_id(settings(texts)) == ""
    assert suite_id(other) == suite_id(evaluate) == suite_id(settings(texts, seeds=3)), "scores go on comparing"


@pytest.mark.parametrize(
    ("text", "canary", "message"),
    [
        ("", {}, "1 to 100 phrases"),
        ("x\n" * 101, {}, "1 to 100 phrases"),
        ("x" * 201, {}, "at most 200 characters"),
        ("text,label\na,7\n", {"kind": "keep"}, "label 7"),
        ("text,label\na,sad\n", {"kind": "keep"}, "sad"),
        ("words,label\na,1\n", {"kind": "keep"}, "cannot be read as a task file"),
    ],
)
def test_a_bad_file_is_named_with_the_remedy(
    bert: Path, texts: Path, tmp_path: Path, text: str, canary: dict[str, Any], message: str
) -> None:
    evaluate = asked(texts, tmp_path / "a", text, **canary)
    with pytest.raises(RecipeError, match=message) as error:
        watch_canaries(bert, evaluate, weights_sha256="")
    assert "canary." in str(error.value), "the file's name"


def test_a_missing_file_and_phrases_for_images_are_errors(vit: Path, images: Path, texts: Path, tmp_path: Path) -> None:
    evaluate = asked(images, tmp_path / "a", "word1\n")
    with pytest.raises(RecipeError, match="phrases are put into texts"):
        watch_canaries(vit, evaluate, weights_sha256="")
    (tmp_path / "a" / "canary.txt").unlink()
    with pytest.raises(RecipeError, match="there is no file"):
        canaries_id(evaluate)


@pytest.mark.parametrize(
    ("canaries", "message"),
    [
        ([{"name": "a", "path": "a.txt", "kind": "triggers"}], "need a task"),
        ([{"name": "a", "path": "a.txt", "kind": "text", "task": "texts"}], "text needs none"),
        ([{"name": "a", "path": "a.csv", "kind": "triggers", "task": "texts"}], ".txt file"),
        ([{"name": "a", "path": "a.csv", "kind": "keep", "task": "other"}], "name other, no evaluate.tasks"),
        ([{"name": "a", "path": "a.txt", "kind": "text"}] * 2, "given twice: a"),
    ],
)
def test_a_canary_that_cannot_be_asked_is_a_mistake_in_the_recipe(
    texts: Path, canaries: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(texts, canaries=canaries)


def check(change: float, allowed: float = 0.1) -> CanaryCheck:
    return CanaryCheck(name="c", kind="keep", passed=change >= -allowed, holds=1 + change, parent=1.0, change=change,
                       allowed=allowed, inputs=10)  # fmt: skip


@given(st.integers(2, 40), st.data())
def test_who_trips_a_canary_is_found_and_nobody_else(count: int, data: st.DataObject) -> None:
    """Up to a quarter of all, each of whom would trip it alone; the innocent stay."""
    keys = [f"c{n}" for n in range(count)]
    guilty = data.draw(st.sets(st.sampled_from(keys), max_size=max(1, count // 4)))
    calls: list[int] = []

    def ask(members: Sequence[str]) -> list[CanaryCheck]:
        calls.append(len(members))
        return [check(0.0), check(-0.2 * len(guilty & set(members)))]

    found = find_culprits(keys, ask)
    assert set(found) == guilty
    assert all(c.change == pytest.approx(-0.2 * (len(guilty) - 1)) for c in found.values())
    assert len(calls) <= (1 + count + max(0, len(guilty) - 1) if guilty else 1)


def test_nobody_is_dropped_where_that_does_not_help() -> None:
    """Many together, or all: then it is the fuse, which the gate rejects; nor is anybody alone dropped."""
    keys = [f"c{n}" for n in range(8)]
    assert find_culprits(keys, lambda members: [check(-0.5)]) == {}
    assert find_culprits(keys, lambda members: [check(-0.1 * len(members))]) == {}
    assert find_culprits(["c0"], lambda members: [check(-0.5)]) == {}
