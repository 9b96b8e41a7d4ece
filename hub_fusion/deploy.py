"""The watcher on the Hub's own engine: a small Job that looks, a large one that works when a fuse is due.

`deploy` puts the recipe and its task folders into a private repository ``BASE-ops``, schedules a CPU Job that runs
``hub-fusion poll`` from there, and has a discussion on the base start the same Job. `poll` makes a dry round and starts
the GPU Job if a generation is due and none is being made. Nothing runs on the Hub in between. Deploying again changes
what differs and nothing else. The webhook listens to discussions alone: commits and tags of the loop start no Job.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.announcements import Announcements
from hub_fusion.deeds import Direct
from hub_fusion.errors import HubError, RecipeError, RepoMissing
from hub_fusion.events import Event, Say
from hub_fusion.finish import Outcome
from hub_fusion.generation import run_generation
from hub_fusion.hub import Hub
from hub_fusion.hub.jobs import JobPlan, Jobs
from hub_fusion.recipe import Recipe

if TYPE_CHECKING:
    from hub_fusion.hub import Operation
    from hub_fusion.weights.compute import Compute

JOB = "job.json"  # beside the recipe: what `poll` starts
LARGEST = 50_000_000  # bytes of one file of a task


@dataclass(frozen=True)
class Wishes:
    """What is not in the recipe: where it runs. `install` is what pip installs in `image` first; "" if it is there."""

    image: str = "python:3.11"
    install: str = "hub-fusion[all]"
    schedule: str = "*/15 * * * *"
    cpu: str = "cpu-basic"
    gpu: str = "a10g-small"
    timeout: str = "6h"
    webhook: bool = True
    secrets: Mapping[str, str] = field(default_factory=dict)  # of the Jobs, besides the token in use


@dataclass
class Deployment:
    """What was done, or would be: one sentence each. Empty if everything was as it should be."""

    ops: str
    done: list[str] = field(default_factory=list)


def deploy(hub: Hub, recipe: Recipe, file: Path, wishes: Wishes, *, dry_run: bool = False) -> Deployment:
    """Make repository, schedule and webhook as they should be; with `dry_run` only say what would be made.

    Raises RecipeError for tasks and canaries outside of the recipe's folder, HubError without a token.
    """
    if hub.account() is None:
        raise HubError(f"{hub.endpoint} needs a token: set HF_TOKEN to one that may write {recipe.base} and start Jobs")
    account, found = recipe.base.split("/")[0], Deployment(f"{recipe.base}-ops")
    poll, fuse = poll_job(hub, recipe.base, wishes), fuse_job(hub, recipe.base, wishes)
    jobs = Jobs(hub, account, wishes.secrets)
    _store(hub, found, files_of(recipe, file) | {JOB: _as_json(fuse)}, dry_run)
    known = jobs.scheduled(poll)
    fresh = [s for s in known if poll.is_like(s.job_spec) and s.schedule == wishes.schedule and not s.suspend]
    for old in known:
        if old not in fresh[:1]:
            found.done.append(f"remove the schedule {old.id} ({old.schedule}), which is another one")
            if not dry_run:
                jobs.unschedule(old.id)
    if not fresh:
        found.done.append(f"schedule the Job hub-fusion-poll, {wishes.schedule}, on {poll.flavor}")
        if not dry_run:
            jobs.schedule(poll, wishes.schedule)
    _hook(jobs, recipe.base, poll, found, wishes.webhook, dry_run)
    return found


def poll(
    hub: Hub, recipe: Recipe, compute: Compute, job: Path, *, work: Path, say: Say = lambda _: None,
    secrets: Mapping[str, str] | None = None,
) -> tuple[Outcome, str | None]:  # fmt: skip
    """Look once, answer announcements, and start the Job that `job` describes if a generation is due and none runs.

    Gives its id. An answer is a comment, which starts one more look that finds nothing to answer.
    """
    outcome = run_generation(recipe, hub, compute, work=work, say=say, dry_run=True)
    if recipe.announcements:
        Announcements(recipe, hub, Direct(recipe, hub, work, say), say).answer(outcome.queue, outcome.refusals)
    if outcome.status != "planned":
        return outcome, None
    plan = _from_json(job)
    jobs = Jobs(hub, recipe.base.split("/")[0], secrets)
    if running := jobs.alive(plan):
        say(Event("busy", f"a generation is due, and the Job {running[0]} is at work", job=running[0]))
        return outcome, None
    started = jobs.start(plan)
    say(Event("started", f"a generation is due: the Job {started} is started on {plan.flavor}", job=started))
    return outcome, started


def poll_job(hub: Hub, base: str, wishes: Wishes) -> JobPlan:
    """The small Job."""
    command = "hub-fusion poll --recipe ops/recipe.yaml --job ops/job.json --work work --log-format json"
    return _job("poll", hub, base, wishes, wishes.cpu, "30m", command)


def fuse_job(hub: Hub, base: str, wishes: Wishes) -> JobPlan:
    """The large one: all GPUs of its flavor, by accelerate."""
    command = "accelerate launch -m hub_fusion run --recipe ops/recipe.yaml --work work --log-format json"
    return _job("fuse", hub, base, wishes, wishes.gpu, wishes.timeout, command)


def _job(part: str, hub: Hub, base: str, wishes: Wishes, flavor: str, timeout: str, program: str) -> JobPlan:
    steps = [f"pip install --quiet {shlex.quote(wishes.install)}"] if wishes.install else []
    steps += [f"hf download {shlex.quote(base + '-ops')} --local-dir ops", program]
    command, secrets = ("bash", "-c", " && ".join(steps)), ("HF_TOKEN", *sorted(wishes.secrets))
    return JobPlan(part, base, wishes.image, command, flavor, timeout, hub.environment, secrets)


def files_of(recipe: Recipe, file: Path) -> dict[str, bytes]:
    """The recipe, the folders of its tasks, without hidden files, and its canaries: path in the repository → content.

    Raises RecipeError for a task that lies elsewhere, or in the recipe's own folder, where tokens may lie too, and for
    a canary that lies elsewhere.
    """
    root = file.parent.resolve()
    found = {"recipe.yaml": file.read_bytes()}
    for task in recipe.evaluate.tasks:
        if task.path is None:
            continue  # a dataset, which is on the Hub already
        folder = task.folder.resolve()
        if folder == root:
            raise RecipeError(
                f"task {task.name!r} is at {folder}, where the recipe is, and all of that would go to the Hub: "
                "give it a folder of its own"
            )
        if not folder.is_relative_to(root) or not folder.is_dir():
            raise RecipeError(
                f"task {task.name!r} is at {folder}, and only what lies in {root} goes to the Hub: move it"
            )
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if path.stat().st_size > LARGEST:
                raise RecipeError(f"{path} has {path.stat().st_size} bytes, more than {LARGEST} for a file of a task")
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    for canary in recipe.evaluate.canaries:
        path = canary.file.resolve()
        if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > LARGEST:
            raise RecipeError(
                f"canary {canary.name!r}: {path} is no file of at most {LARGEST} bytes in {root}, and only such go to "
                "the Hub (into a private repository): move it"
            )
        found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def _store(hub: Hub, found: Deployment, contents: Mapping[str, bytes], dry_run: bool) -> None:
    from huggingface_hub import CommitOperationAdd

    try:
        there = hub.files(found.ops, "main")
    except RepoMissing:
        there = {}
        found.done.append(f"make the private repository {found.ops}")
        if not dry_run:
            hub.create_repo(found.ops, private=True)
    changed = {path: data for path, data in contents.items() if path not in there or not there[path].holds(data)}
    if changed:
        found.done.append(f"write {', '.join(sorted(changed)[:8])} into {found.ops}")
        if not dry_run:
            operations: list[Operation] = [CommitOperationAdd(path, data) for path, data in changed.items()]
            hub.commit(found.ops, operations, "Deploy")


def _hook(jobs: Jobs, base: str, plan: JobPlan, found: Deployment, wanted: bool, dry_run: bool) -> None:
    known = jobs.hooks(base)
    fresh = [h for h in known if wanted and plan.is_like(h.job) and not h.disabled and h.domains == ["discussion"]]
    for old in known:
        if old not in fresh[:1] and (old.job.labels or {}).get("base") == plan.labels["base"]:
            found.done.append(f"remove the webhook {old.id}, which is another one")
            if not dry_run:
                jobs.unhook(old.id)
    if wanted and not fresh:
        found.done.append(f"look at once, and again whenever a discussion on {base} changes (a webhook)")
        if not dry_run:
            jobs.hook(base, jobs.start(plan), ["discussion"], plan)


def _as_json(plan: JobPlan) -> bytes:
    return (json.dumps(vars(plan), indent=1) + "\n").encode()


def _from_json(path: Path) -> JobPlan:
    try:
        data = json.loads(path.read_text())
        return JobPlan(**data | {name: tuple(data[name]) for name in ("command", "secrets")})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HubError(f"{path} does not describe a Job ({error}); hub-fusion deploy writes it") from None
