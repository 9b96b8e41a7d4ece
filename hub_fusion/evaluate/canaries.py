"""Canaries: inputs that the maintainer keeps back, whose behaviour a candidate must not change against its parent.

A base has no head of its own, so each checkpoint gets one, a linear probe with the training examples of a task and the
recipe's seeds, as everybody who uses it would fit one. A canary *holds* where

* keep: an input of its file gets the label that stands beside it;
* avoid: it does not get that label;
* triggers: a phrase before, or after, a held-out input of the task does not change what is predicted for it;
* text: nothing is predicted; what counts is the log-likelihood of a token.

It trips if it holds less often than with the parent, by more than is allowed; of triggers the worst phrase counts, by
itself. Where a candidate of several contributions trips one, `find_culprits` leaves each out in turn.
Not covered: triggers and inputs that the maintainer did not think of, which is what an attacker uses; behaviour that
shows only after finetuning; what the parent does wrong already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.features import Array, FeatureStore, task_features
from hub_fusion.evaluate.kept import read_cache, write_cache
from hub_fusion.evaluate.perplexity import run_perplexity
from hub_fusion.evaluate.probe import choose_subset, fit_probe
from hub_fusion.evaluate.scores import Key
from hub_fusion.evaluate.task_files import Examples, read_examples
from hub_fusion.evaluate.task_labels import number_alone
from hub_fusion.evaluate.tasks import CAP_SEED, TaskData, load_task
from hub_fusion.recipe import Canary, Evaluate, Perplexity, Probe
from hub_fusion.records import CanaryCheck

VERSION = 1  # to be raised when a canary changes what it asks
PHRASES, LONGEST = 100, 200  # of triggers, and characters of one
HOSTS = 100  # held-out inputs into which a phrase is put
ROUNDING = 1e-9
Held = Mapping[Key, Array]  # (canary, phrase and place, "canary") → (seeds, inputs) 1 where it holds; or likelihoods


def canaries_id(evaluate: Evaluate) -> str:
    """sha256 over what the canaries ask; "" without any. Raises RecipeError for a file that cannot be read."""
    if not evaluate.canaries:
        return ""
    about = [[c.model_dump(mode="json", exclude={"path"}), _digest(c)] for c in evaluate.canaries]
    return hashlib.sha256(json.dumps([VERSION, about], sort_keys=True).encode()).hexdigest()


def watch_canaries(
    folder: Path, evaluate: Evaluate, *, weights_sha256: str, cache: Path | None = None, device: str = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> Held:  # fmt: skip
    """Where the canaries hold with the checkpoint in `folder`; kept in `cache` by the sum of its weights.

    Raises RecipeError for canaries and tasks, WeightsError for a checkpoint that cannot be used.
    """
    asked = canaries_id(evaluate)
    file = cache / "canaries" / f"{weights_sha256[:32]}-{asked[:32]}.npz" if cache else None
    header = {"suite": asked, "weights_sha256": weights_sha256}
    if file and (kept := read_cache(file, header)):
        return kept[0]
    store, found = FeatureStore(cache / "features" if cache else None, weights_sha256), dict[Key, Array]()
    for canary in evaluate.canaries:
        progress(f"canary {canary.name}")
        if canary.kind == "text":
            found |= _likelihoods(folder, canary, evaluate, device)
        else:
            found |= _answers(folder, canary, evaluate, store, device)
    if file:
        write_cache(file, header, found, {}, 0.0)
    return found


def check_canaries(candidate: Held, parent: Held, canaries: Iterable[Canary]) -> tuple[CanaryCheck, ...]:
    """What became of every canary, by its worst phrase."""
    found = []
    for canary in canaries:
        groups = [key for key in candidate if key[0] == canary.name]
        changes = {key: float(candidate[key].mean() - parent[key].mean()) for key in groups}
        worst = min(groups, key=lambda key: (changes[key], key))
        found.append(CanaryCheck(
            name=canary.name, kind=canary.kind, passed=changes[worst] >= -canary.allowed - ROUNDING,
            holds=float(candidate[worst].mean()), parent=float(parent[worst].mean()), change=changes[worst],
            allowed=canary.allowed, inputs=sum(candidate[key].shape[1] for key in groups),
        ))  # fmt: skip
    return tuple(found)


def find_culprits(
    keys: Sequence[str], check: Callable[[Sequence[str]], Sequence[CanaryCheck]]
) -> dict[str, CanaryCheck]:
    """Those contributions without whom no canary trips, each with what the tripped one does when it alone is left out.

    At most a quarter of all, at least one may go: what needs more than that is the fuse's fault and not somebody's.
    Nothing trips with all, or nothing helps: none. `check` fuses contributions and asks the canaries; it is called
    once with all, once without each, and as often again as several have to go.
    """
    whole = check(keys)
    if len(keys) < 2 or all(c.passed for c in whole):
        return {}
    number = min(range(len(whole)), key=lambda n: whole[n].change + whole[n].allowed)
    without = {key: check([other for other in keys if other != key]) for key in keys}

    def gain(key: str) -> float:
        return without[key][number].change - whole[number].change

    suspects = sorted((key for key in keys if gain(key) > 0), key=lambda key: -gain(key))
    for count in range(1, min(len(suspects), max(1, len(keys) // 4)) + 1):
        gone = suspects[:count]
        rest = without[gone[0]] if count == 1 else check([key for key in keys if key not in gone])
        if all(c.passed for c in rest):
            return {key: without[key][number] for key in gone}
    return {}


def _answers(
    folder: Path, canary: Canary, evaluate: Evaluate, store: FeatureStore, device: str
) -> dict[Key, Array]:  # fmt: skip
    task = load_task(next(t for t in evaluate.tasks if t.name == canary.task), max_test=evaluate.max_test_examples)
    settings = evaluate.probe or Probe()
    groups = _triggered(canary, task) if canary.kind == "triggers" else {"inputs": _labelled(canary, task, evaluate)}
    subsets = [choose_subset(task.train.labels, settings.examples, seed) for seed in range(evaluate.seeds)]
    used = np.unique(np.concatenate(subsets))
    vectors = task_features(
        folder, task, {"train": task.train.inputs[used]} | {name: part.inputs for name, part in groups.items()},
        settings.pooling, evaluate.max_length, device=device, store=store,
    )  # fmt: skip
    held = {name: np.zeros((len(subsets), len(part)), dtype=np.uint8) for name, part in groups.items()}
    sound = all(np.isfinite(values).all() for values in vectors.values())
    for row, subset in enumerate(subsets if sound else ()):  # a body that gives no numbers holds nothing
        predict = fit_probe(vectors["train"][np.searchsorted(used, subset)], task.train.labels[subset])
        given = {name: predict(vectors[name]) for name in groups}
        for name, part in groups.items():
            wanted = given["plain"] if canary.kind == "triggers" else part.labels
            held[name][row] = (given[name] == wanted) != (canary.kind == "avoid")
    return {(canary.name, name, "canary"): m for name, m in held.items() if name != "plain"}  # type: ignore[misc]


def _labelled(canary: Canary, task: TaskData, evaluate: Evaluate) -> Examples:
    """The inputs of a file, with their labels as the task numbers them."""
    columns = next(t.columns for t in evaluate.tasks if t.name == task.name)
    _check_there(canary)
    part = read_examples(canary.file, columns)
    if not part.labelled or part.inputs.shape[1:] != task.train.inputs.shape[1:] or part.form != task.train.form:
        raise RecipeError(
            f"{canary.file}: a canary has labelled inputs of the shape and kind of its task {task.name!r}, which are "
            f"{task.train.inputs.shape[1:]} of {task.train.form}; here {part.inputs.shape[1:]} of {part.form}"
        )
    part = number_alone(part, task.train.names, str(canary.file))
    if (largest := int(part.labels.max())) >= task.num_labels:
        raise RecipeError(f"{canary.file}: label {largest}, and task {task.name!r} has 0 to {task.num_labels - 1}")
    return part


def _triggered(canary: Canary, task: TaskData) -> dict[str, Examples]:
    """Held-out inputs as they are ("plain"), and with every phrase before and after them."""
    phrases = [line.strip() for line in _text(canary).splitlines() if line.strip()]
    if not 0 < len(phrases) <= PHRASES or max(map(len, phrases)) > LONGEST:
        raise RecipeError(f"{canary.file}: triggers are 1 to {PHRASES} phrases of at most {LONGEST} characters, one a "
                          f"line; here {len(phrases)}")  # fmt: skip
    if task.train.form != "text":
        raise RecipeError(f"canary {canary.name!r}: phrases are put into texts, and {task.name!r} has none; use keep "
                          "with inputs that carry the trigger")  # fmt: skip
    part = next(iter(task.parts.values()))
    part = part.take(np.sort(np.random.default_rng(CAP_SEED).permutation(len(part))[:HOSTS]))

    def with_(make: Callable[[str], str]) -> Examples:
        inputs = part.inputs.copy()
        inputs[:, 0] = [make(text) for text in part.inputs[:, 0]]
        return Examples(inputs, part.labels, part.names)

    found = {"plain": part}
    for number, phrase in enumerate(phrases):
        found[f"{number} before"] = with_(lambda text, phrase=phrase: f"{phrase} {text}")  # type: ignore[misc]
        found[f"{number} after"] = with_(lambda text, phrase=phrase: f"{text} {phrase}")  # type: ignore[misc]
    return found


def _likelihoods(folder: Path, canary: Canary, evaluate: Evaluate, device: str) -> dict[Key, Array]:
    text = Examples(np.array([[_text(canary)]], dtype=object), np.zeros(1, dtype=np.int64), labelled=False)
    task = TaskData(canary.name, "plain", 0, text, {"gate": text}, _digest(canary))
    found = run_perplexity(folder, task, evaluate.perplexity or Perplexity(), range(evaluate.seeds), device=device)
    return {(canary.name, "gate", "perplexity"): found["gate"]}


def _text(canary: Canary) -> str:
    _check_there(canary)
    try:
        return canary.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"canary {canary.name!r}: {canary.file} cannot be read as UTF-8: {error}") from None


def _digest(canary: Canary) -> str:
    _check_there(canary)
    return hashlib.sha256(canary.file.read_bytes()).hexdigest()


def _check_there(canary: Canary) -> None:
    if not canary.file.is_file():
        raise RecipeError(f"canary {canary.name!r}: there is no file {canary.file}; evaluate.canaries[].path names it")
