"""reevaluate: published generations by a larger suite, and whether the gate would still let them pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hub_fusion.cli.output import (
    Endpoint,
    Json,
    RecipeFile,
    Settings,
    Work,
    computing,
    open_hub,
    open_recipe,
    print_json,
    print_table,
    say,
    work_folder,
)  # fmt: skip
from hub_fusion.cli.rank import task_folders

if TYPE_CHECKING:
    from hub_fusion.hub import Hub
    from hub_fusion.recipe import Recipe
    from hub_fusion.records import Rule, Verdict
    from hub_fusion.reevaluate import Judged, Reevaluation


def reevaluate(
    repo: str = typer.Argument(..., metavar="BASE", help="The base's repository."),
    generations: list[str] = typer.Argument(None, metavar="[gen-N]...", help="To be judged.  [default: the newest]"),
    recipe: Path = RecipeFile,
    tasks: list[Path] = typer.Option(
        [], "--tasks", help="Tasks besides the recipe's: a folder, or one of such folders."
    ),
    seeds: int | None = typer.Option(None, "--seeds", min=1, help="Seeds of every protocol.  [default: the recipe's]"),
    examples: int | None = typer.Option(
        None, "--test-examples", min=10, help="At most, of every task's part.  [default: the recipe's]"
    ),
    settings: list[str] = Settings,
    rollback: bool = typer.Option(False, "--rollback", help="Withdraw what the larger suite would not let pass."),
    endpoint: str | None = Endpoint, work: Path | None = Work, json: bool = Json,
) -> None:  # fmt: skip
    """Measure published generations again by a larger suite; exit code 3 if it disagrees with the gate.

    Measured are the generations to be judged, their parents, gen-0 and the best before them. Run it again to go on
    where it was killed. Nothing is withdrawn without --rollback.
    """
    from hub_fusion.lock import alone
    from hub_fusion.reevaluate import reevaluate as look_again

    numbers = [_number(name) for name in generations or ()]
    more = {"evaluate.seeds": seeds, "evaluate.max_test_examples": examples}
    rules = open_recipe(recipe, [*settings, *(f"{key}={value}" for key, value in more.items() if value)])
    rules = with_tasks(rules, tasks)
    hub = open_hub(endpoint)
    place = work_folder(work, repo)
    with computing() as compute, alone(place / "reevaluate", say):
        found = look_again(hub, repo, rules, compute, work=place / "reevaluate", cache=place / "scores",
                           generations=numbers, say=say)  # fmt: skip
    if not json:
        show(found, repo)
    done = dict(_roll_back(hub, repo, found)) if rollback else {}
    if json:
        print_json(facts(found, repo, done))
    if found.disagrees:
        raise typer.Exit(3)


def with_tasks(recipe: Recipe, folders: list[Path]) -> Recipe:
    """The recipe with these tasks besides its own."""
    from hub_fusion.recipe import Task

    more = tuple(Task(name=f.resolve().name, path=f.resolve()) for given in folders for f in task_folders(given))
    evaluate = recipe.evaluate.model_copy(update={"tasks": (*recipe.evaluate.tasks, *more)})
    return recipe.model_copy(update={"evaluate": evaluate})


def _number(name: str) -> int:
    from hub_fusion.records import generation_number

    number = generation_number(name)
    if number is None:
        raise typer.BadParameter(f"give generations like gen-3, not {name!r}")
    return number


def _roll_back(hub: Hub, repo: str, found: Reevaluation) -> Iterator[tuple[int, dict[str, Any]]]:
    """Withdraw what does not hold, the newest first; gives what came of it."""
    from hub_fusion.errors import RecordError
    from hub_fusion.reevaluate import withdraw

    for judged in found.judged:
        if not judged.disagrees:
            continue
        try:
            revision, target = withdraw(hub, repo, judged, found.suite)
        except RecordError as error:
            say(str(error))
            yield judged.generation, {"withdrawn": False, "reason": str(error)}
        else:
            say(f"gen-{judged.generation} is withdrawn: main of {repo} has the weights of gen-{target} again "
                f"({revision[:8]})")  # fmt: skip
            yield judged.generation, {"withdrawn": True, "revision": revision, "generation": target}


def facts(found: Reevaluation, repo: str, done: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Everything, for ``--json``."""
    judged = [
        {"generation": j.generation, "disagrees": j.disagrees, "larger": j.larger,
         "then": vars(j.then) | {"verdict": _said(j.record.verdict)},
         "now": vars(j.now) | {"verdict": _said(j.verdict)},
         "over_parent": [d.model_dump(mode="json") for d in j.over_parent],
         "over_root": [d.model_dump(mode="json") for d in j.over_root], "rollback": done.get(j.generation)}
        for j in found.judged
    ]  # fmt: skip
    measured = [{"generation": number, "scores": found.measured[number].scores.model_dump(mode="json")}
                for number in sorted(found.measured)]  # fmt: skip
    return {"repo": repo, "suite": found.suite, "disagrees": found.disagrees, "judged": judged, "measured": measured,
            "contaminated": [task.model_dump(mode="json") for task in found.contaminated]}  # fmt: skip


