"""A ranking spends dear protocols on promising models, survives broken ones, and tells what is suspicious."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.rank import PROTOCOLS, rank
from hub_fusion.evaluate.ranking import Ranking, Row
from hub_fusion.evaluate.suspicion import find_flags
from hub_fusion.recipe import Evaluate
from hub_fusion.records import Score

from .conftest import settings, write_images

Change = Callable[[dict[str, Any]], dict[str, Any]]


def changed(source: Path, out: Path, change: Change) -> str:
    """The checkpoint with other tensors, as a name for `rank`."""
    shutil.copytree(source, out)
    save_file(change(load_file(source / "model.safetensors")), out / "model.safetensors", {"format": "pt"})
    return str(out)


def noise(norm: float, seed: int = 0) -> Change:
    def change(tensors: dict[str, Any]) -> dict[str, Any]:
        import torch

        source = torch.Generator().manual_seed(seed)
        return {n: t + norm * torch.randn(t.shape, generator=source) for n, t in tensors.items()}

    return change


def flat(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same features for every input."""
    return tensors | {"vit.layernorm.weight": tensors["vit.layernorm.weight"] * 0}


def asked(*tasks: Path, **changes: Any) -> Evaluate:
    return settings(*tasks, **{"logme": {"examples": 30}} | changes)


def row_of(ranking: Ranking, model: str) -> Row:
    return next(row for row in ranking.rows if row.model == model)


@pytest.fixture
def models(vit: Path, tmp_path: Path) -> list[str]:
    """A base, five that differ from it by noise, and one that has lost everything."""
    noisy = [changed(vit, tmp_path / f"noisy{n}", noise(0.02, n)) for n in range(5)]
    return [changed(vit, tmp_path / "base", dict), *noisy, changed(vit, tmp_path / "flat", flat)]


def test_dear_protocols_are_for_the_best_and_the_reference(models: list[str], images: Path) -> None:
    """Seven models: the probe on four, few-shot on two and whoever ties; the reference, the worst, goes all the way."""
    few = {"examples": 12, "epochs": 1, "batch_size": 12}
    ranking = rank(models, asked(images, fewshot=few, seeds=1), top=2, reference=models[-1])
    cheap, middle, dear = ({r.model: s.mean for r in ranking.rows if (s := r.mean(p))} for p in PROTOCOLS[:3])
    assert set(cheap) == set(models)
    fourth, second = sorted(cheap.values())[-4], sorted(middle.values())[-2]
    assert set(middle) == {m for m, value in cheap.items() if value >= fourth} | {models[-1]}
    assert set(dear) == {m for m, value in middle.items() if value >= second} | {models[-1]}
    assert len(dear) < len(middle) < len(cheap)
    flat_row = row_of(ranking, models[-1])
    assert flat_row.gains == ()
    for row in ranking.rows[: len(dear)]:
        assert row.rank == 1 + sum(value > dear[row.model] for value in dear.values())
    assert {row.rank for row in ranking.rows[len(dear) :]} <= set(range(len(dear) + 1, 8))
    for row in (r for r in ranking.rows[: len(dear)] if r is not flat_row):
        gain = row.gain("fewshot")
        assert gain and gain.low <= gain.mean <= gain.high and row.gain("fewshot", images.name)
        mine, theirs = row.mean("fewshot"), flat_row.mean("fewshot")
        assert mine and theirs and gain.mean == pytest.approx(mine.mean - theirs.mean)
    assert Ranking.from_json(ranking.to_json()) == ranking


def test_models_that_tie_stay_together_and_share_a_rank(vit: Path, images: Path, tmp_path: Path) -> None:
    """Copies have equal scores; which of them is finetuned must not depend on the order of the arguments."""
    copies = [changed(vit, tmp_path / f"copy{n}", dict) for n in range(3)]
    worst = changed(vit, tmp_path / "flat", flat)
    ranking = rank([worst, *copies], asked(images), top=1)
    assert [row.rank for row in ranking.rows] == [1, 1, 1, 4]
    assert [row.protocol for row in ranking.rows] == ["fewshot"] * 3 + ["logme"]
    assert [[f.code for f in row.flags] for row in ranking.rows] == [[], ["same_weights"], ["same_weights"], []]


