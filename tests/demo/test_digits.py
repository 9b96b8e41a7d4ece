"""Nobody sees the held-out digits, no image has two owners, and what contributors publish is real."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from hub_fusion.demo.digits import (
    CONTRIBUTORS,
    EVALUATE,
    HELD_OUT,
    TASK_NAME,
    deal_rows,
    load_contributor,
    load_images,
    write_root,
    write_task,
)
from hub_fusion.demo.training import finetune, long_finetune, one_thread
from hub_fusion.evaluate.models import quiet
from hub_fusion.evaluate.tasks import load_task
from hub_fusion.recipe import Evaluate, Task
from hub_fusion.weights.random_steps import random_walk

ADA, GUS = CONTRIBUTORS[0], CONTRIBUTORS[-1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generation 0 of the demo."""
    write_root(folder := tmp_path_factory.mktemp("demo") / "root")
    return folder


def tensors(folder: Path, file: str = "model.safetensors"):
    from safetensors.numpy import load_file

    return load_file(folder / file)


def test_held_out_digits_never_occur_in_anybodys_data() -> None:
    labels = load_images()[1]
    for contributor in CONTRIBUTORS:
        rows = deal_rows(contributor)
        assert set(labels[rows]) == set(contributor.digits) and not set(labels[rows]) & set(HELD_OUT)
        pixels, own = load_contributor(contributor)
        assert pixels.shape == (len(rows), 1, 8, 8) and set(own) == set(range(len(contributor.digits)))


def test_no_image_has_two_owners_and_none_is_left_over() -> None:
    for one, other in combinations(CONTRIBUTORS, 2):
        assert not set(deal_rows(one)) & set(deal_rows(other))
    dealt = np.concatenate([deal_rows(c) for c in CONTRIBUTORS])
    assert set(dealt) == set(np.flatnonzero(load_images()[1] < min(HELD_OUT)))


def test_the_task_is_the_held_out_digits_each_image_in_one_part(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    task = load_task(Task(name=TASK_NAME, path=tmp_path / "task"), max_test=200)
    parts = [task.train, task.parts["gate"], task.parts["report"]]
    assert task.num_labels == 3 and [len(part) for part in parts] == [133, 200, 200]
    pixels, labels = load_images()
    written = sorted(image.tobytes() for part in parts for image in part.inputs)
    assert written == sorted(image.tobytes() for image in pixels[np.isin(labels, HELD_OUT)])
    write_task(tmp_path / "again")
    assert load_task(Task(name=TASK_NAME, path=tmp_path / "again"), max_test=200).sha256 == task.sha256
    Evaluate.model_validate(EVALUATE | {"tasks": [{"name": TASK_NAME, "path": tmp_path / "task"}]})


def test_the_root_has_no_classifier_and_takes_one_of_any_size(root: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    assert tensors(root) and not any("classifier" in name for name in tensors(root))
    with quiet():
        model = AutoModelForImageClassification.from_pretrained(root, num_labels=3)
    assert model.classifier.weight.shape == (3, 64)
    assert json.loads((root / "config.json").read_text())["architectures"] == ["ViTForImageClassification"]
    write_root(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (root / "model.safetensors").read_bytes()


def test_a_finetune_is_repeatable_by_seed_and_moves_the_body(root: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        finetune(root, ADA, tmp_path / name, seed=seed, epochs=1)
    one, same, other = (tensors(tmp_path / name) for name in ("one", "same", "other"))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)
    assert one["classifier.weight"].shape == (3, 64)
    base = tensors(root)
    assert all(not np.array_equal(one[name], base[name]) for name in base)
    assert json.loads((tmp_path / "one/config.json").read_text())["id2label"] == {"0": "0", "1": "1", "2": "2"}


def test_a_finetune_learns_its_own_digits(root: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageClassification

    finetune(root, ADA, tmp_path / "ada", seed=0)
    pixels, labels = load_contributor(ADA)
    with quiet(), one_thread(), torch.inference_mode():
        model = AutoModelForImageClassification.from_pretrained(tmp_path / "ada")
        answers = model(pixel_values=torch.from_numpy(pixels)).logits.argmax(1).numpy()
    assert (answers == labels).mean() > 0.9


def test_an_adapter_is_one_that_peft_loads_and_names_its_base(root: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    sha = "c" * 40
    finetune(root, GUS, tmp_path / "gus", seed=0, lora=True, epochs=1, base_id="demo/digits-vit", revision=sha)
    config = json.loads((tmp_path / "gus/adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"], config["revision"]) == (
        "LORA",
        "demo/digits-vit",
        sha,
    )
    assert not (tmp_path / "gus/model.safetensors").exists()
    with quiet():
        model = AutoModelForImageClassification.from_pretrained(root, num_labels=len(GUS.digits))
        merged = PeftModel.from_pretrained(model, tmp_path / "gus").merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
    base, changed = tensors(root), tensors(tmp_path / "merged")
    moved = {name for name in base if not np.array_equal(base[name], changed[name])}
    assert len(moved) == 4 * 6 and all("layer" in name for name in moved)


def test_training_leaves_threads_and_random_state_alone(root: Path, tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads(), torch.random.get_rng_state()
    finetune(root, ADA, tmp_path / "ada", seed=0, epochs=1)
    assert torch.get_num_threads() == before[0] and torch.random.get_rng_state().equal(before[1])


def test_a_random_walk_takes_steps_of_the_given_lengths(root: Path, tmp_path: Path) -> None:
    random_walk(root, tmp_path / "walk", norms=[3.0, 4.0], seed=0)
    base, moved = tensors(root), tensors(tmp_path / "walk")
    length = sum(float(np.square(moved[n].astype(float) - base[n]).sum()) for n in base) ** 0.5
    assert length == pytest.approx(5.0, rel=0.02)  # two random directions of 140,000 numbers are nearly orthogonal
    assert (tmp_path / "walk/config.json").read_text() == (root / "config.json").read_text()


def test_the_long_finetune_is_one_finetune_with_all_the_epochs(root: Path, tmp_path: Path) -> None:
    long_finetune(root, ADA, tmp_path / "long", generations=2, seed=0, epochs=1)
    finetune(root, ADA, tmp_path / "same", seed=0, epochs=2)
    assert (tmp_path / "long/model.safetensors").read_bytes() == (tmp_path / "same/model.safetensors").read_bytes()
