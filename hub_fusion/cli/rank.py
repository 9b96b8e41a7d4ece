"""rank: which of many models is the best base?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hub_fusion.cli.output import (
    Endpoint,
    Json,
    Work,
    computing,
    open_hub,
    parse_settings,
    print_json,
    print_table,
    say,
    work_folder,
)  # fmt: skip

if TYPE_CHECKING:
    from hub_fusion.evaluate.ranking import Ranking, Row
    from hub_fusion.recipe import Evaluate
    from hub_fusion.records import Estimate


def rank(
    models: list[str] = typer.Argument(..., help="Folders, or repositories as user/model[@revision]."),
    tasks: list[Path] = typer.Option(..., "--tasks", help="A task's folder, or one of such folders (repeatable)."),
    top: int = typer.Option(3, "--top", min=1, help="How many are finetuned."),
    reference: str | None = typer.Option(None, "--reference", help="The model that gains are told against."),
    settings: list[str] = typer.Option(
        [], "--set", help="Key of the recipe's section evaluate: probe.examples=200, finetune={} (repeatable)."
    ),
    endpoint: str | None = Endpoint, work: Path | None = Work, json: bool = Json,
) -> None:  # fmt: skip
    """Rank models as bases: LogME on all, the probe on the better half, finetuning on the best few."""
    from hub_fusion.evaluate.rank import rank as rank_models

    evaluate = settings_of(tasks, settings)
    hub = open_hub(endpoint)
    with computing() as compute:
        ranking = rank_models(models, evaluate, top=top, reference=reference, hub=hub,
                              cache=work_folder(work, "rank") / "scores", device=compute.device, say=say)  # fmt: skip
    if json:
        print_json(ranking.model_dump(mode="json"))
    else:
        show(ranking)
    if not any(row.rank for row in ranking.rows):
        raise typer.Exit(1)


def settings_of(folders: list[Path], settings: list[str]) -> Evaluate:
    """What is measured: every protocol but full finetuning, unless the settings say otherwise."""
    from hub_fusion.recipe import Recipe

    tasks = [
        {"name": folder.resolve().name, "path": str(folder)} for given in folders for folder in task_folders(given)
    ]
    keys = {f"evaluate.{key}": value for key, value in parse_settings(settings).items()}
    sections = {key.partition(".")[2].partition(".")[0] for key in keys}
    defaults: dict[str, object] = {} if "logme" in sections else {"evaluate.logme": {}}
    recipe = Recipe.from_text("base: a/ranking", source="--set", overrides=defaults | keys | {"evaluate.tasks": tasks})
    return recipe.evaluate


def task_folders(folder: Path) -> list[Path]:
    """`folder` itself, or where it holds no train part, those of its folders that do."""

    def is_task(place: Path) -> bool:
        return any(place.glob("train.*")) or (place / "train").is_dir()

    inside = [child for child in sorted(folder.iterdir()) if is_task(child)] if folder.is_dir() else []
    return [folder] if is_task(folder) or not inside else inside


def show(ranking: Ranking) -> None:
    """The ranking, the gains task by task, and what is suspicious."""
    protocols = [p for p in ("logme", "probe", "fewshot", "finetune") if any(row.mean(p) for row in ranking.rows)]
    headers = ["rank", "model", *protocols, *(["gain", "95 % interval"] if ranking.reference else []), ""]
    print_table("the best base first", headers, [cells(row, protocols, ranking) for row in ranking.rows])
    best = [row for row in ranking.rows if row.rank and row.protocol == ranking.rows[0].protocol]
    if ranking.reference and len(best) > 1:
        others = [row for row in best if row.model != ranking.reference]
        title = f"gains over {ranking.reference}, {ranking.rows[0].protocol}"
        rows = [[task or "mean", *(told(row.gain(row.protocol, task)) for row in others)]
                for task in (*ranking.tasks, None)]  # fmt: skip
        print_table(title, ["task", *(row.model for row in others)], rows)
    for text in remarks(ranking):
        say(text)


def cells(row: Row, protocols: list[str], ranking: Ranking) -> list[str]:
    """One line of the ranking."""
    means = [f"{mean.mean:.4f}" if (mean := row.mean(protocol)) else "" for protocol in protocols]
    gain = row.gain(row.protocol)
    gains = [f"{gain.mean:+.4f}", f"{gain.low:+.4f} – {gain.high:+.4f}"] if gain else ["", ""]
    word = (
        "failed" if row.error else "suspicious" if row.flags else "reference" if row.model == ranking.reference else ""
    )
    return [str(row.rank or ""), row.model, *means, *(gains if ranking.reference else []), word]


def told(gain: Estimate | None) -> str:
    """A gain with its interval."""
    return f"{gain.mean:+.4f} ({gain.low:+.4f} – {gain.high:+.4f})" if gain else ""


def remarks(ranking: Ranking) -> Iterator[str]:
    """Reasons of failed and suspicious rows, a line each."""
    for row in ranking.rows:
        if row.error:
            yield f"{row.model}: failed: {row.error}"
        for flag in row.flags:
            yield f"{row.model}: {': '.join(filter(None, [flag.protocol, flag.task, flag.reason]))}"


COMMANDS = [rank]
