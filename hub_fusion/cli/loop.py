"""Commands of the loop: run, watch, lineage, status."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from hub_fusion.cli.apart import deeds_apart, hide
from hub_fusion.cli.output import (
    Endpoint,
    Json,
    LogFormat,
    RecipeFile,
    Settings,
    Work,
    byte_bar,
    computing,
    log_as,
    open_hub,
    open_recipe,
    print_json,
    print_table,
    say,
    work_folder,
)  # fmt: skip
from hub_fusion.events import Event

if TYPE_CHECKING:
    from hub_fusion.deeds import Deeds
    from hub_fusion.finish import Outcome
    from hub_fusion.hub import Hub
    from hub_fusion.recipe import Recipe
    from hub_fusion.records import Headroom, Index, IndexEntry


def run(
    recipe: Path = RecipeFile, settings: list[str] = Settings, endpoint: str | None = Endpoint,
    work: Path | None = Work, json: bool = Json,
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be done; change nothing."),
    log_format: Literal["text", "json"] = LogFormat,
) -> None:  # fmt: skip
    """Try to make the next generation, once."""
    rules, hub, place, deeds = _apart(recipe, settings, endpoint, work, log_format)
    from hub_fusion.generation import run_generation

    with computing() as compute:
        outcome = run_generation(rules, hub, compute, work=place, say=say, dry_run=dry_run,
                                 progress=byte_bar("fusing"), deeds=deeds)  # fmt: skip
    conclude(outcome, json)


def watch(
    recipe: Path = RecipeFile, settings: list[str] = Settings, endpoint: str | None = Endpoint,
    work: Path | None = Work, json: bool = Json,
    once: bool = typer.Option(False, "--once", help="Look once and go on while generations can be made, then stop."),
    interval: float | None = typer.Option(
        None, "--interval", min=0.1, help="Seconds between two looks.  [default: the recipe's]"
    ),
    webhook: str | None = typer.Option(
        None, "--webhook", metavar="HOST:PORT",
        help="Look at once when the Hub delivers here; the secret is in HUB_FUSION_WEBHOOK_SECRET."
    ),
    log_format: Literal["text", "json"] = LogFormat,
) -> None:  # fmt: skip
    """Wait for contributions and make generations, one at a time, until SIGTERM."""
    rules, hub, place, deeds = _apart(recipe, settings, endpoint, work, log_format)
    from hub_fusion.watch import watch as watch_base
    from hub_fusion.webhook import SECRET, Receiver

    with computing() as compute:
        receiver = Receiver(rules.base, os.environ.get(SECRET, ""), say) if webhook else None
        with receiver.listening(webhook) if receiver and webhook else nullcontext() as url:
            if url:
                say(f"deliveries of a webhook are taken at {url}")
            outcomes = watch_base(rules, hub, compute, work=place, say=say, once=once,
                                  interval=interval or rules.poll_seconds, tell=lambda outcome: tell(outcome, json),
                                  progress=byte_bar("fusing"), receiver=receiver, deeds=deeds)  # fmt: skip
    if once and outcomes and outcomes[-1].status == "rejected":
        raise typer.Exit(3)


def _apart(
    recipe: Path, settings: list[str], endpoint: str | None, work: Path | None, log_format: Literal["text", "json"]
) -> tuple[Recipe, Hub, Path, Deeds | None]:
    """What a round works with; a keeper leaves here, and imports nothing of the main path."""
    hide()
    log_as(log_format)
    rules, hub = open_recipe(recipe, settings), open_hub(endpoint)
    place = work_folder(work, rules.base)
    return rules, hub, place, deeds_apart(rules, hub, place)


def conclude(outcome: Outcome, as_json: bool) -> None:
    """Print a round's outcome and leave: with exit code 3 if the gate refused it."""
    tell(outcome, as_json)
    if outcome.status == "rejected":
        raise typer.Exit(3)


