"""Command for those who must take a published generation back: rollback."""

from __future__ import annotations

import typer

from hub_fusion.cli.output import Endpoint, Json, open_hub, print_json, say


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


COMMANDS = [rollback]
