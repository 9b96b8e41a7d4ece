"""Commands for those who run a base: init, and the stages of the loop one by one.

Each stage reads and writes JSON lines, so ``hub-fusion discover | hub-fusion filter | hub-fusion screen > kept.jsonl``
is the first half of ``hub-fusion run``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hub_fusion.cli.output import (
    Endpoint,
    Json,
    RecipeFile,
    Settings,
    Work,
    byte_bar,
    computing,
    fail,
    open_hub,
    open_recipe,
    print_json,
    print_lines,
    print_table,
    read_lines,
    say,
    visible,
    work_folder,
)  # fmt: skip

if TYPE_CHECKING:
    from hub_fusion.records import Contribution, Refusal

Lines = typer.Argument("-", help="JSON lines of the stage before; - reads standard input.")
DryRun = typer.Option(False, "--dry-run", help="Say what would be done; change nothing.")


def init(
    base: str = typer.Argument(..., help="The repository to improve: you/base."),
    root: str | None = typer.Option(None, "--root", help="Where its first weights come from."),
    out: Path = typer.Option(Path("recipe.yaml"), "--out", help="The file to write."),
    force: bool = typer.Option(False, "--force", help="Overwrite it."),
) -> None:
    """Write a commented recipe."""
    from hub_fusion.recipe import Recipe

    if out.exists() and not force:
        fail(f"{out} is there already; --force overwrites it", 1)
    text = Recipe.template(base, root)
    Recipe.from_text(text)
    out.write_text(text)
    say(f"Wrote {out}. Name held-out tasks in it, then: hub-fusion run --recipe {out} --dry-run")


def discover(
    recipe: Path = RecipeFile, settings: list[str] = Settings, endpoint: str | None = Endpoint, json: bool = Json
) -> None:
    """List finetunes and adapters of the base, as JSON lines (a table on a terminal without --json)."""
    from hub_fusion.contributions.discover import discover as discover_contributions

    found, refusals = discover_contributions(open_hub(endpoint), open_recipe(recipe, settings))
    show([*found, *refusals], json)


def filter_(
    lines: str = Lines, recipe: Path = RecipeFile, settings: list[str] = Settings, endpoint: str | None = Endpoint,
    json: bool = Json,
) -> None:  # fmt: skip
    """Apply the metadata rules: JSON lines in, kept contributions and refusals out."""
    from hub_fusion.contributions.filters import Circumstances, filter_contributions
    from hub_fusion.publish.state import open_base, read_fused
    from hub_fusion.records import parse_lines

    rules, hub = open_recipe(recipe, settings), open_hub(endpoint)
    found, before = parse_lines(read_lines(lines))
    fused = read_fused(hub, open_base(hub, rules.base, mend=False)).keys
    kept, refusals = filter_contributions(found, Circumstances.of(hub, rules, fused))
    show([*kept, *before, *refusals], json)


def screen(
    lines: str = Lines, recipe: Path = RecipeFile, settings: list[str] = Settings, endpoint: str | None = Endpoint,
    work: Path | None = Work, json: bool = Json,
) -> None:  # fmt: skip
    """Check headers, download, check tensors: JSON lines in, survivors with weights and refusals out.

    Takes no more than one round takes (round.choose, round.max_contributions). What survives stays in the spool for
    `fuse --from` and `publish`.
    """
    from hub_fusion.contributions.discover import choose
    from hub_fusion.lock import alone
    from hub_fusion.publish.state import open_base
    from hub_fusion.records import parse_lines
    from hub_fusion.screening import screen_round

    rules, hub = open_recipe(recipe, settings), open_hub(endpoint)
    with computing() as compute:
        kept, before = parse_lines(read_lines(lines))
        chosen = choose(kept, rules.round)
        if len(chosen) < len(kept):
            say(f"{len(kept) - len(chosen)} of {len(kept)} contributions wait for a later round")
        state, place = open_base(hub, rules.base, mend=False), work_folder(work, rules.base)
        with alone(place, say):
            _, screened = screen_round(rules, hub, compute, state, chosen, place, say)
    show([*screened.contributions, *before, *screened.refusals], json)


def evaluate(
    target: str = typer.Argument(..., help="A folder, or repository[@revision]."),
    recipe: Path = RecipeFile, settings: list[str] = Settings, endpoint: str | None = Endpoint,
    work: Path | None = Work, json: bool = Json,
) -> None:  # fmt: skip
    """Measure a checkpoint as a base on the recipe's held-out tasks."""
    from hub_fusion.evaluate.suite import measure
    from hub_fusion.weights.fuse import folder_sha256
    from hub_fusion.weights.local import checkpoint_folder

    rules = open_recipe(recipe, settings)
    with computing() as compute:
        folder = checkpoint_folder(target, open_hub(endpoint))
        place = work_folder(work, rules.base)
        scores = measure(folder, rules.evaluate, weights_sha256=folder_sha256(folder), cache=place / "scores",
                         device=compute.device, progress=say).scores  # fmt: skip
    if json:
        return print_json(scores.model_dump(mode="json"))
    rows = [[s.task or "mean", s.role, s.protocol, f"{s.mean:.4f}", f"{s.low:.4f} – {s.high:.4f}", str(s.examples)]
            for s in (*scores.tasks, *scores.means, *scores.likelihoods)]  # fmt: skip
    measured = "accuracy" if not scores.likelihoods else "accuracy, or nats"
    print_table(target, ["task", "role", "protocol", measured, "95 % interval", "examples"], rows)


