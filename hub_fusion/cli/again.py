"""Commands that fuse again what was published: reproduce, replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hub_fusion.cli.output import (
    Endpoint,
    Json,
    Work,
    byte_bar,
    computing,
    open_hub,
    open_recipe,
    parse_settings,
    print_json,
    print_table,
    say,
    visible,
    work_folder,
)  # fmt: skip

if TYPE_CHECKING:
    from hub_fusion.records import Scores
    from hub_fusion.replay import Replayed
    from hub_fusion.reproduce import Reproduction


def reproduce(
    target: str = typer.Argument(..., metavar="REPO@gen-N", help="A generation of a base."),
    endpoint: str | None = Endpoint, work: Path | None = Work, json: bool = Json,
) -> None:  # fmt: skip
    """Fuse a published generation again from its record, and compare the weights; exit code 1 if they differ."""
    from hub_fusion.lock import alone
    from hub_fusion.reproduce import reproduce as fuse_again

    repo, at, tag = target.partition("@")
    if not at or repo.count("/") != 1:
        raise typer.BadParameter(f"give a base's repository and a generation, like acme/base@gen-3, not {target!r}")
    hub = open_hub(endpoint)
    with computing() as compute:
        place = work_folder(work, repo) / "reproduce"
        with alone(place, say):
            done = fuse_again(hub, repo, tag, compute, place, say=say, progress=byte_bar("fusing"))
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


def replay(
    repo: str = typer.Argument(..., help="A base's repository."),
    method: str | None = typer.Option(None, "--method", "-m", help="Merge method.  [default: as recorded]"),
    settings: list[str] = typer.Option([], "--set", help="Option of the method: density=0.2 (repeatable)."),
    step: float | None = typer.Option(None, "--step", help="Part of the way, in (0, 1].  [default: as recorded]"),
    out: Path = typer.Option(Path("replay"), "--out", "-o", help="Folder of the replayed generations."),
    skip_missing: bool = typer.Option(False, "--skip-missing", help="Leave out contributions that are gone."),
    recipe: Path | None = typer.Option(None, "--recipe", "-r", help="Measure with the held-out tasks of this recipe."),
    endpoint: str | None = Endpoint, work: Path | None = Work, json: bool = Json,
) -> None:  # fmt: skip
    """Make a whole lineage again with another merge method, and say how far it lies from the published one.

    Every contribution keeps its change of the published generation that it started from; the changes are added to the
    replayed parents.
    """
    from hub_fusion.lock import alone
    from hub_fusion.replay import replay as replay_lineage

    if settings and method is None:
        raise typer.BadParameter("--set are options of --method: give both")
    rules = open_recipe(recipe, []) if recipe else None
    hub = open_hub(endpoint)
    with computing() as compute:
        place = work_folder(work, repo) / "replay"
        with alone(place, say):
            done = replay_lineage(hub, repo, compute, out, place, method=method, options=parse_settings(settings),
                                  step=step, skip_missing=skip_missing, evaluate=rules.evaluate if rules else None,
                                  say=say, progress=byte_bar("fusing"))  # fmt: skip
    if json:
        return print_json([facts(r) for r in done])
    rows = [[f"gen-{r.generation}", str(r.fused), str(len(r.missing)), r.weights_sha256[:12],
             "equal" if r.equal else f"{r.distance.apart:.4g}", f"{r.distance.first:.4g}", f"{r.distance.second:.4g}",
             f"{r.distance.cosine:.3f}", _gate(r.scores), _gate(r.published_scores)] for r in done]  # fmt: skip
    print_table(f"{repo}, replayed by {method or 'the recorded methods'} into {out}",
                ["generation", "fused", "missing", "sha256", "from published", "from root", "published from root",
                 "cosine", "gate mean", "published gate mean"], rows)  # fmt: skip


def facts(r: Replayed) -> dict[str, Any]:
    """One replayed generation."""
    scores = {name: s.model_dump(mode="json") if s else None
              for name, s in (("scores", r.scores), ("published_scores", r.published_scores))}  # fmt: skip
    return {"generation": r.generation, "parent": r.parent, "folder": str(r.folder), "fused": r.fused,
            "missing": list(r.missing), "weights_sha256": r.weights_sha256, "equal": r.equal,
            "from_published": r.distance.apart, "from_root": r.distance.first,
            "published_from_root": r.distance.second, "cosine": r.distance.cosine, **scores}  # fmt: skip


def _gate(scores: Scores | None) -> str:
    return f"{scores.mean('gate'):.4f}" if scores and scores.means else "–"


COMMANDS = [reproduce, replay]
