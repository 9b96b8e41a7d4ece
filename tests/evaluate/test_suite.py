"""The same checkpoint gets the same answers; parent and candidate meet the same heads, examples and batches."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from hub_fusion.errors import RecipeError, WeightsError
from hub_fusion.evaluate.features import extract_features
from hub_fusion.evaluate.fewshot import finetune
from hub_fusion.evaluate.kept import read_cache
from hub_fusion.evaluate.models import load_body, load_classifier, load_encode, quiet
from hub_fusion.evaluate.probe import choose_subset
from hub_fusion.evaluate.scores import Measurement, compare, compare_likelihoods
from hub_fusion.evaluate.suite import measure, suite_id
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import Pooling, Task
from hub_fusion.records import Score

from .conftest import make_vit, settings, write_images, write_texts

A, B = "a" * 64, "b" * 64


def equal(one: Measurement, other: Measurement) -> bool:
    same = one.correct.keys() == other.correct.keys()
    return same and all(np.array_equal(m, other.correct[k]) for k, m in one.correct.items())


def timeless(measurement: Measurement) -> list[Score]:
    """The scores of tasks, without how long they took."""
    return [score.model_copy(update={"seconds": 0.0}) for score in measurement.scores.tasks]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_checkpoint_measured_twice_differs_from_itself_by_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    import torch

    folder, task = (request.getfixturevalue(n) for n in (("vit", "images") if kind == "image" else ("bert", "texts")))
    first = measure(folder, settings(task), weights_sha256=A)
    torch.rand(7)  # the caller's random state must not matter
    second = measure(folder, settings(task), weights_sha256=A)
    assert equal(first, second) and timeless(first) == timeless(second)
    assert {(k[1], k[2]) for k in first.correct} == {(r, p) for r in ("gate", "report") for p in ("probe", "fewshot")}
    assert all((d.mean, d.low, d.high) == (0, 0, 0) for d in compare(first, second))
    assert first.scores.mean("gate", "probe") > 1.2 / (3 if kind == "image" else 2)  # both tasks are easy


def test_the_heads_in_the_folders_do_not_matter(images: Path, tmp_path: Path) -> None:
    """A gen-0 with a head of the task's very size, one of another size, none, and the bare body are one base."""
    folders = [make_vit(tmp_path / "3", labels=3), make_vit(tmp_path / "5", labels=5),
               make_vit(tmp_path / "0", head=False), make_vit(tmp_path / "body", body=True)]  # fmt: skip
    from safetensors.torch import load_file, save_file

    source = load_file(folders[2] / "model.safetensors")
    for folder in folders[:2]:
        save_file(load_file(folder / "model.safetensors") | source, folder / "model.safetensors", {"format": "pt"})
    save_file(
        {k.removeprefix("vit."): v for k, v in source.items()}, folders[3] / "model.safetensors", {"format": "pt"}
    )
    measurements = [measure(folder, settings(images), weights_sha256=A) for folder in folders]
    assert all(equal(measurements[0], other) for other in measurements[1:])


def test_a_head_depends_on_the_seed_alone(images: Path, vit: Path, tmp_path: Path) -> None:
    task = load_task(Task(name="t", path=images), max_test=10)
    other = make_vit(tmp_path / "other", seed=9)
    first, again, changed = (
        load_classifier(f, task, seed=s).classifier.weight for f, s in ((vit, 1), (other, 1), (vit, 2))
    )
    assert first.shape == (3, 16) and first.std() > 0
    assert first.equal(again) and not first.equal(changed)


def test_subsets_are_balanced_repeatable_and_differ_by_seed() -> None:
    labels = np.array([0] * 50 + [1] * 5 + [2] * 50)
    chosen = choose_subset(labels, 30, 0)
    assert np.bincount(labels[chosen]).tolist() in ([13, 5, 12], [12, 5, 13]) and len(set(chosen)) == 30
    np.testing.assert_array_equal(chosen, choose_subset(labels, 30, 0))
    assert set(chosen) != set(choose_subset(labels, 30, 1))
    assert sorted(choose_subset(labels, 1000, 0)) == list(range(105))


def test_padding_does_not_change_features(bert: Path, texts: Path) -> None:
    task = load_task(Task(name="t", path=texts), max_test=10)
    body, encode = load_body(bert), load_encode(bert, task, max_length=16)
    alone = extract_features(body, encode, task.train.inputs[:1])
    beside = extract_features(body, encode, np.array([task.train.inputs[0], ["good1 " * 12]], dtype=object))
    assert alone.shape == (1, 16)
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize(("pooling", "token"), [("cls", 0), ("last", -1)])
def test_the_first_or_last_attended_token_stands_for_a_text(
    bert: Path, texts: Path, pooling: Pooling, token: int
) -> None:
    """Beside a longer text, whose padding must not be taken for the last token."""
    import torch

    task = load_task(Task(name="t", path=texts), max_test=10)
    body, encode = load_body(bert), load_encode(bert, task, max_length=16)
    inputs = np.array([["good1 bad2"], ["good1 " * 12]], dtype=object)
    with torch.inference_mode():
        alone = body(**encode(inputs[:1])).last_hidden_state[0, token].double().numpy()
    np.testing.assert_allclose(extract_features(body, encode, inputs, pooling)[0], alone, atol=1e-5)


