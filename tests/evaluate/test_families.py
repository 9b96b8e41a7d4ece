"""Encoders, decoders and encoder-decoders are probed and finetuned alike, and padding never decides."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hub_fusion.evaluate.features import extract_features
from hub_fusion.evaluate.fewshot import predict
from hub_fusion.evaluate.models import load_body, load_classifier, load_encode, load_language_model
from hub_fusion.evaluate.scores import compare
from hub_fusion.evaluate.suite import measure
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.recipe import Task

from .conftest import settings, write_texts
from .families import FAMILIES, KIND, make_family


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family; its folder has the family's name."""
    return make_family(request.param, tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture
def task(texts: Path) -> TaskData:
    """The text task."""
    return load_task(Task(name="t", path=texts), max_test=20)


def test_every_family_is_measured_and_differs_from_itself_by_nothing(family: Path, texts: Path) -> None:
    asked = settings(texts, seeds=1)
    one, again = (measure(family, asked, weights_sha256="a" * 64) for _ in range(2))
    assert {k[2] for k in one.correct} == {"probe", "fewshot"}
    assert all((d.mean, d.low, d.high) == (0, 0, 0) for d in compare(one, again))
    assert one.scores.mean("gate", "probe") > 0.7  # good and bad words are told apart by any embedding of words


def test_pairs_are_measured_too(family: Path, tmp_path: Path) -> None:
    asked = settings(write_texts(tmp_path / "pairs", pairs=True), seeds=1)
    assert len(measure(family, asked, weights_sha256="a" * 64).scores.means) == 4


def test_padding_changes_neither_features_nor_answers(family: Path, task: TaskData) -> None:
    """Alone, or beside a text ten times as long; the classifier of a decoder must find the last token in both."""
    body, encode = load_body(family), load_encode(family, task, max_length=16)
    short = task.train.inputs[:1]
    both = np.array([short[0], ["good1 " * 12]], dtype=object)
    for pooling in ("mean", "last", "cls"):
        alone, beside = (extract_features(body, encode, inputs, pooling)[0] for inputs in (short, both))  # type: ignore[arg-type]
        np.testing.assert_allclose(alone, beside, atol=1e-5, err_msg=pooling)
    model = load_classifier(family, task, seed=0).eval()
    with torch.inference_mode():
        logits = [model(**encode(inputs)).logits[0].numpy() for inputs in (short, both)]
    np.testing.assert_allclose(*logits, atol=1e-5)
    assert predict(model, encode, both)[0] == logits[0].argmax()


def test_heads_depend_on_the_seed_alone(family: Path, task: TaskData, tmp_path: Path) -> None:
    other = make_family(family.name, tmp_path / family.name, seed=9)
    first, again, changed = (load_classifier(f, task, seed=s) for f, s in ((family, 1), (other, 1), (family, 2)))
    heads = [n for n, _ in first.named_parameters() if n.startswith(("classif", "score"))]
    states = [model.state_dict() for model in (first, again, changed)]
    assert heads and all(states[0][name].equal(states[1][name]) for name in heads)
    assert any(not states[0][name].equal(states[2][name]) for name in heads)


def test_a_language_model_keeps_its_head_and_one_without_is_refused(family: Path, tmp_path: Path) -> None:
    """A head made up for the occasion would give a perplexity that means nothing."""
    from safetensors.torch import load_file, save_file

    from hub_fusion.errors import WeightsError

    model, kind = load_language_model(family)
    assert kind == KIND[family.name]
    stored = load_file(family / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in stored.items())
    headless = Path(shutil.copytree(family, tmp_path / "headless"))
    body = {n: v for n, v in stored.items() if not n.startswith(("lm_head", "cls."))}
    save_file(body, headless / "model.safetensors", {"format": "pt"})
    if len(body) < len(stored):
        with pytest.raises(WeightsError, match="with its own head"):
            load_language_model(headless)
