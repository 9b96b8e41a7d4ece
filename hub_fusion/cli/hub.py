"""Commands of the local Hub: hub serve, hub fsck, hub gc, hub alias, hub user add."""

from __future__ import annotations

import json
from dataclasses import asdict
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
    host: str = typer.Option(
        "127.0.0.1", "--host", help="Address to listen on; one that other machines reach needs an account first."
    ),
    rate_limit: list[str] = typer.Option(
        [],
        "--rate-limit",
        metavar="BUCKET=REQUESTS/SECONDS",
        help="Limit each caller, as in api=1000/300; BUCKET is api, resolvers or pages. May be repeated.",
    ),
    faults: Path | None = typer.Option(None, "--faults", help="YAML or JSON file of faults to inject; see its README."),
    faults_log: Path | None = typer.Option(None, "--faults-log", help="Append injected faults here, as JSON lines."),
) -> None:
    """Serve a folder as a Hub until interrupted; clients need HF_ENDPOINT only."""
    from hub_fusion.local_hub import run

    limits = {bucket: rate for bucket, _, rate in (text.partition("=") for text in rate_limit)}
    say(f"Serving {root}; clients need HF_ENDPOINT set to")
    try:
        run(root, host, port, limits, faults, faults_log)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def fsck(
    root: Path = typer.Option(..., "--root", help="Folder of the Hub's storage."),
    quick: bool = typer.Option(False, "--quick", help="Compare names and sizes only; do not read every file."),
    as_json: bool = typer.Option(False, "--json", help="Print what was found as one JSON object."),
) -> None:
    """Prove that no commit is lost or damaged: blobs, index and refs agree. Exit code 1 if not."""
    from hub_fusion.local_hub.fsck import check

    try:
        found = check(root, contents=not quick)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        print(json.dumps({"clean": found.clean, **asdict(found)}, indent=1))
    else:
        for fault in found.faults:
            print(fault)
        say(f"{found.repos} repositories, {found.commits} commits, {found.blobs} blobs of {found.bytes} bytes: "
            + ("clean" if found.clean else f"{len(found.faults)} faults")
            + "".join(f"; {note}" for note in found.notes))  # fmt: skip
    raise typer.Exit(0 if found.clean else 1)


@app.command()
def gc(
    root: Path = typer.Option(..., "--root", help="Folder of the Hub's storage."),
    grace_h: float = typer.Option(24.0, "--grace", min=0, help="Hours for which nothing is removed."),
    history: bool = typer.Option(False, "--history", help="Also commits that no branch, tag or pull request leads to."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would go, remove nothing."),
) -> None:
    """Remove what nothing refers to: blobs, abandoned uploads, left-overs. Safe beside a running server."""
    from hub_fusion.local_hub.collect import collect

    if not (root / "hub.sqlite3").is_file():
        raise typer.BadParameter(f"{root} is not the folder of a local Hub: it has no hub.sqlite3.")
    print(json.dumps(asdict(collect(root, grace_s=grace_h * 3600, history=history, dry_run=dry_run))))


@app.command()
def alias(
    short: str = typer.Argument(..., help="A name without a namespace, such as gpt2."),
    full_name: str = typer.Argument(..., metavar="NAMESPACE/NAME", help="The repository that it leads to."),
    root: Path = typer.Option(..., "--root", help="Folder of the Hub's storage."),
    kind: str = typer.Option("model", "--kind", help="model, dataset or space."),
) -> None:
    """Let a name without a namespace lead to a repository, as the Hub does with those of its early days."""
    from hub_fusion.local_hub import add_short_name

    try:
        add_short_name(root, short, full_name, kind=kind)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None


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
    fullname: str | None = typer.Option(None, "--fullname", help="What people read instead of the account name."),
    member_of: list[str] = typer.Option(
        [],
        "--member-of",
        metavar="ORG[=ROLE]",
        help="Let the person into an organisation as read, contributor, write (default) or admin. May be repeated.",
    ),
    private_by_default: bool | None = typer.Option(
        None,
        "--private-by-default/--public-by-default",
        help="Whether new repositories of the account are private unless their maker says otherwise.",
    ),
    token_file: Path | None = typer.Option(
        None, "--token-file", help="Use the token in this file in place of a new one; for test suites that know theirs."
    ),
) -> None:
    """Make an account, or a further token for one, and print the token (shown once, stored hashed)."""
    from hub_fusion.local_hub import add_member, add_user

    permissions = {where: what.split(",") for where, _, what in (text.partition("=") for text in allow)}
    try:
        token = add_user(
            root,
            name,
            org=org,
            role=cast(Any, "fineGrained" if permissions else role),  # add_user checks it
            permissions=permissions or None,
            fullname=fullname,
            private_by_default=private_by_default,
            token=token_file.read_text("utf-8").strip() if token_file is not None else None,
        )
        for organisation, _, rank in (text.partition("=") for text in member_of):
            add_member(root, organisation, name, role=cast(Any, rank or "write"))  # add_member checks it
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    print(token)