def test_bf16_trains_a_float32_model_to_nearly_the_same_place(images: Path, vit: Path) -> None:
    """Only the arithmetic is 16 bits; and it is another suite, for its scores are not quite the same."""
    exact, rough = (settings(images, fewshot={"examples": 12, "epochs": 2, "learning_rate": 1e-3, "precision": p})
                    for p in ("fp32", "bf16"))  # fmt: skip
    assert suite_id(exact) != suite_id(rough)
    task = load_task(exact.tasks[0], max_test=30)
    models = []
    for asked in (exact, rough):
        model = load_classifier(vit, task, seed=0)
        finetune(model, load_encode(vit, task, max_length=16), task.train, asked.fewshot, seed=0)
        models.append(model.state_dict())
    before = load_classifier(vit, task, seed=0).state_dict()
    moved = max(float((models[0][n] - before[n]).abs().max()) for n in before)
    assert all(tensor.dtype.itemsize == 4 for tensor in models[1].values())
    assert max(float((models[0][n] - models[1][n]).abs().max()) for n in before) < moved


def test_pairs_longer_than_the_model_are_cut(bert: Path, tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "pairs", pairs=True)
    (folder / "gate.csv").write_text(f"text,text_pair,label\n{'good1 ' * 40},{'bad1 ' * 40},1\n")
    measurement = measure(bert, settings(folder, max_length=128, fewshot=None, seeds=1), weights_sha256=A)
    assert measurement.correct["pairs", "gate", "probe"].shape == (1, 1)


def test_a_cache_hit_gives_the_same_measurement_without_work(images: Path, vit: Path, tmp_path: Path) -> None:
    said: list[str] = []
    asked = settings(images)
    first = measure(vit, asked, weights_sha256=A, cache=tmp_path, progress=said.append)
    assert len(said) == 4  # a probe and its features, two seeds
    second = measure(tmp_path / "not read", asked, weights_sha256=A, cache=tmp_path, progress=said.append)
    assert len(said) == 4 and equal(first, second) and first.scores == second.scores
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".npz"}
    with pytest.raises(WeightsError):  # other weights, other entry
        measure(tmp_path / "not read", asked, weights_sha256=B, cache=tmp_path)


def test_a_measurement_that_was_killed_goes_on_and_more_tasks_cost_only_themselves(
    images: Path, vit: Path, tmp_path: Path
) -> None:
    """A large suite takes hours: killed in the last protocol it must not begin again."""

    class Killed(BaseException):
        pass

    other = write_images(tmp_path / "aside", seed=3)
    asked, cache, said = settings(images, other, seeds=1), tmp_path / "cache", list[str]()

    def kill(text: str) -> None:
        if text.startswith("few-shot finetuning on quadrants"):
            raise Killed

    with pytest.raises(Killed):
        measure(vit, asked, weights_sha256=A, cache=cache, progress=kill)
    resumed = measure(vit, asked, weights_sha256=A, cache=cache, progress=said.append)
    assert said == ["few-shot finetuning on quadrants, seed 1 of 1"]
    assert equal(resumed, measure(vit, asked, weights_sha256=A))
    assert resumed.scores.seconds == pytest.approx(sum(s.seconds for s in resumed.scores.means if s.role == "gate"))
    more = settings(images, other, write_images(tmp_path / "third", seed=4), seeds=1)
    measure(vit, more, weights_sha256=A, cache=cache, progress=said.append)
    assert all("third" in text for text in said[1:]) and len(said) == 4


def test_a_score_tells_what_it_cost(images: Path, vit: Path, tmp_path: Path) -> None:
    """40 training examples, of which the probe takes 20 and few-shot 12 twice over, for each of two seeds."""
    scores = measure(vit, settings(images, logme={"examples": 30}), weights_sha256=A, cache=tmp_path).scores
    shown = {(s.protocol, s.role): s.shown for s in (*scores.tasks, *scores.likelihoods) if s.task}
    assert shown == {
        (p, r): n for p, n in {"probe": 40, "fewshot": 48, "logme": 60}.items() for r in ("gate", "report")
    }
    assert all(0 < s.seconds <= scores.seconds for s in scores.tasks) and scores.means[0].seconds > 0


