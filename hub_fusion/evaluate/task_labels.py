"""Labels as the parts of a task spell them → one numbering 0 … k−1 for all parts.

By the task's `labels`, where the recipe lists them; else words in the order of the alphabet, numbers as they are. What
trains has every label, and no part has one that train lacks; a small part may lack some. Where files name their numbers
they must agree, unless the recipe's list says what is meant: names count then, not numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.task_files import Examples

Array = np.ndarray[Any, Any]
SHOWN = 8


def number_labels(
    parts: Mapping[str, Examples], where: Mapping[str, str], order: Sequence[str] = ()
) -> dict[str, Examples]:
    """The parts, one of which is ``train``, with int64 labels 0 … k−1 that mean the same in all of them.

    `where` says what a part is called in an error, `order` are the labels that the recipe lists. Raises RecipeError.
    """
    parts = dict(parts)
    names = tuple(order) or parts["train"].names
    plain = all(part.labels.dtype != object or all(map(_is_number, part.labels)) for part in parts.values())
    if plain and not any(map(_is_number, order)):
        parts = {role: replace(part, labels=part.labels.astype(np.int64)) for role, part in parts.items()}
    spelled = {role for role, part in parts.items() if part.labels.dtype == object}
    if order or spelled:
        if not order and spelled != set(parts):
            numbers = ", ".join(where[role] for role in parts if role not in spelled)
            words = ", ".join(where[role] for role in parts if role in spelled)
            raise RecipeError(f"labels are words in {words} and numbers in {numbers}; spell them in one way")
        names = tuple(order) or tuple(sorted(set(parts["train"].labels)))
        known = "the task's labels" if order else "train"
        parts = {role: _by_name(part, names, where[role], known) for role, part in parts.items()}
    elif differing := [role for role, part in parts.items() if part.names and names and part.names != names]:
        raise RecipeError(
            f"{where[differing[0]]}: the same number means another label than in train "
            f"({parts[differing[0]].names[:4]}… here, {names[:4]}… there); write both with one list of label names, "
            "or list them in the task's labels"
        )
    _check(parts, where, len(names) if order else None)
    return {role: replace(part, names=names) for role, part in parts.items()}


def number_alone(part: Examples, names: Sequence[str], where: str) -> Examples:
    """A model's own training examples: labels that are words get their place among the `names` of its labels.

    It need not have every label. Raises RecipeError for one that the model does not have.
    """
    if part.labels.dtype == object and not all(map(_is_number, part.labels)):
        return _by_name(part, tuple(names), where, "the model's labels")
    part = replace(part, labels=part.labels.astype(np.int64))
    _check_positive(part, where)
    return part


def _by_name(part: Examples, names: tuple[str, ...], where: str, known: str) -> Examples:
    """The part with its labels numbered by their place in `names`."""
    if part.labels.dtype == object:
        words = part.labels.tolist()
    elif part.names:
        words = [part.names[n] if 0 <= n < len(part.names) else str(n) for n in part.labels.tolist()]
    elif any(map(_is_number, names)):
        words = list(map(str, part.labels.tolist()))
    else:
        return part  # numbers without names: the list gives them, in its order
    number = {name: place for place, name in enumerate(names)}
    if unseen := sorted(set(words) - set(names)):
        told = ", ".join(map(repr, unseen[:SHOWN])) + (f" and {len(unseen) - SHOWN} more" if unseen[SHOWN:] else "")
        raise RecipeError(
            f"{where}: the labels {told} do not occur in {known} ({_shown(names)}); drop these examples or add them"
        )
    return replace(part, labels=np.array([number[word] for word in words], dtype=np.int64))


def _check(parts: Mapping[str, Examples], where: Mapping[str, str], listed: int | None) -> None:
    """Raise RecipeError unless labels are 0 … k−1, train has each, and no part has others. `listed` is a k."""
    for role, part in parts.items():
        _check_positive(part, where[role])
    train = parts["train"]
    k = listed or int(train.labels.max()) + 1
    absent = sorted(set(range(min(k, len(train) + 2))) - set(train.labels.tolist()))
    if k < 2 or absent:
        raise RecipeError(
            f"{where['train']}: labels must be 0 … k−1 with k ≥ 2 and each must occur; k is {k}, missing are "
            f"{absent[:SHOWN]}; renumber the labels, or list in the task's labels those that there are"
        )
    for role, part in parts.items():
        if int(part.labels.max()) >= k:
            raise RecipeError(
                f"{where[role]}: label {int(part.labels.max())} does not occur in train; drop it or add it"
            )


def _check_positive(part: Examples, where: str) -> None:
    if int(part.labels.min()) < 0:
        raise RecipeError(
            f"{where}: labels are 0, 1, 2 …, found {int(part.labels.min())}; renumber them, and if it is −1 for "
            "hidden labels of a test set, use a part whose labels are published"
        )


def _is_number(word: str) -> bool:
    digits = word.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 18


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
