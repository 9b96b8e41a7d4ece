"""Linear probe: how much of a task can be read off the frozen body ("ColD-Frozen", arXiv 2212.01378, section 4).

Features are, unless the recipe asks for the first or last token, the mean over the tokens of the last hidden state, for
text over the attended ones, for images over all (a class token included); they are standardised and go into a logistic
regression. What the probe does not see: whether
the body is easy to *finetune*, which is what `fewshot` is for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.evaluate.batches import by_length
from hub_fusion.evaluate.models import Encode, load_body, load_encode
from hub_fusion.evaluate.tasks import TaskData
from hub_fusion.recipe import Pooling, Probe
from hub_fusion.records import Role

if TYPE_CHECKING:
    import torch

BATCH = 128


def choose_subset(labels: np.ndarray[Any, Any], examples: int, seed: int) -> np.ndarray[Any, Any]:
    """Rows of at most `examples` training examples, classes as balanced as `labels` (n,) allow, in random order.

    Depends on the arguments alone: every checkpoint learns from the same examples. Labels [0, 0, 0, 1] with two
    examples give row 3 and one of rows 0, 1, 2.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    turn = np.zeros(len(labels), dtype=np.int64)  # the how-manieth of its class an example is, in random order
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turn[mine] = np.arange(len(mine))
    chosen = order[np.argsort(turn[order], kind="stable")][:examples]
    return random.permutation(chosen)


def run_probe(
    folder: Path, task: TaskData, settings: Probe, seeds: Sequence[int], max_length: int, *,
    device: str = "cpu", progress: Callable[[str], None] | None = None,
) -> dict[Role, np.ndarray[Any, Any]]:  # fmt: skip
    """Per test part a matrix (seeds, examples) uint8: 1 where the probe trained with that seed is right.

    A seed chooses the training examples; with fewer in the pool than `settings.examples`, all seeds agree. A body that
    gives numbers that are not finite is right nowhere.
    """
    if progress:
        progress(f"probe on {task.name}")
    body, encode = load_body(folder, device=device), load_encode(folder, task, max_length=max_length)
    subsets = [choose_subset(task.train.labels, settings.examples, seed) for seed in seeds]
    used = np.unique(np.concatenate(subsets))
    pooling = settings.pooling
    features = extract_features(body, encode, task.train.inputs[used], pooling, device=device)
    tests = {r: extract_features(body, encode, part.inputs, pooling, device=device) for r, part in task.parts.items()}
    correct = {role: np.zeros((len(seeds), len(part)), dtype=np.uint8) for role, part in task.parts.items()}
    if not all(np.isfinite(values).all() for values in (features, *tests.values())):
        return correct
    for row, subset in enumerate(subsets):
        predict = _fit(features[np.searchsorted(used, subset)], task.train.labels[subset])
        for role, part in task.parts.items():
            correct[role][row] = predict(tests[role]) == part.labels
    return correct


def extract_features(
    body: torch.nn.Module, encode: Encode, inputs: np.ndarray[Any, Any], pooling: Pooling = "mean", *,
    device: str = "cpu",
) -> np.ndarray[Any, Any]:  # fmt: skip
    """One vector of the last hidden state for each input, (n, hidden) float64; see `recipe.Probe` for `pooling`."""
    import torch

    found: np.ndarray[Any, Any] | None = None
    with torch.inference_mode():
        for rows in by_length(inputs, BATCH):
            batch = {name: value.to(device) for name, value in encode(inputs[rows]).items()}
            values = _pool(body(**batch).last_hidden_state, batch.get("attention_mask"), pooling).double().cpu().numpy()
            found = np.empty((len(inputs), values.shape[1])) if found is None else found
            found[rows] = values
    assert found is not None, "a part of a task has examples"
    return found


def _pool(hidden: torch.Tensor, mask: torch.Tensor | None, pooling: Pooling) -> torch.Tensor:
    """(n, tokens, hidden) or, from convolutions, (n, hidden, height, width) → (n, hidden)."""
    import torch

    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    if mask is None:
        mask = torch.ones(hidden.shape[:2], device=hidden.device)
    if pooling == "cls":
        return hidden[torch.arange(len(hidden)), mask.argmax(1)]  # the first attended one, whatever side is padded
    if pooling == "last":
        places = torch.arange(mask.shape[1], device=mask.device)
        return hidden[torch.arange(len(hidden)), (mask * places).argmax(1)]
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def _fit(
    features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """scikit-learn's logistic regression (lbfgs, C = 1) on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an optimiser that stops at its limit still predicts
        model.fit(features, labels)
    predict: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = model.predict
    return predict