def _said(verdict: Verdict | None) -> dict[str, Any] | None:
    return verdict.model_dump(mode="json", exclude={"trials"}) if verdict else None


def show(found: Reevaluation, repo: str) -> None:
    """Two tables, scores and rules, and a sentence for every generation that was judged."""
    means = {n: [*m.scores.means, *(s for s in m.scores.likelihoods if s.task is None)]
             for n, m in sorted(found.measured.items())}  # fmt: skip
    keys = [(s.role, s.protocol) for s in next(iter(means.values()))]
    rows = [[f"gen-{n}", *(f"{s.mean:.4f} [{s.low:.4f}, {s.high:.4f}]" for s in scores)] for n, scores in means.items()]
    print_table(f"{repo} by {found.judged[0].now}", ["generation", *(f"{p} ({r})" for r, p in keys)], rows)
    rules = [[f"gen-{j.generation}", *_cells(rule)] for j in found.judged for rule in j.verdict.rules]
    print_table("what the gate looks at", ["generation", "against", "change, paired", "allowed loss", ""], rules)
    for judged in found.judged:
        for text in words(judged):
            say(text)
    for task in found.contaminated:
        say(f"{task.task} is not held out, so it flatters: {', '.join(task.contributions[:3])} name its data")


def _cells(rule: Rule) -> list[str]:
    against = f"the best, {rule.against}" if rule.name == "best" else rule.against
    interval = "" if rule.low is None or rule.high is None else f" [{rule.low:+.4f}, {rule.high:+.4f}]"
    return [f"{against}, {rule.task}" if rule.task else against, f"{rule.change:+.4f}{interval}", f"{rule.allowed:g}",
            "" if rule.passed else "failed"]  # fmt: skip


def words(judged: Judged) -> Iterator[str]:
    """What the later evaluation says of one generation, and of what it could have noticed."""
    from hub_fusion.evaluate.paired import smallest_noticed_drop
    from hub_fusion.records import Estimate

    tag, then = f"gen-{judged.generation}", judged.record.verdict
    yield f"{tag} then ({judged.then}): {then.reason if then and then.reason else 'published without a verdict'}"
    yield f"{tag} now ({judged.now}): {judged.verdict.reason}"
    yield f"{tag}: the later evaluation {'disagrees with' if judged.disagrees else 'agrees with'} the gate"
    if not judged.larger:
        yield f"{tag}: the later suite is not larger than the gate's was; what it says may be noise"
    rule = judged.verdict.rules[0]
    if rule.low is not None and rule.high is not None and rule.high > rule.low:
        drop = smallest_noticed_drop(Estimate(mean=rule.change, low=rule.low, high=rule.high))
        yield f"{tag}: a loss of {drop:.4f} against {rule.against} would be certain in four of five cases"


COMMANDS = [reevaluate]
