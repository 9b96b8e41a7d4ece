"""Commands about a generation that is published: rollback, promote, subtract."""

from __future__ import annotations

from pathlib import Path

import typer

from hub_fusion.cli.loop import conclude
from hub_fusion.cli.output import (
    Endpoint,
    Json,
    RecipeFile,
    Settings,
    Work,
    byte_bar,
    computing,
    open_hub,
    open_recipe,
    print_json,
    say,
    work_folder,
)  # fmt: skip


def rollback(
    repo: str = typer.Argument(..., help="The base's repository."),
    generation: str = typer.Argument(..., metavar="gen-N", help="The generation to withdraw."),
    reason: str = typer.Option(..., "--reason", help="One sentence, for the card and the record."),
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Withdraw a generation, and all that was built on it: main returns to the weights of its parent, in one commit.

    Its tag stays, its number is not used again.
    """
    from hub_fusion.publish.rollback import roll_back
    from hub_fusion.publish.state import open_base
    from hub_fusion.records import generation_number

    number = generation_number(generation)
    if number is None or not reason.strip():
        raise typer.BadParameter(f"give a generation like gen-3, and a reason; not {generation!r}, {reason!r}")
    hub = open_hub(endpoint)
    revision, target = roll_back(hub, open_base(hub, repo), number, " ".join(reason.split()))
    if json:
        return print_json({"repo": repo, "withdrawn": generation, "generation": target, "revision": revision})
    say(f"{generation} is withdrawn: main of {repo} has the weights of gen-{target} again ({revision[:8]})")


def promote(
    repo: str = typer.Argument(..., help="The base's repository."),
    generation: str = typer.Argument(..., metavar="gen-N", help="The generation to make stable."),
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Put the tag stable on a generation before the recipe's publish.hold_back is over."""
    from hub_fusion.publish.channel import promote as make_stable
    from hub_fusion.publish.state import open_base
    from hub_fusion.records import generation_number

    number = generation_number(generation)
    if number is None:
        raise typer.BadParameter(f"give a generation like gen-3, not {generation!r}")
    hub = open_hub(endpoint)
    state = open_base(hub, repo)
    make_stable(hub, state, number)
    if json:
        return print_json({"repo": repo, "stable": generation, "revision": state.revisions[number]})
    say(f'{generation} is stable: from_pretrained("{repo}", revision="stable")')


def subtract(
    target: str = typer.Argument(..., metavar="REPO", help="The contribution's repository."),
    reason: str = typer.Option(..., "--reason", help="One sentence, for the card and the records."),
    recipe: Path = RecipeFile, settings: list[str] = Settings, endpoint: str | None = Endpoint,
    work: Path | None = Work, json: bool = Json,
) -> None:  # fmt: skip
    """Make the next generation without a contribution: the newest one, fused again from its record.

    Exit code 3 if the gate refuses it. What later contributors trained on it cannot be untrained; then nothing is done.
    """
    from hub_fusion.subtract import subtract as leave_out

    if not reason.strip():
        raise typer.BadParameter("give a reason: the card and the records say it")
    rules, hub = open_recipe(recipe, settings), open_hub(endpoint)
    with computing() as compute:
        outcome = leave_out(rules, hub, compute, target, " ".join(reason.split()), say=say,
                            work=work_folder(work, rules.base), progress=byte_bar("fusing"))  # fmt: skip
    conclude(outcome, json)


COMMANDS = [rollback, promote, subtract]
