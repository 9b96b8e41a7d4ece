"""Commands that fuse again what was published: reproduce, replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hub_fusion.cli.output import (
    Endpoint,
    Json,
    Work,
    byte_bar,
    open_compute,
    open_hub,
    print_json,
    say,
    visible,
    work_folder,
)  # fmt: skip

if TYPE_CHECKING:
    from hub_fusion.reproduce import Reproduction


def reproduce(
    target: str = typer.Argument(..., metavar="REPO@gen-N", help="A generation of a base."),
    endpoint: str | None = Endpoint, work: Path | None = Work, json: bool = Json,
) -> None:  # fmt: skip
    """Fuse a published generation again from its record, and compare the weights; exit code 1 if they differ."""
    from hub_fusion.generation import alone
    from hub_fusion.reproduce import reproduce as fuse_again

    repo, at, tag = target.partition("@")
    if not at or repo.count("/") != 1:
        raise typer.BadParameter(f"give a base's repository and a generation, like acme/base@gen-3, not {target!r}")
    hub, compute = open_hub(endpoint), open_compute()
    if not compute.is_main:
        return compute.serve()
    try:
        place = work_folder(work, repo) / "reproduce"
        with alone(place, say):
            done = fuse_again(hub, repo, tag, compute, place, say=say, progress=byte_bar("fusing"))
    finally:
        compute.close()
    tell(done, place / "candidate", json)
    if not done.equal:
        raise typer.Exit(1)


def tell(done: Reproduction, out: Path, as_json: bool) -> None:
    """Print what was equal and what was not."""
    names = sorted({*done.published, *done.fused})
    pairs = [(name, done.published.get(name), done.fused.get(name)) for name in names]
    if as_json:
        files = [{"file": n, "published": was, "fused": now, "equal": was == now} for n, was, now in pairs]
        return print_json({"repo": done.repo, "generation": done.generation, "revision": done.revision,
                           "equal": done.equal, "files": files, "archived": list(done.archived),
                           "remarks": list(done.remarks), "apart": done.apart})  # fmt: skip
    for name, was, now in pairs:
        words = "equal      " if was == now else "NOT EQUAL  "
        print(visible(f"{words}{was or 'not published'}  {name}" + (f"  (fused again: {now})" if was != now else "")))
    for key in done.archived:
        say(f"from the archive: {key}")
    if done.equal:
        return say(f"gen-{done.generation} of {done.repo} was reproduced, bit by bit")
    reasons = "".join(f"\n  {remark}" for remark in done.remarks) or " neither device nor versions explain it"
    say(f"gen-{done.generation} of {done.repo} was not reproduced: weights differ by up to {done.apart:.3g}; "
        f"likely reasons:{reasons}\nwhat was fused is in {out}")  # fmt: skip


COMMANDS = [reproduce]
