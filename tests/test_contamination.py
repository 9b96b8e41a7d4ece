"""A task on whose data a contributor has trained is not held out, and that is told as long as it is true."""

from __future__ import annotations

from typing import Any

import pytest

from hub_fusion.errors import RecipeError
from hub_fusion.finish import check_recipe
from hub_fusion.recipe import Recipe, Task, contaminations
from hub_fusion.records import Credit


def credit(repo: str, *datasets: str, task: str | None = None) -> Credit:
    return Credit(repo=repo, sha="a" * 40, relation="finetune", author="ann", datasets=datasets, task=task)


def tasks(**roles: str | None) -> list[Task]:
    return [Task.model_validate({"name": name, "path": name, "role": role}) for name, role in roles.items()]


def test_the_earliest_generation_and_all_who_said_so_are_named() -> None:
    """Also through a mirror, in another spelling, and by the task; of seen tasks nothing is told."""
    said = [(1, credit("a/x", "stanfordnlp/SST-2")), (2, credit("b/y", "c/sst2")), (None, credit("c/z", task="sst_2")),
            (None, credit("d/w", "e/trec"))]  # fmt: skip
    found = contaminations(tasks(sst2="gate", mr=None, trec="seen"), said)
    assert [(f.task, f.since, [key.partition("@")[0] for key in f.contributions]) for f in found] == [
        ("sst2", 1, ["a/x", "b/y", "c/z"])
    ]
    assert contaminations(tasks(trec="report"), said)[0].since is None


def test_what_has_no_letters_names_nothing() -> None:
    """Two names of punctuation alone would otherwise be the same data."""
    assert not contaminations(tasks(**{"..": None}), [(1, credit("a/x", "b/…", task="-"))])


def test_of_five_hundred_twenty_are_named() -> None:
    found = contaminations(tasks(mr=None), [(n, credit(f"a/{n}", "mr")) for n in range(1, 501)])
    assert (found[0].since, len(found[0].contributions)) == (1, 20)


@pytest.mark.parametrize("roles", [["seen"], ["report"], ["seen", "report"]])
@pytest.mark.parametrize("gate", [{}, {"require_tasks": False}])
def test_a_recipe_whose_gate_has_nothing_to_look_at_is_refused_before_anything_is_downloaded(
    roles: list[str], gate: dict[str, Any]
) -> None:
    """It would be found out after hours, when a mean over no tasks is asked for."""
    listed = [{"name": f"t{n}", "path": "t", "role": role} for n, role in enumerate(roles)]
    with pytest.raises(RecipeError, match=f"only {' and '.join(sorted(roles))} tasks: give one .* role: gate"):
        check_recipe(Recipe.model_validate({"base": "a/b", "evaluate": {"tasks": listed}, "gate": gate}))
