"""A round that cannot end is not begun, and one that costs too much is stopped: with the numbers, and for good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hub_fusion.budget import Meter
from hub_fusion.errors import BudgetSpent, RoomError
from hub_fusion.forecast import Forecast, check_room, free_disk
from hub_fusion.recipe import Budget, Recipe
from hub_fusion.records import Status

from .world import BASE, World, judged


def test_a_round_that_does_not_fit_on_the_disk_is_told_before_a_download(tmp_path: Path) -> None:
    """Not by ENOSPC half-way; the sentence says how much is asked for, where, and how much there is."""
    much = free_disk(tmp_path)
    with pytest.raises(RoomError, match=f"GB of disk in {tmp_path}.* are free.*lower round.max_contributions"):
        check_room(Forecast(much // 2, much // 4, much // 2, 0, None), tmp_path / "work", tmp_path / "cache")
    with pytest.raises(RoomError, match="GB of memory to judge a candidate"):
        check_room(Forecast(0, 0, 0, 10**15, None), tmp_path, tmp_path)
    check_room(Forecast(0, 0, 0, 0, None), tmp_path, tmp_path)


def test_bytes_are_forecast_exactly_and_not_spent_beyond_the_budget(ready: World) -> None:
    """One byte too few and nothing is downloaded; with enough the record tells what was booked."""
    weights = ready.maintainer.files(BASE, "main")["model.safetensors"].size
    theirs = ready.maintainer.files("ann/finetune", "main")["model.safetensors"].size
    need = 5 * theirs + weights
    with pytest.raises(BudgetSpent, match=rf"gen-1 may cost {need - 1:g} bytes"):
        ready.run(ready.recipe(budget={"bytes": need - 1}))
    assert not (ready.work / "spool").exists()
    assert ready.run(ready.recipe(budget={"bytes": need})).status == "published"
    assert ready.record(1).spent["bytes"] == need


def test_work_that_has_spent_its_seconds_is_stopped_and_not_begun_again(ready: World, task: Path) -> None:
    """Not on another machine either: the count is in the status as well as in the work folder."""
    recipe = ready.recipe(**judged(task), budget={"seconds": 0.001})
    with pytest.raises(BudgetSpent, match="the work is stopped"):
        ready.run(recipe)
    told = ready.status().headroom
    assert told and told.generation == 1 and told.spent["seconds"] > 0.001 and told.budget == {"seconds": 0.001}
    assert told.disk_free > 0
    for work in (ready.work, ready.folder / "elsewhere"):
        with pytest.raises(BudgetSpent, match=r"gen-1 may cost 0.001 seconds \(budget.seconds\)"):
            ready.run(recipe, work=work)
    assert set(ready.tags()) == {"gen-0"}


def test_money_is_seconds_by_a_price_and_a_new_generation_starts_at_nothing(tmp_path: Path) -> None:
    priced = Budget(money=2.0, price_per_hour=3600.0)
    (tmp_path / "spent.json").write_text(json.dumps({"generation": 4, "seconds": 1.5, "bytes": 7}))
    meter = Meter.open(priced, tmp_path, 4, Status.from_json(json.dumps({"base": BASE, "heartbeat": "2026-01-01"})))
    assert meter.spent == {"seconds": 1.5, "bytes": 7, "money": 1.5} and meter.limits == {"money": 2.0}
    meter.afford(0.4, 10**12)
    with pytest.raises(BudgetSpent, match="gen-4 may cost 2 money"):
        meter.afford(0.6, 0)
    assert Meter(priced, tmp_path / "spent.json", 5).spent["seconds"] == 0
    (tmp_path / "spent.json").write_text('{"generation": 4, "seconds": null}')
    assert Meter(priced, tmp_path / "spent.json", 4).spent["seconds"] == 0


def test_money_without_a_price_is_no_budget() -> None:
    from hub_fusion.errors import RecipeError

    with pytest.raises(RecipeError, match=r"budget\.price_per_hour, which is 0"):
        Recipe.from_text("base: a/b\nbudget: {money: 5}")