def test_a_model_that_cannot_be_opened_is_a_row_with_the_reason(vit: Path, images: Path, tmp_path: Path) -> None:
    """Pickles, adapters, other inputs, hostile configurations and names of nothing do not stop the others."""
    pickled, adapter, odd = (tmp_path / name for name in ("pickled", "adapter", "odd"))
    for folder in (pickled, adapter, odd):
        shutil.copytree(vit, folder)
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (adapter / "adapter_config.json").write_text("{}")
    (odd / "config.json").write_text('{"model_type": "vit", "hidden_size": "many"}')
    good = changed(vit, tmp_path / "good", dict)
    bad = [str(pickled), str(adapter), str(odd), str(tmp_path / "nothing")]
    ranking = rank([*bad, good], asked(images, fewshot=None))
    assert ranking.rows[0].model == good and ranking.rows[0].rank == 1
    assert {row.model for row in ranking.rows[1:]} == set(bad)
    assert all(row.rank is None and row.error for row in ranking.rows[1:])
    assert "safetensors" in str(row_of(ranking, str(pickled)).error)
    assert "adapter" in str(row_of(ranking, str(adapter)).error)


def test_a_ranking_goes_on_where_it_stopped(models: list[str], images: Path, tmp_path: Path) -> None:
    """With one model more, only that one is measured: the others' folders may even lose what a measurement needs."""
    cache = tmp_path / "cache"
    first = rank(models[:3], asked(images, fewshot=None), cache=cache)
    for model in models[:3]:
        (Path(model) / "config.json").unlink()
    said: list[str] = []
    second = rank(models[:4], asked(images, fewshot=None), cache=cache, top=4, say=said.append)
    assert all(row.error is None for row in second.rows)
    known = {row.model: row.scores for row in first.rows}
    assert {row.model: row.scores for row in second.rows if row.model in known} == known
    assert {line.partition(":")[0] for line in said if ": " in line} == {models[3]}


def test_what_a_ranking_needs(models: list[str], images: Path, tmp_path: Path) -> None:
    """A bad task is the asker's mistake and no model's."""
    with pytest.raises(RecipeError, match="at least one task"):
        rank(models, asked())
    with pytest.raises(RecipeError, match="one of the protocols"):
        rank(models, asked(images, logme=None, probe=None, fewshot=None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="train file"):
        rank(models, asked(tmp_path / "empty"))


def test_the_report_part_is_not_looked_at(vit: Path, tmp_path: Path) -> None:
    """What is chosen by a part is flattered by it, so one part is kept for the truth."""
    task = write_images(tmp_path / "task")
    ranking = rank([str(vit)], asked(task, fewshot=None))
    assert {score.role for score in ranking.rows[0].scores} == {"gate"}


def scores(**means: float) -> dict[str, Score]:
    """Accuracies with an interval of ±2 points."""
    return {
        task: Score(task=task, role="gate", protocol="probe", examples=100, mean=m, low=m - 0.02, high=m + 0.02)
        for task, m in means.items()
    }


def test_scores_outside_of_what_is_plausible_are_flagged() -> None:
    """Below always answering the most frequent label; far above what any other model reaches."""
    table = {f"m{n}": scores(a=0.5 + n / 100, b=0.7) for n in range(4)}
    table |= {"leak": scores(a=0.9, b=0.7), "broken": scores(a=0.3, b=0.7), "good": scores(a=0.56, b=0.7)}
    found = [(model, flag.code, flag.task) for model, flag in find_flags("probe", table, {"a": 0.4, "b": 0.5}, None)]
    assert found == [("leak", "above_others", "a"), ("broken", "below_majority", "a")]


def test_a_score_that_may_be_chance_is_not_flagged() -> None:
    """An interval that holds the majority's share, a lead within the spread of the others, and too few others."""
    table = {f"m{n}": scores(a=0.3 + n / 10) for n in range(4)}
    assert not [flag for _, flag in find_flags("probe", table, {"a": 0.315}, None)]
    assert not list(find_flags("probe", {"one": scores(a=0.2), "two": scores(a=0.9)}, {}, None))


@pytest.mark.parametrize("reference", ["m0", None])
def test_a_row_with_permuted_columns_is_flagged(reference: str | None) -> None:
    """Against the reference, or where there is none against the others' median; the honest rows are not."""
    base = np.array([0.35, 0.5, 0.62, 0.74, 0.85, 0.93])
    table = {f"m{n}": scores(**{f"t{k}": v + n / 200 for k, v in enumerate(base)}) for n in range(4)}
    table["odd"] = scores(**{f"t{k}": v for k, v in enumerate(np.roll(base, 2))})
    flags = [(model, flag) for model, flag in find_flags("probe", table, {}, reference) if flag.code == "permuted"]
    assert [model for model, _ in flags] == ["odd"]
    assert "moving 6 of 6" in flags[0][1].reason and "t0 like t4" in flags[0][1].reason
