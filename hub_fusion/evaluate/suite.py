"""Run every protocol on every task for one checkpoint: folder → `Measurement`.

`suite_id` names what was asked; scores compare only within one suite. Answers are cached by (weights, suite), so that
a generation that is a parent twice is measured once. What the identity does not hold: versions of torch and
transformers, the device and the number of threads, which may move an accuracy by an example or two. Not covered:
several processes; under ``accelerate launch`` the main one measures, on its device, and the others wait.
"""

from __future__ import annotations

import hashlib
import json
import time
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from hub_fusion.errors import RecipeError, WeightsError
from hub_fusion.evaluate.features import Array, FeatureStore
from hub_fusion.evaluate.fewshot import run_fewshot, run_finetune
from hub_fusion.evaluate.kept import read_cache, write_cache
from hub_fusion.evaluate.logme import run_logme
from hub_fusion.evaluate.perplexity import run_perplexity
from hub_fusion.evaluate.probe import run_probe
from hub_fusion.evaluate.scores import LIKELIHOODS, Cost, Key, Measurement, summarise
from hub_fusion.evaluate.tasks import TaskData, load_task
from hub_fusion.recipe import Evaluate, Gate
from hub_fusion.records import Role

PROTOCOL_VERSION = 1  # to be raised when a protocol changes what it computes


def suite_id(evaluate: Evaluate) -> str:
    """sha256 over the tasks' contents, protocols, seeds and sizes. Raises RecipeError for a malformed task."""
    return _identify(evaluate, _load_tasks(evaluate))


def measure(
    folder: Path, evaluate: Evaluate, *, weights_sha256: str, cache: Path | None = None,
    device: str = "cpu", progress: Callable[[str], None] | None = None,
) -> Measurement:  # fmt: skip
    """Scores and answers of the checkpoint in `folder`, whose weights have the sum `weights_sha256`.

    With `cache`, a folder, a measurement of the same weights by the same suite is read instead of made, and so is every
    protocol on every task: one that was killed goes on, and a suite with more tasks measures the new ones alone. A
    cache file that cannot be read is made anew. `progress` gets a sentence before every piece of work. Without tasks,
    the scores are empty. Raises RecipeError for tasks, WeightsError for checkpoints that cannot be used.
    """
    tasks = _load_tasks(evaluate)
    suite = _identify(evaluate, tasks)
    if cache and (known := recall(cache, weights_sha256, suite)):
        return known
    if tasks and not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder; what is measured is a checkpoint's")
    answers: dict[Key, Array] = {}
    costs: dict[tuple[str, str], Cost] = {}
    store = FeatureStore(cache / "features" if cache else None, weights_sha256)
    for task in tasks:
        found = measure_task(folder, task, evaluate, store, cache=cache, device=device, progress=progress)
        answers |= found[0]
        costs |= found[1]
    seconds = round(sum(cost.seconds for cost in costs.values()), 3)
    if cache:
        header = {"suite": suite, "weights_sha256": weights_sha256}
        write_cache(_cache_file(cache, weights_sha256, suite), header, answers, costs, seconds)
    return gather_up(answers, costs, suite=suite, weights_sha256=weights_sha256, seconds=seconds)


def measure_task(
    folder: Path, task: TaskData, evaluate: Evaluate, store: FeatureStore, *, cache: Path | None = None,
    device: str = "cpu", progress: Callable[[str], None] | None = None,
) -> tuple[dict[Key, Array], dict[tuple[str, str], Cost]]:  # fmt: skip
    """All protocols of the recipe on one task: answers or log-likelihoods, and what they cost (when they were made)."""
    answers: dict[Key, Array] = {}
    costs: dict[tuple[str, str], Cost] = {}
    if task.kind == "plain" and evaluate.perplexity is None:
        raise RecipeError(f"task {task.name!r} is plain text, and evaluate.perplexity is null: nothing measures it")
    for protocol, run in protocols_of(evaluate, store).items():
        if (protocol == "perplexity") != (task.kind == "plain"):
            continue
        part = _identify_part(evaluate, task, protocol)
        file = _cache_file(cache / "tasks", store.weights_sha256, part) if cache else None
        header = {"suite": part, "weights_sha256": store.weights_sha256}
        if file and (kept := read_cache(file, header)):
            answers |= kept[0]
            costs |= kept[1]
            continue
        shown: list[int] = []
        began = time.monotonic()
        matrices = run(folder, task, device=device, progress=progress, count=shown.append)
        found = {(task.name, role, protocol): matrix for role, matrix in matrices.items()}
        cost = {(task.name, protocol): Cost(round(time.monotonic() - began, 3), sum(shown))}
        if file:
            write_cache(file, header, found, cost, cost[task.name, protocol].seconds)
        answers |= found
        costs |= cost
    return answers, costs


