"""Small heads, fitted on each generation, so that it can also be used on tasks that it was grown from.

Logistic regression on the frozen body's pooled features, as in `probe`, as one linear layer that takes the features
as they are. Files: ``heads/TASK/head.safetensors`` and ``head.json`` (`records.Head`); `head_model.load_head` reads
them. A head is bound to the sha256 of the weights under it: of any other generation it would make noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hub_fusion.evaluate.features import Array, FeatureStore, task_features
from hub_fusion.evaluate.probe import choose_subset
from hub_fusion.evaluate.scores import summarise
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.provenance import versions
from hub_fusion.recipe import Recipe
from hub_fusion.records import Generation, Head, Score
from hub_fusion.weights.checkpoint import file_sha256
from hub_fusion.weights.fuse import weights_sha256

SEED = 0  # of the choice of training examples
TENSORS, ABOUT = "head.safetensors", "head.json"


def fit_heads(
    recipe: Recipe, record: Generation, folder: Path, cache: Path, device: str, say: Callable[[str], None]
) -> Generation:
    """Write ``heads/TASK`` into the candidate's `folder` for each task of the recipe; the record with their scores.

    Features that `cache` holds, since a probe asked for them, are not computed again. Raises RecipeError for a task.
    """
    digest = weights_sha256(record.weights)
    store = FeatureStore(cache / "features", digest)
    scores = []
    for task in recipe.head_tasks:
        say(f"fitting a head for {task.name}")
        data = load_task(task, max_test=recipe.evaluate.max_test_examples)
        if data.kind == "plain":
            say(f"no head for {task.name}: plain text has no labels")
            continue
        if data.train.form == "image":
            say(f"no head for {task.name}: heads are for texts and arrays, and its images are in files")
            continue
        wanted = max(recipe.heads.examples, data.num_labels)  # balanced, so that every label has one
        rows = choose_subset(data.train.labels, wanted, SEED)
        part = data.parts["seen"]
        vectors = task_features(
            folder, data, {"train": data.train.inputs[rows], "test": part.inputs}, recipe.heads.pooling,
            recipe.evaluate.max_length, device=device, store=store, progress=say,
        )  # fmt: skip
        if not all(np.isfinite(values).all() for values in vectors.values()):
            say(f"no head for {task.name}: the features are not finite")
            continue
        weight, bias = fit_linear(vectors["train"], data.train.labels[rows])
        correct = (vectors["test"] @ weight.T.astype(np.float64) + bias).argmax(1) == part.labels
        found = summarise(
            {(task.name, "seen", "head"): correct[None].astype(np.uint8)}, suite=data.sha256, weights_sha256=digest
        )
        scores.append(found.tasks[0])
        _write(
            folder / "heads" / task.name, weight, bias, _describe(recipe, record, data, scores[-1], len(rows), digest)
        )
    return record.model_copy(update={"heads": tuple(scores)})


def fit_linear(features: Array, labels: Array) -> tuple[Array, Array]:
    """(weight (labels, hidden), bias (labels,)) float32 of scikit-learn's logistic regression on standardised features.

    `labels` are 0 … k−1, each at least once. With mean m and standard deviation s, W·(x − m)/s + b is the layer W/s
    with the bias b − W·m/s. Of two labels, which have one row w, half each: −w/2 and w/2.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an optimiser that stops at its limit still predicts
        model = LogisticRegression(max_iter=500).fit(scaler.transform(features), labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return weight.astype(np.float32), (bias - weight @ scaler.mean_).astype(np.float32)


def _describe(recipe: Recipe, record: Generation, data: TaskData, score: Score, rows: int, digest: str) -> Head:
    return Head(
        base=record.base, generation=record.generation, task=data.name, kind=data.kind,
        shape=data.train.inputs.shape[1:], labels=data.train.names or tuple(map(str, range(data.num_labels))),
        pooling=recipe.heads.pooling, max_length=recipe.evaluate.max_length, trained_on=rows, score=score,
        weights_sha256=digest, sha256="0" * 64, task_sha256=data.sha256, versions=versions(),
    )  # fmt: skip


def _write(folder: Path, weight: Array, bias: Array, about: Head) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.ascontiguousarray(weight), "bias": bias}, folder / TENSORS, metadata={"format": "pt"})
    about = about.model_copy(update={"sha256": file_sha256(folder / TENSORS)})
    (folder / ABOUT).write_text(about.to_json(indent=1) + "\n", encoding="utf-8")
