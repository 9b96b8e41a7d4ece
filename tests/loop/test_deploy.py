"""A watcher on the Hub's engine: what is made is what was asked for, once; and the large Job starts when it must."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hub_fusion.deploy import Wishes, deploy, files_of, poll
from hub_fusion.errors import HubError, RecipeError
from hub_fusion.local_hub import set_job_stage
from hub_fusion.recipe import Recipe

from .world import BASE, World, judged


def placed(world: World, task: Path) -> Path:
    """A recipe with its task beside it."""
    shutil.copytree(task, world.folder / "tasks" / task.name)
    here: dict[str, Any] = judged(Path("tasks") / task.name)
    return world.write_recipe(**here)


def jobs(world: World) -> list[Any]:
    return list(world.maintainer.api.list_jobs(namespace="acme"))


def test_deploying_makes_everything_and_deploying_again_nothing(ready: World, task: Path) -> None:
    """With the unmodified client's eyes: repository, schedule, webhook, and a dry run before that changes nothing."""
    file, api = placed(ready, task), ready.maintainer.api
    would = ready.command("deploy", "-r", file, "--dry-run", "--no-space")
    assert would.returncode == 0 and would.stdout.count("would ") == 4, would.stderr
    assert not jobs(ready) and not api.list_scheduled_jobs() and not api.list_webhooks()
    recipe = ready.recipe(**judged(Path("tasks") / task.name))
    first = deploy(ready.maintainer, recipe, file, Wishes())
    assert [line.split()[0] for line in first.done] == ["make", "write", "schedule", "look"]
    assert deploy(ready.maintainer, recipe, file, Wishes()).done == []
    (schedule,), (hook,) = api.list_scheduled_jobs(), api.list_webhooks()
    assert (schedule.schedule, schedule.job_spec.flavor, schedule.concurrency) == ("*/15 * * * *", "cpu-basic", False)
    assert schedule.job_spec.secrets == {"HF_TOKEN": "***"} and "hub-fusion poll" in schedule.job_spec.command[-1]
    assert hook.domains == ["discussion"] and [w.name for w in hook.watched] == [BASE]
    assert api.model_info(f"{BASE}-ops").private
    assert {"recipe.yaml", "job.json", f"tasks/{task.name}/gate.npz"} <= set(
        ready.maintainer.files(f"{BASE}-ops", "main")
    )
    changed = deploy(ready.maintainer, recipe, file, Wishes(schedule="@hourly", gpu="a10g-large"))
    assert [line.split()[0] for line in changed.done] == ["write", "remove", "schedule"]
    assert [s.schedule for s in api.list_scheduled_jobs()] == ["@hourly"]


def test_a_discussion_starts_a_look_and_the_loops_own_commits_do_not(ready: World, task: Path) -> None:
    """Else every generation and every status would be paid for with a Job that finds nothing."""
    file = placed(ready, task)
    deploy(ready.maintainer, ready.recipe(**judged(Path("tasks") / task.name)), file, Wishes())
    before = len(jobs(ready))
    ready.run(ready.recipe())
    assert len(jobs(ready)) == before
    ready.client("ann").api.create_discussion(BASE, title="Please take ann/finetune")
    assert wait_for(lambda: len(jobs(ready)) == before + 1)


def test_a_job_is_started_when_a_generation_is_due_and_none_is_being_made(ready: World, task: Path) -> None:
    recipe = ready.recipe()
    found = ready.folder / "job.json"
    deploy(ready.maintainer, recipe, ready.write_recipe(), Wishes(webhook=False))
    found.write_text(ready.maintainer.read_text(f"{BASE}-ops", "job.json"))
    arguments = (ready.maintainer, recipe, ready.compute, found)
    outcome, started = poll(*arguments, work=ready.work)
    assert outcome.status == "planned" and started
    (job,) = jobs(ready)
    assert job.flavor == "a10g-small" and "accelerate launch -m hub_fusion run" in job.command[-1]
    set_job_stage(ready.folder / "store", job.id, "RUNNING")
    said: list[str] = []
    assert poll(*arguments, work=ready.work, say=said.append)[1] is None and "is at work" in said[-1]
    set_job_stage(ready.folder / "store", job.id, "COMPLETED")
    ready.run(recipe)
    outcome, started = poll(*arguments, work=ready.work)
    assert outcome.status == "waiting" and started is None and len(jobs(ready)) == 1