def protocols_of(evaluate: Evaluate, store: FeatureStore) -> dict[str, Callable[..., dict[Role, Array]]]:
    """Protocol → what carries it out, given folder and task, for those that the recipe asks for, the cheapest first.

    Perplexity is for plain text, and all others are for all else.
    """
    common: dict[str, Any] = {"seeds": range(evaluate.seeds), "max_length": evaluate.max_length}
    runs: dict[str, Callable[..., dict[Role, Array]]] = {}
    if evaluate.perplexity:
        runs["perplexity"] = partial(run_perplexity, settings=evaluate.perplexity, **common)
    if evaluate.logme:
        runs["logme"] = partial(run_logme, settings=evaluate.logme, store=store, **common)
    if evaluate.probe:
        runs["probe"] = partial(run_probe, settings=evaluate.probe, store=store, **common)
    if evaluate.fewshot:
        runs["fewshot"] = partial(run_fewshot, settings=evaluate.fewshot, **common)
    if evaluate.finetune:
        seeds = range(evaluate.finetune.seeds or evaluate.seeds)
        runs["finetune"] = partial(run_finetune, settings=evaluate.finetune, **common | {"seeds": seeds})
    return runs


def gather_up(
    answers: dict[Key, Array], costs: dict[tuple[str, str], Cost], *, suite: str, weights_sha256: str, seconds: float
) -> Measurement:
    """The measurement that these answers and log-likelihoods are."""
    scores = summarise(answers, suite=suite, weights_sha256=weights_sha256, seconds=seconds, costs=costs)
    correct, likelihoods = (
        {key: matrix for key, matrix in answers.items() if (key[2] in LIKELIHOODS) == apart} for apart in (False, True)
    )
    return Measurement(scores, correct, likelihoods)


def recall(cache: Path, weights_sha256: str, suite: str) -> Measurement | None:
    """What a checkpoint answered in a suite, if it was measured with this cache."""
    header = {"suite": suite, "weights_sha256": weights_sha256}
    kept = read_cache(_cache_file(cache, weights_sha256, suite), header)
    return gather_up(*kept[:2], suite=suite, weights_sha256=weights_sha256, seconds=kept[2]) if kept else None


def cheapest(evaluate: Evaluate, gate: Gate) -> Evaluate:
    """The same tasks by one protocol alone: of those that decide, the first that is carried out, the cheapest.

    Perplexity stays as it is: only plain text is measured by it, and by nothing else.
    """
    protocols = list(protocols_of(evaluate, FeatureStore(None, "")))
    accuracies = [p for p in protocols if p not in LIKELIHOODS] or protocols
    chosen = [p for p in protocols if p in (gate.protocols or accuracies)][:1]
    return evaluate.model_copy(update={p: None for p in protocols if p not in (*chosen, "perplexity")})


def occurring(evaluate: Evaluate, texts: Iterable[str]) -> set[str]:
    """Which of these are somewhere in the plain texts of the tasks, whatever their case or form.

    Likelihoods are compared token by token, so that checkpoints must split the texts of a suite alike.
    """

    def plain(text: str) -> str:
        return unicodedata.normalize("NFKC", text).casefold()

    whole = ["\n".join(plain(str(text)) for text in part.inputs[:, 0])
             for task in _load_tasks(evaluate) if task.kind == "plain" for part in task.parts.values()]  # fmt: skip
    return {text for text in texts if any(plain(text).strip() in one for one in whole)}


def _cache_file(cache: Path, weights_sha256: str, suite: str) -> Path:
    return cache / f"{weights_sha256[:32]}-{suite[:32]}.npz"


def _load_tasks(evaluate: Evaluate) -> list[TaskData]:
    names = [task.name for task in evaluate.tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"evaluate.tasks: every task has its own name, given twice: {', '.join(twice)}; rename one")
    return [
        load_task(task, max_test=evaluate.max_test_examples) for task in sorted(evaluate.tasks, key=lambda t: t.name)
    ]


def _identify(evaluate: Evaluate, tasks: list[TaskData]) -> str:
    apart = {"tasks", "contamination", "interpolation", "canaries"}
    settings = evaluate.model_dump(mode="json", exclude=apart, exclude_none=True)
    if not any(task.kind == "plain" for task in tasks):
        settings.pop("perplexity", None)
    return _digest(settings, tasks)


def _identify_part(evaluate: Evaluate, task: TaskData, protocol: str) -> str:
    """As `_identify`, of one protocol on one task."""
    settings = evaluate.model_dump(mode="json", include={protocol, "seeds", "max_test_examples", "max_length"})
    return _digest(settings, [task])


def _digest(settings: dict[str, Any], tasks: list[TaskData]) -> str:
    asked = {
        "version": PROTOCOL_VERSION,
        "settings": settings,
        "tasks": sorted([task.name, task.kind, *sorted(task.parts), task.sha256] for task in tasks),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
