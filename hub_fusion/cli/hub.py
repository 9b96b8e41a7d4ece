"""Commands of the local Hub: hub serve, hub user add."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import typer

from hub_fusion.cli.output import say

app = typer.Typer(no_args_is_help=True, help="A Hub on this machine, for rehearsals, classrooms and tests.")
user = typer.Typer(no_args_is_help=True, help="Accounts of the local Hub.")
app.add_typer(user, name="user")


@app.command()
def serve(
    root: Path = typer.Option(..., "--root", help="Folder of the Hub's storage; made if it is not there."),
    port: int = typer.Option(8600, "--port", help="TCP port; 0 takes a free one."),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
) -> None:
    """Serve a folder as a Hub until interrupted; clients need HF_ENDPOINT only."""
    from hub_fusion.local_hub import run

    say(f"Serving {root}; clients need HF_ENDPOINT set to")
    run(root, host, port)


@user.command()
def add(
    name: str = typer.Argument(..., help="Account name."),
    root: Path = typer.Option(..., "--root", help="Folder of the Hub's storage."),
    org: bool = typer.Option(False, "--org", help="An organisation instead of a person."),
    role: str = typer.Option("write", "--role", help="What the token may do: read or write."),
    allow: list[str] = typer.Option(
        [],
        "--allow",
        metavar="WHERE=PERMISSION,…",
        help="Make a fine-grained token instead: WHERE is an account, ns/name, datasets/ns/name, spaces/ns/name or "
        "'global'; PERMISSION is repo.write, repo.content.read, discussion.write, … May be repeated.",
    ),
) -> None:
    """Make an account, or a further token for one, and print the token (shown once, stored hashed)."""
    from hub_fusion.local_hub import add_user

    permissions = {where: what.split(",") for where, _, what in (text.partition("=") for text in allow)}
    try:
        if permissions:
            print(add_user(root, name, org=org, role="fineGrained", permissions=permissions))
        else:
            print(add_user(root, name, org=org, role=cast(Any, role)))  # add_user checks it
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