def test_likelihoods_stay_apart_from_accuracies(images: Path, vit: Path, tmp_path: Path) -> None:
    """Readers of records, old ones too, take every score for an accuracy between 0 and 1."""
    asked = settings(images, logme={"examples": 30}, fewshot=None)
    first = measure(vit, asked, weights_sha256=A, cache=tmp_path)
    other = measure(make_vit(tmp_path / "other", seed=5), asked, weights_sha256=B)
    again = measure(tmp_path / "not read", asked, weights_sha256=A, cache=tmp_path)
    assert first.scores == again.scores
    assert {s.protocol for s in (*first.scores.tasks, *first.scores.means)} == {"probe"}
    assert {(s.protocol, s.examples, s.task) for s in first.scores.likelihoods} == {
        ("logme", 1, "quadrants"), ("logme", 1, None),
    }  # fmt: skip
    assert [d.protocol for d in compare(first, other)] == ["probe", "probe"]
    changes = compare_likelihoods(other, first)
    assert [(d.protocol, d.role) for d in changes] == [("logme", "gate"), ("logme", "report")]
    assert changes[0].mean == pytest.approx(other.scores.mean("gate", "logme") - first.scores.mean("gate", "logme"))
    assert all((d.mean, d.low, d.high) == (0, 0, 0) for d in compare_likelihoods(first, again))


def test_a_damaged_cache_file_is_made_anew(images: Path, vit: Path, tmp_path: Path) -> None:
    asked = settings(images, fewshot=None, seeds=1)
    first = measure(vit, asked, weights_sha256=A, cache=tmp_path)
    (file,) = tmp_path.glob("*.npz")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    measure(vit, asked, weights_sha256=B, cache=tmp_path)
    (other,) = set(tmp_path.glob("*.npz")) - {file}
    for damage in (b"", b"PK\x03\x04", whole[: len(whole) // 2], bytes(flipped), other.read_bytes()):
        file.write_bytes(damage)
        assert equal(measure(vit, asked, weights_sha256=A, cache=tmp_path), first)
        assert file.read_bytes()[:4] == b"PK\x03\x04" and read_cache(file, _header(first)) is not None


def _header(measurement: Measurement) -> dict[str, str]:
    return {"suite": measurement.scores.suite, "weights_sha256": measurement.scores.weights_sha256}


def test_the_suite_is_named_by_contents_and_settings_not_by_paths(images: Path, tmp_path: Path) -> None:
    twin = write_images(tmp_path / images.name)
    base = suite_id(settings(images))
    assert suite_id(settings(twin)) == base
    assert suite_id(settings(twin, seeds=3)) != base
    assert suite_id(settings(twin, probe=None)) != base
    assert suite_id(settings(write_images(tmp_path / "x" / images.name, seed=1))) != base


def test_without_tasks_there_are_no_scores(tmp_path: Path) -> None:
    assert measure(tmp_path, settings(), weights_sha256=A).scores.means == ()


def test_two_tasks_of_one_name_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="given twice: quadrants"):
        suite_id(settings(images, write_images(tmp_path / "quadrants")))


def test_a_body_with_numbers_that_are_not_finite_is_right_nowhere(images: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_vit(tmp_path / "broken")
    state = load_file(folder / "model.safetensors")
    save_file({k: v * float("nan") for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    measurement = measure(folder, settings(images), weights_sha256=A)
    assert not any(matrix.any() for matrix in measurement.correct.values())


def test_a_checkpoint_that_does_not_fill_the_model_is_refused(images: Path, vit: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(vit, tmp_path / "holed"))
    state = load_file(folder / "model.safetensors")
    name = next(n for n in state if "layernorm_before.weight" in n)
    for damaged in ({k: v for k, v in state.items() if k != name}, state | {name: state[name][:7]}):
        save_file(damaged, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match="1 tensors of the body"):
            measure(folder, settings(images), weights_sha256=A)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be opened"):
        measure(folder, settings(images), weights_sha256=A)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="adapter"):
        measure(folder, settings(images), weights_sha256=A)


def test_pickled_weights_and_code_from_the_folder_are_not_run(images: Path, vit: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(vit, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError):
        measure(folder, settings(images), weights_sha256=A)
    coded = Path(shutil.copytree(vit, tmp_path / "coded"))
    (coded / "evil.py").write_text("raise SystemExit('ran')")
    config = (coded / "config.json").read_text().replace('"vit"', '"evil"')
    (coded / "config.json").write_text(
        config.rstrip()[:-1] + ', "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}'
    )
    with pytest.raises(WeightsError):
        measure(coded, settings(images), weights_sha256=A)
    assert not any("evil" in name for name in sys.modules)


def test_images_of_another_size_are_refused(vit: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "t")
    for role in ("train", "gate", "report"):
        with np.load(folder / f"{role}.npz") as arrays:
            np.savez(folder / f"{role}.npz", pixel_values=arrays["pixel_values"][..., :4], label=arrays["label"])
    with pytest.raises(RecipeError, match=r"\(1, 8, 4\).*\(1, 8, 8\)"):
        measure(vit, settings(folder), weights_sha256=A)


def test_a_text_task_needs_a_tokenizer(vit: Path, texts: Path) -> None:
    with pytest.raises(WeightsError, match="tokenizer"):
        measure(vit, settings(texts), weights_sha256=A)


def test_silence_is_lifted_afterwards() -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(KeyError), quiet():
        assert not logging.is_progress_bar_enabled()
        raise KeyError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
