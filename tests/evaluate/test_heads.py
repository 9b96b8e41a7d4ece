"""A head answers as the probe would, after a round trip through files; and files of strangers are not believed."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion import load_head
from hub_fusion.errors import HubFusionError, RecipeError, RepoMissing, WeightsError
from hub_fusion.evaluate.heads import fit_heads, fit_linear
from hub_fusion.recipe import Recipe
from hub_fusion.records import Generation, Head, now
from hub_fusion.weights.checkpoint import file_sha256

from .conftest import write_images, write_texts


def recipe_of(*tasks: Path, **heads: Any) -> Recipe:
    named = [{"name": task.name, "path": str(task), "role": "seen"} for task in tasks]
    evaluate = {"tasks": named, "max_length": 16}
    return Recipe.model_validate({"base": "acme/base", "evaluate": evaluate, "heads": {"kind": "refit", **heads}})


def published(source: Path, out: Path, recipe: Recipe) -> Generation:
    """A candidate with its heads, as a round leaves it before the commit."""
    shutil.copytree(source, out)
    weights = {"model.safetensors": file_sha256(out / "model.safetensors")}
    record = Generation(id="0" * 64, base=recipe.base, generation=4, created_at=now(), weights=weights)
    return fit_heads(recipe, record, out, out.with_name("cache"), "cpu", lambda _: None)


@pytest.mark.parametrize("classes", [2, 4])
def test_one_linear_layer_is_the_whole_probe(classes: int) -> None:
    """Standardisation folded in; features far from 0 and of very different spread, one of none at all."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    labels = np.arange(80) % classes
    features = random.normal(size=(80, 6)) + labels[:, None] * random.normal(size=6)
    features = features * [1, 10, 100, 0.01, 1, 0] + [5, -40, 300, 0, 0, 7]
    weight, bias = fit_linear(features, labels)
    logits = features @ weight.T.astype(np.float64) + bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    whole = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(features, labels)
    assert weight.shape == (classes, 6) and weight.dtype == bias.dtype == np.float32
    np.testing.assert_allclose(shares / shares.sum(1, keepdims=True), whole.predict_proba(features), atol=1e-4)


def test_a_head_for_texts_predicts_what_its_score_says(bert: Path, texts: Path, tmp_path: Path) -> None:
    """The score in the record is that of the loaded model on the test part; one text alone gets the same answer."""
    record = published(bert, tmp_path / "gen", recipe_of(texts))
    model = load_head(tmp_path / "gen", texts.name)
    lines = [line.split(",") for line in (texts / "report.csv").read_text().splitlines()[1:]]
    found = model.predict([text for text, _ in lines])
    assert np.mean([a == b for a, (_, b) in zip(found, lines, strict=True)]) == record.heads[0].mean > 0.6
    assert model.predict([lines[3][0]]) == [found[3]] and model.predict([]) == []
    assert model.labels == ("0", "1") and (record.heads[0].task, record.heads[0].role) == (texts.name, "seen")
    with torch.inference_mode():
        inputs = model._encode(np.array([[text] for text, _ in lines], dtype=object))
        assert [model.labels[k] for k in model(**inputs).argmax(1)] == found, "as a module, for those who want logits"
    for wrong in ("one text", [("a", "pair")], [3]):
        with pytest.raises((RecipeError, TypeError)):
            model.predict(wrong)  # type: ignore[arg-type]


def test_pairs_and_images_have_heads_too(bert: Path, vit: Path, tmp_path: Path) -> None:
    pairs = write_texts(tmp_path / "pairs", pairs=True)
    published(bert, tmp_path / "text", recipe_of(pairs))
    assert set(load_head(tmp_path / "text", "pairs").predict([("good1", "word1"), ("bad1", "word1")])) <= {"0", "1"}
    images = write_images(tmp_path / "images")
    record = published(vit, tmp_path / "image", recipe_of(images))
    model = load_head(tmp_path / "image", "images")
    with np.load(images / "report.npz") as part:
        right = np.mean([int(a) == b for a, b in zip(model.predict(part["pixel_values"]), part["label"], strict=True)])
    assert right == pytest.approx(record.heads[0].mean)
    with pytest.raises(RecipeError, match="images are"):
        model.predict(np.zeros((1, 3, 8, 8), dtype=np.float32))