def publish(
    lines: str = Lines, recipe: Path = RecipeFile, settings: list[str] = Settings, endpoint: str | None = Endpoint,
    work: Path | None = Work, dry_run: bool = DryRun, json: bool = Json,
) -> None:  # fmt: skip
    """Fuse, judge and publish what `screen` let pass; exit code 3 if the gate refuses it."""
    from hub_fusion.cli.loop import conclude
    from hub_fusion.contributions.filters import Circumstances, filter_contributions
    from hub_fusion.finish import check_recipe, finish_round, round_id
    from hub_fusion.lock import alone
    from hub_fusion.provenance import Clock
    from hub_fusion.publish.state import open_base, read_fused
    from hub_fusion.records import parse_lines
    from hub_fusion.screening import screen_round

    rules, hub = open_recipe(recipe, settings), open_hub(endpoint)
    with computing() as compute:
        check_recipe(rules)
        kept, before = parse_lines(read_lines(lines))
        place, clock = work_folder(work, rules.base), Clock()
        with alone(place, say):
            state = open_base(hub, rules.base, rules.root, mend=not dry_run)
            kept, more = filter_contributions(kept, Circumstances.of(hub, rules, read_fused(hub, state).keys))
            before += more  # since `filter` ran somebody may have published
            base, screened = screen_round(rules, hub, compute, state, kept, place, say)
            if not screened.contributions:
                reasons = {r.code for r in (*before, *screened.refusals)}
                fail(
                    f"none of these contributions can be fused now: {', '.join(sorted(reasons)) or 'there are none'}", 1
                )
            failed = [r.sha for r in before if r.stage == "screen"]
            shas = [*(c.sha for c in kept), *failed]  # what `run` would have chosen
            refusals = [*before, *screened.refusals]
            outcome = finish_round(rules, hub, compute, state, base, screened, refusals, round_id(rules, state, shas),
                                   place, clock, say, byte_bar("fusing"), dry_run=dry_run)  # fmt: skip
    conclude(outcome, json)


def card(
    repo: str = typer.Argument(..., help="The base's repository."),
    revision: str | None = typer.Option(None, "--revision", help="gen-N.  [default: the newest]"),
    endpoint: str | None = Endpoint,
) -> None:
    """Render the model card of a generation from its record."""
    import sys

    from hub_fusion.publish.commit import card_of
    from hub_fusion.publish.state import open_base

    hub = open_hub(endpoint)
    text = card_of(hub, open_base(hub, repo, mend=False), revision)
    print(visible(text) if sys.stdout.isatty() else text)


def show(records: Sequence[Contribution | Refusal], as_json: bool) -> None:
    """JSON lines; a table where a person is looking and did not ask for JSON."""
    import sys

    if as_json or not sys.stdout.isatty():
        return print_lines(records)
    rows = [[r.repo, r.sha[:8], getattr(r, "code", "kept"), getattr(r, "reason", r.author)] for r in records]
    print_table("contributions", ["repository", "commit", "verdict", "why"], rows)


filter_.__name__ = "filter"
COMMANDS = [init, discover, filter_, screen, evaluate, publish, card]
