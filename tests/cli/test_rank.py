"""hub-fusion rank: folders and repositories in one table, as JSON too."""

from __future__ import annotations

import shutil
from pathlib import Path

from loop.world import BASE, World

from .conftest import Call

FEW = ("--set", "seeds=2", "--set", "probe.examples=30", "--set", "fewshot={examples: 12, epochs: 1}")


def test_repositories_and_folders_are_ranked_against_a_reference(call: Call, ready: World, task: Path) -> None:
    """What a person asks before starting a project: which of these is worth starting from?"""
    folder = ready.maintainer.snapshot("ann/finetune", "main", ("*.json", "*.safetensors"))
    shutil.copytree(folder, "mine")
    models = ("mine", "bob/finetune", "nobody/there")
    done = call("rank", *models, "--tasks", task, "--reference", BASE, "--top", "2", *FEW, "--json", world=ready)
    assert done.code == 0, done.err
    rows = {row["model"]: row for row in done.json["rows"]}
    assert set(rows) == {*models, BASE} and done.json["tasks"] == [task.name]
    assert [bool(row["rank"]) for row in rows.values()] == [True, True, True, False]
    assert rows["nobody/there"]["rank"] is None and "nobody/there" in rows["nobody/there"]["error"]
    assert "failed" in done.err or "not on" in done.err
    assert {g["task"] for g in rows["mine"]["gains"]} == {None, task.name} and rows[BASE]["gains"] == []

    shown = call("rank", *models, "--tasks", task.parent, "--reference", BASE, "--top", "2", *FEW, world=ready)
    assert shown.code == 0 and "gains over" in shown.out and "failed" in shown.out
    assert "few-shot finetuning on" not in shown.err, "everything is remembered"


def test_asking_for_nonsense_is_a_sentence(call: Call, tmp_path: Path, task: Path) -> None:
    (tmp_path / "empty").mkdir()
    for options, words in (
        (("--tasks", tmp_path / "empty"), "a train file"),
        (("--tasks", tmp_path / "absent"), "not a folder"),
        (("--tasks", task, "--tasks", task), "given twice"),
        (("--tasks", task, "--set", "prob.examples=3"), "did you mean"),
        (
            ("--tasks", task, *(part for p in ("logme", "probe", "fewshot") for part in ("--set", f"{p}=null"))),
            "one of",
        ),
    ):
        done = call("rank", "x/y", *options)
        assert done.code == 1 and words in done.err and "Traceback" not in done.err, options


def test_when_nothing_could_be_measured_the_exit_code_says_so(call: Call, tmp_path: Path, task: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = call("rank", tmp_path / "empty", "--tasks", task)
    assert done.code == 1 and "failed" in done.out and "Traceback" not in done.err