def test_the_recipe_names_seen_tasks(texts: Path, images: Path) -> None:
    assert [t.name for t in recipe_of(texts, images).head_tasks] == [texts.name, images.name]
    assert [t.name for t in recipe_of(texts, images, tasks=[images.name]).head_tasks] == [images.name]
    assert recipe_of(texts, kind="none").head_tasks == ()
    for changes, words in (
        ({"heads": {"kind": "refit", "tasks": ["other"]}}, "there are none"),
        ({"heads": {"kind": "refit"}}, "no task in evaluate.tasks has role: seen"),
        ({"heads": {"kind": "refit"}, "evaluate": {"tasks": [{"name": "..", "path": "x", "role": "seen"}]}}, "folder"),
        ({"heads": {"kind": "refit"}, "publish": {"kind": "adapter"},
          "evaluate": {"tasks": [{"name": "t", "path": "x", "role": "seen"}]}}, "adapter"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=words):
            Recipe.from_text(json.dumps({"base": "a/b", **changes}))


def told(**changes: Any) -> Callable[[Path], None]:
    """head.json with other values."""

    def change(folder: Path) -> None:
        about = json.loads((folder / "head.json").read_text())
        (folder / "head.json").write_text(json.dumps(about | changes))

    return change


def other_tensors(**tensors: torch.Tensor) -> Callable[[Path], None]:
    """head.safetensors with other tensors, under the sum that fits."""

    def change(folder: Path) -> None:
        save_file(load_file(folder / "head.safetensors") | tensors, folder / "head.safetensors")
        told(sha256=file_sha256(folder / "head.safetensors"))(folder)

    return change


def pickled(folder: Path) -> None:
    (folder / "head.safetensors").write_bytes(pickle.dumps({"weight": 1}))
    told(sha256=file_sha256(folder / "head.safetensors"))(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (told(weights_sha256="1" * 64), "gen-4"),
        (told(sha256="1" * 64), "sha256"),
        (told(labels=["a"]), "labels"),
        (told(labels=["a", "b", "c"]), "for 3 labels"),
        (told(kind="audio"), "kind"),
        (told(shape=[3, 100000, 100000], kind="image"), "shape"),
        (told(shape=[1, 1]), "shape"),
        (told(shape=[-1]), "shape"),
        (told(pooling="max"), "pooling"),
        (told(schema_version=99), "newer"),
        (other_tensors(weight=torch.zeros(2, 7)), "takes 7 features and the body gives 16"),
        (other_tensors(weight=torch.full((2, 16), float("nan"))), "not finite"),
        (other_tensors(weight=torch.zeros(2, 16, dtype=torch.float64)), "F32"),
        (other_tensors(extra=torch.zeros(1)), "must hold weight"),
        (lambda folder: (folder / "head.json").write_text("[" * 5000), "not JSON"),
        (pickled, "header"),
        (lambda folder: (folder / "head.safetensors").unlink(), "has no heads"),
    ],
)
def test_what_a_repository_says_of_a_head_is_checked(
    change: Callable[[Path], None], words: str, bert: Path, texts: Path, tmp_path: Path
) -> None:
    published(bert, tmp_path / "gen", recipe_of(texts))
    change(tmp_path / "gen" / "heads" / texts.name)
    with pytest.raises(HubFusionError, match=words):
        load_head(tmp_path / "gen", texts.name)


def test_names_that_lead_elsewhere_are_no_tasks(tmp_path: Path) -> None:
    tmp_path.joinpath("head.json").write_text("{}")
    for name in ("..", ".", "", "a/b", "../x", "x\n"):
        with pytest.raises(RecipeError, match="no name of a task"):
            load_head(tmp_path, name)
    with pytest.raises(RepoMissing, match="it has none"):
        load_head(tmp_path, "sst2")


def test_other_weights_than_those_under_the_head_are_refused(bert: Path, texts: Path, tmp_path: Path) -> None:
    """Of other weights the head would make noise, and nothing would tell."""
    published(bert, tmp_path / "gen", recipe_of(texts))
    tensors = load_file(tmp_path / "gen" / "model.safetensors")
    save_file({n: t + 0.01 for n, t in tensors.items()}, tmp_path / "gen" / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="fitted on other weights"):
        load_head(tmp_path / "gen", texts.name)


def test_the_same_generation_gives_the_same_bytes(bert: Path, texts: Path, tmp_path: Path) -> None:
    """A round that was killed and runs again publishes the same commit."""
    first, second = (published(bert, tmp_path / name / "gen", recipe_of(texts)) for name in ("a", "b"))
    assert first.heads == second.heads
    for name in ("head.safetensors", "head.json"):
        one, two = (tmp_path / n / "gen" / "heads" / texts.name / name for n in ("a", "b"))
        assert one.read_bytes() == two.read_bytes()
    assert Head.from_json(one.read_text()).generation == 4