def tell(outcome: Outcome, as_json: bool) -> None:
    """Print a round's outcome."""
    if as_json:
        record: dict[str, Any] = {
            "status": outcome.status, "reason": outcome.reason, "base": outcome.base, "generation": outcome.generation,
            "revision": outcome.revision, "queue": [c.key for c in outcome.queue],
            "refusals": [r.model_dump(mode="json") for r in outcome.refusals],
        }  # fmt: skip
        if outcome.record:
            record["weights"] = outcome.record.weights
        print_json(record)
    say(Event(outcome.status, f"{outcome.status}: {outcome.reason}", generation=outcome.generation,
              revision=outcome.revision, waiting=len(outcome.queue), refused=len(outcome.refusals)))  # fmt: skip
    if as_json:
        return
    for refusal in outcome.refusals:
        say(f"  refused {refusal.repo} at {refusal.stage} ({refusal.code}): {refusal.reason} {refusal.fix}")
    for waiting in outcome.queue:
        say(f"  in the queue: {waiting.repo}@{waiting.sha[:8]}")
    if outcome.status == "published":
        say(f'Load it: AutoModel.from_pretrained("{outcome.base}", revision="gen-{outcome.generation}")')


def lineage(
    repo: str = typer.Argument(..., help="The base's repository."), endpoint: str | None = Endpoint, json: bool = Json
) -> None:
    """All generations and rejected attempts of a base."""
    from hub_fusion.publish.state import open_base

    index = open_base(open_hub(endpoint), repo, mend=False).lineage
    if json:
        return print_json(index.model_dump(mode="json"))
    print_lineage(index)


def print_lineage(index: Index) -> None:
    """The lineage as a table."""
    rows = [
        [entry.tag or "–", entry.status, _score(entry, "fewshot"), _score(entry, "probe"), str(entry.contributions),
         str(entry.refusals), (entry.revision or "")[:8], entry.created_at.strftime("%Y-%m-%d %H:%M")]
        for entry in index.entries
    ]  # fmt: skip
    scores = ["few-shot (report)", "probe (report)"]
    print_table(index.base, ["generation", "status", *scores, "fused", "refused", "commit", "date (UTC)"], rows)


def _score(entry: IndexEntry, protocol: str) -> str:
    found = [s for s in entry.scores if s.protocol == protocol and s.role == "report"]
    return f"{found[0].mean:.3f} [{found[0].low:.3f}, {found[0].high:.3f}]" if found else "–"


def status(
    repo: str = typer.Argument(None, help="The base's repository.  [default: the recipe's]"),
    recipe: Path = RecipeFile, endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """What is going on between generations: heartbeat, queue, refusals, rejected attempts."""
    from hub_fusion.publish.state import open_base
    from hub_fusion.publish.status import read_status

    hub = open_hub(endpoint)
    state = open_base(hub, repo or open_recipe(recipe, []).base, mend=False)
    now = read_status(hub, state)
    if json:
        return print_json({**now.model_dump(mode="json"), "generation": state.generation, "revision": state.revision})
    say(f"{state.repo} is at gen-{state.generation} ({state.revision[:8]}); the watcher was last seen {now.heartbeat}")
    print_table("queue", ["repository", "commit", "since"], [[w.repo, w.sha[:8], str(w.since)] for w in now.queue])
    if (more := now.queued - len(now.queue)) > 0:
        say(f"{more} more wait")
    print_table("refused", ["repository", "code", "reason", "fix"],
                [[r.repo, r.code, r.reason, r.fix] for r in now.refusals])  # fmt: skip
    if (more := sum(now.refused.values()) - len(now.refusals)) > 0:
        say(f"{more} more were refused, in all {', '.join(f'{n} {code}' for code, n in now.refused.items())}; "
            "hub-fusion check USER/MODEL says why one was, and what helps")  # fmt: skip
    print_table("rejected by the gate", ["attempt", "reason"],
                [[a.id[:8], a.verdict.reason if a.verdict else ""] for a in now.rejected])  # fmt: skip
    print_table("fused, and changed since", ["repository", "generation", "what", "reason"],
                [[one.repo, f"gen-{one.generation}", one.code, one.reason] for one in now.later])  # fmt: skip
    for proposal in now.proposed:
        say(f"pull request {proposal.number} proposes gen-{proposal.generation}")
    if now.headroom:
        say(_left(now.headroom))
    if now.last_error:
        say(f"last error: {now.last_error}")


def _left(room: Headroom) -> str:
    """What machine and budget have left, as of the last change."""
    memory = "" if room.memory_free is None else f" and {room.memory_free / 1e9:.1f} GB of memory"
    spent = ", ".join(
        f"{value:g}{f' of {room.budget[name]:g}' if name in room.budget else ''} {name}"
        for name, value in room.spent.items()
    )
    return f"{room.disk_free / 1e9:.1f} GB of disk{memory} free; gen-{room.generation} has cost {spent or 'nothing'}"


COMMANDS = [run, watch, lineage, status]
