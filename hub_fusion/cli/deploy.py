"""Commands of a watcher on the Hub's own engine: deploy, poll."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import typer

from hub_fusion.cli.loop import tell
from hub_fusion.cli.output import (
    Endpoint,
    Json,
    LogFormat,
    RecipeFile,
    Settings,
    Work,
    computing,
    log_as,
    open_hub,
    open_recipe,
    print_json,
    say,
    visible,
    work_folder,
)  # fmt: skip


def deploy(
    recipe: Path = RecipeFile,
    image: str = typer.Option("python:3.11", "--image", help="Container of the Jobs."),
    install: str = typer.Option("hub-fusion[all]", "--install", help="What pip installs in it first; '' for nothing."),
    schedule: str = typer.Option("*/15 * * * *", "--schedule", help="When to look: a cron expression, or @hourly."),
    cpu: str = typer.Option("cpu-basic", "--cpu", help="Flavor of the Job that looks."),
    gpu: str = typer.Option("a10g-small", "--gpu", help="Flavor of the Job that fuses and measures."),
    timeout: str = typer.Option("6h", "--timeout", help="After which that Job is ended."),
    webhook: bool = typer.Option(True, "--webhook/--no-webhook", help="Look when a discussion on the base changes."),
    space: bool = typer.Option(True, "--space/--no-space", help="Put the dashboard up too."),
    private: bool = typer.Option(False, "--private", help="A private dashboard; for a private base this is needed."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be made; change nothing."),
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Put a watcher on the Hub: dashboard, a scheduled CPU Job that looks, a GPU Job when a fuse is due, a webhook.

    Run again, it changes what differs. The token in use becomes a secret of the Jobs, and so does that in
    HUB_FUSION_READ_TOKEN.
    """
    from hub_fusion.cli.space import dashboard
    from hub_fusion.deploy import Wishes
    from hub_fusion.deploy import deploy as put
    from hub_fusion.publish.space import deploy as put_dashboard

    rules, hub = open_recipe(recipe, []), open_hub(endpoint)
    wishes = Wishes(image, install, schedule, cpu, gpu, timeout, webhook, secrets())
    found = put(hub, rules, recipe, wishes, dry_run=dry_run)
    if space:
        shown = put_dashboard(hub, rules.base, f"{rules.base}-dashboard", dashboard(), private=private, dry_run=dry_run)
        if shown.created or shown.changed or shown.removed or shown.variables:
            found.done.append(f"put {len(shown.changed)} files and {len(shown.variables)} variables into {shown.url}")
    if json:
        return print_json({"base": rules.base, "ops": found.ops, "dry_run": dry_run, "done": found.done})
    for line in found.done:
        print(visible(f"{'would ' if dry_run else ''}{line}"))
    say("everything is as it should be" if not found.done else "nothing was changed" if dry_run else
        f"deployed; hf jobs scheduled ps --namespace {rules.base.split('/')[0]} lists what runs")  # fmt: skip


def poll(
    recipe: Path = RecipeFile, settings: list[str] = Settings,
    job: Path = typer.Option(Path("job.json"), "--job", help="The Job to start; hub-fusion deploy writes it."),
    endpoint: str | None = Endpoint, work: Path | None = Work, json: bool = Json,
    log_format: Literal["text", "json"] = LogFormat,
) -> None:  # fmt: skip
    """Look once, and start the Job that makes the next generation if one is due and none is being made."""
    from hub_fusion.deploy import poll as look

    log_as(log_format)
    rules, hub = open_recipe(recipe, settings), open_hub(endpoint)
    with computing() as compute:
        outcome, started = look(
            hub, rules, compute, job, work=work_folder(work, rules.base), say=say, secrets=secrets()
        )
    if json:
        return print_json({"status": outcome.status, "reason": outcome.reason, "job": started})
    tell(outcome, False)


def secrets() -> dict[str, str]:
    """What the Jobs need besides the token in use, if it is given here."""
    from hub_fusion.keeper.tokens import READ_TOKEN

    given = os.environ.get(READ_TOKEN, "").strip()
    return {READ_TOKEN: given} if given else {}


COMMANDS = [deploy, poll]