def test_a_look_answers_who_announces_a_contribution(ready: World) -> None:
    """There is no watcher beside the Jobs that could."""
    deploy(ready.maintainer, ready.recipe(), ready.write_recipe(), Wishes(webhook=False))
    (ready.folder / "job.json").write_text(ready.maintainer.read_text(f"{BASE}-ops", "job.json"))
    asked = ready.client("ann").api.create_discussion(BASE, title="hub-fusion: ann/finetune")
    poll(ready.maintainer, ready.recipe(), ready.compute, ready.folder / "job.json", work=ready.work)
    said = [e for e in ready.maintainer.api.get_discussion_details(BASE, asked.num).events if e.type == "comment"]
    assert [e.author for e in said] == ["ann", "acme"]


def test_a_token_for_reading_is_a_secret_of_both_jobs(ready: World) -> None:
    """Or a private base could not be read where contributions are; and who lacks it is told so."""
    wishes = Wishes(webhook=False, secrets={"HUB_FUSION_READ_TOKEN": "hf_reads"})
    deploy(ready.maintainer, ready.recipe(), ready.write_recipe(), wishes)
    assert not deploy(ready.maintainer, ready.recipe(), ready.folder / "recipe.yaml", wishes).done
    file = ready.folder / "job.json"
    file.write_text(ready.maintainer.read_text(f"{BASE}-ops", "job.json"))
    arguments = (ready.maintainer, ready.recipe(), ready.compute, file)
    with pytest.raises(HubError, match="the Job fuse needs HUB_FUSION_READ_TOKEN: set it"):
        poll(*arguments, work=ready.work)
    assert poll(*arguments, work=ready.work, secrets=wishes.secrets)[1]
    (job,) = jobs(ready)
    assert set(job.secrets) == {"HF_TOKEN", "HUB_FUSION_READ_TOKEN"}


def test_tasks_that_lie_elsewhere_are_named(ready: World, task: Path) -> None:
    recipe = ready.recipe(**judged(task))
    with pytest.raises(RecipeError, match=f"task '{task.name}' is at .* only what lies in"):
        deploy(ready.maintainer, recipe, ready.folder / "recipe.yaml", Wishes())
    (ready.folder / "job.json").write_text(json.dumps({"part": "fuse"}))
    with pytest.raises(HubError, match="does not describe a Job"):
        poll(ready.maintainer, ready.recipe(), ready.compute, ready.folder / "job.json", work=ready.work)


def test_nothing_but_recipe_and_tasks_is_uploaded(ready: World, task: Path) -> None:
    """A recipe lies among work folders, checkouts and files with tokens; a dataset on the Hub lies in no folder."""
    (ready.folder / ".env").write_text("HF_TOKEN=hf_of_the_maintainer")
    shutil.copytree(task, ready.folder / "tasks" / task.name)
    (ready.folder / "tasks" / task.name / ".git").write_text("gitdir: elsewhere")
    on_the_hub = {"name": "reviews", "hub": "acme/reviews"}
    wanted = {"tasks": [on_the_hub, {"name": task.name, "path": f"tasks/{task.name}"}]}
    file = ready.write_recipe(evaluate=wanted)
    parts = {f"tasks/{task.name}/{part}.npz" for part in ("train", "gate", "report")}
    assert set(files_of(Recipe.load(file), file)) == {"recipe.yaml", *parts}
    file = ready.write_recipe(evaluate={"tasks": [{"name": task.name, "path": "."}]})
    with pytest.raises(RecipeError, match="give it a folder of its own"):
        files_of(Recipe.load(file), file)
    tasks = [{"name": task.name, "path": f"tasks/{task.name}"}]
    canary = {"name": "song", "kind": "text", "path": "song.txt"}
    (ready.folder / "song.txt").write_text("la la la")
    file = ready.write_recipe(evaluate={"tasks": tasks, "canaries": [canary]})
    assert set(files_of(Recipe.load(file), file)) == {"recipe.yaml", "song.txt", *parts}
    file = ready.write_recipe(evaluate={"tasks": tasks, "canaries": [canary | {"path": "../song.txt"}]})
    with pytest.raises(RecipeError, match="canary 'song'"):
        files_of(Recipe.load(file), file)


def wait_for(condition: Any, seconds: float = 30) -> bool:
    import time

    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())
