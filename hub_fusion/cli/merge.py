"""Commands that merge: fuse, methods."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hub_fusion.cli.output import (
    Endpoint,
    Json,
    RecipeFile,
    Work,
    byte_bar,
    computing,
    open_hub,
    open_recipe,
    parse_settings,
    print_json,
    print_table,
    read_lines,
    say,
    visible,
    work_folder,
)  # fmt: skip

if TYPE_CHECKING:
    from hub_fusion.merge import MergeMethod
    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.fuse import FusePlan


def fuse(
    base: str = typer.Argument(None, help="A folder, or repository[@revision]."),
    contributions: list[str] = typer.Argument(None, help="Finetunes or adapters of it, folders or repositories."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the result."),
    method: str = typer.Option("mean", "--method", "-m", help="hub-fusion methods lists them."),
    settings: list[str] = typer.Option([], "--set", help="Option of the method: density=0.2 (repeatable)."),
    weights: str | None = typer.Option(None, "--weights", help="Relative weights: 1,2,1."),
    dtype: str | None = typer.Option(None, "--dtype", help="fp32, fp16 or bf16.  [default: the base's]"),
    heads: str = typer.Option("keep", "--heads", help="keep the base's task head, or drop it."),
    residual: bool = typer.Option(False, "--residual", help="Keep what rounding to 16 bits lost, for the next fuse."),
    vocab: str = typer.Option("drop", "--vocab", help="Rows of tokens that the base lacks: drop or keep."),
    seed: int = typer.Option(0, "--seed", help="Of methods with randomness."),
    step: float | None = typer.Option(None, "--step", help="Part of the way to the result, in (0, 1].  [default: 1]"),
    from_mergekit: Path | None = typer.Option(
        None, "--from-mergekit", help="A mergekit configuration, instead of BASE, CONTRIBUTION and method."
    ),
    from_lines: str | None = typer.Option(
        None, "--from", help="What `screen` wrote, instead of BASE and CONTRIBUTION."
    ),
    cache: bool = typer.Option(False, "--cache", help="Keep what is downloaded in the client's cache."),
    recipe: Path = RecipeFile, endpoint: str | None = Endpoint, work: Path | None = Work,
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the plan; write nothing."), json: bool = Json,
) -> None:  # fmt: skip
    """Fuse finetunes and adapters of a base into one checkpoint."""
    from hub_fusion.weights.fuse import fuse as fuse_checkpoints

    if step is not None and not 0 < step <= 1:
        raise typer.BadParameter(f"--step is a part of the way, above 0 and at most 1, not {step:g}")
    if vocab not in ("drop", "keep"):
        raise typer.BadParameter(f"--vocab is drop or keep, not {vocab!r}")
    with ExitStack() as stack, computing() as compute:
        if from_mergekit:
            if base or contributions or settings or weights or method != "mean" or heads != "keep" or from_lines:
                raise typer.BadParameter(
                    "--from-mergekit takes everything but --dtype, --seed and --step from its FILE"
                )
            plan = plan_from_mergekit(from_mergekit, out, dtype, seed, endpoint)
        elif from_lines:
            if base or contributions or settings or weights or method != "mean" or heads != "keep" or seed:
                raise typer.BadParameter(
                    "--from takes contributions, method, weights and heads from FILE and the recipe"
                )
            plan = plan_from_lines(from_lines, recipe, endpoint, work, out, dtype, compute, stack)
        else:
            plan = plan_from_arguments(
                base, contributions, out, method, settings, weights, dtype, heads, seed, endpoint, cache
            )
        if step is not None:
            plan = replace(plan, step=step)
        if residual:
            plan = replace(plan, residual=True)
        if vocab == "keep":
            plan = replace(plan, vocab="keep")
        if dry_run:
            return print_plan(plan, compute, json)
        say(f"fusing {len(plan.sources)} contributions by {plan.method}, processes: {compute.processes}")
        report = compute.together(fuse_checkpoints, plan, progress=byte_bar("fusing"))
    if json:
        return print_json({"out": str(plan.out), "processes": report.processes, "device": report.device,
                           "files": report.files, "weights_sha256": report.weights_sha256, "tensors": report.tensors,
                           "bytes": report.bytes_written, "bytes_read": report.bytes_read,
                           "bytes_resumed": report.bytes_resumed, "seconds": round(report.seconds, 3),
                           "dropped": list(report.dropped), "notes": list(report.notes),
                           "residual": list(report.residual)})  # fmt: skip
    say(f"wrote {report.tensors} tensors, {report.bytes_written:,} bytes, in {report.seconds:.1f} s "
        f"(processes: {report.processes}, {report.device}) to {plan.out}")  # fmt: skip
    for note in report.notes:
        say(f"  note: {note}")
    for file, digest in report.files.items():
        print(visible(f"{digest}  {file}"))


def plan_from_arguments(
    base: str | None, contributions: list[str] | None, out: Path, method: str, settings: list[str], weights: str | None,
    dtype: str | None, heads: str, seed: int, endpoint: str | None, cache: bool,
) -> FusePlan:  # fmt: skip
    """BASE CONTRIBUTION… with their options."""
    from hub_fusion.merge import find_method
    from hub_fusion.weights.local import plan_local

    if not base or not contributions:
        raise typer.BadParameter("give BASE and at least one CONTRIBUTION, or --from FILE")
    if heads not in ("keep", "drop"):
        raise typer.BadParameter("--heads is keep or drop")
    try:
        shares = [float(w) for w in weights.split(",")] if weights else None
    except ValueError:
        raise typer.BadParameter(f"--weights takes numbers like 1,2,1, not {weights!r}") from None
    options = parse_settings(settings)
    find_method(method).bind(options)
    output_dtype(dtype)
    return plan_local(base, contributions, out, method=method, options=options, weights=shares, dtype=dtype,
                      heads="drop" if heads == "drop" else "keep", seed=seed, hub=open_hub(endpoint),
                      cache=cache)  # fmt: skip


def plan_from_mergekit(file: Path, out: Path, dtype: str | None, seed: int, endpoint: str | None) -> FusePlan:
    """What a mergekit configuration asks for; says where the result will differ from mergekit's."""
    from hub_fusion.weights.mergekit import plan_mergekit

    plan, notes = plan_mergekit(file, out, dtype=output_dtype(dtype), seed=seed, hub=open_hub(endpoint))
    options = ", ".join(f"{key}={value}" for key, value in plan.options.items())
    say(f"{file}: {plan.method}({options})")
    for note in notes:
        say(f"  note: {note}")
    return plan


def plan_from_lines(
    lines: str, recipe: Path, endpoint: str | None, work: Path | None, out: Path, dtype: str | None, compute: Compute,
    stack: ExitStack,
) -> FusePlan:  # fmt: skip
    """The fuse of a round whose contributions `screen` let pass; `stack` keeps the work folder to itself."""
    from hub_fusion.lock import alone
    from hub_fusion.publish.state import open_base
    from hub_fusion.records import parse_lines
    from hub_fusion.screening import screen_round
    from hub_fusion.weights.fuse import FusePlan

    rules, hub = open_recipe(recipe, []), open_hub(endpoint)
    if rules.publish.kind == "adapter":
        raise typer.BadParameter("generations of this recipe are adapters: hub-fusion publish fuses them")
    kept, _ = parse_lines(read_lines(lines))
    state, place = open_base(hub, rules.base, mend=False), work_folder(work, rules.base)
    stack.enter_context(alone(place, say))
    base, screened = screen_round(rules, hub, compute, state, kept, place, say)
    return FusePlan(base, out, tuple(screened.sources), rules.merge.method, rules.merge.options,
                    rules.merge.steps[0], rules.merge.heads, output_dtype(dtype), rules.merge.seed,
                    rules.merge.residual,
                    tokens=screened.tokens.of([c.key for c in screened.contributions]))  # fmt: skip


def output_dtype(dtype: str | None) -> str | None:
    """The safetensors name of ``--dtype``."""
    from hub_fusion.weights.local import DTYPES

    if dtype is not None and dtype not in DTYPES:
        raise typer.BadParameter(f"--dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    return DTYPES[dtype] if dtype else None


def print_plan(plan: FusePlan, compute: Compute, as_json: bool) -> None:
    """What would be read and written, from headers alone."""
    from hub_fusion.weights.fuse import describe

    plan_facts = describe(plan, compute)
    if as_json:
        return print_json(plan_facts)
    rows = [[s["key"], s["relation"], f"{s['weight']:.4g}", f"{s['bytes']:,}"] for s in plan_facts["sources"]]
    print_table(f"{plan.method} onto {plan.base}", ["contribution", "kind", "weight", "bytes to read"], rows)
    expected = "" if plan_facts["seconds"] is None else f" and {plan_facts['seconds']:.1f} s on this machine"
    say(f"would write {plan_facts['tensors']} tensors, {plan_facts['bytes']:,} bytes, to {plan.out}; "
        f"needs about {plan_facts['memory_bytes']:,} bytes of memory{expected}")  # fmt: skip
    for note in plan_facts["notes"]:
        say(f"  note: {note}")


FROM_PYTHON = {
    "hub_fusion.evaluate.soup.greedy_soup": "which contributions to average, by held-out scores of their means",
    "hub_fusion.evaluate.posterior.domain_posterior": "weights for a mean, by log-likelihoods of held-out text",
}


def methods(name: str = typer.Argument(None, help="Explain this one."), json: bool = Json) -> None:
    """List merge methods, or explain one: options, what it needs, what it was judged by."""
    import inspect

    from hub_fusion.merge import broken_plugins, find_method, merge_methods

    found = [find_method(name)] if name else list(merge_methods().values())
    docs = [inspect.getdoc(m.formula) or "" for m in found]
    if json:
        return print_json([{"name": m.name, "title": m.title, "source": m.source, "judged": m.judged,
                            "options": m.options, "choices": m.choices, "inputs": sorted(m.inputs),
                            "one_pass": m.one_pass, "whole": m.whole, "signed": m.signed, "aliases": m.aliases,
                            "plugin": m.plugin, "doc": doc}
                           for m, doc in zip(found, docs, strict=True)])  # fmt: skip
    if name:
        return print(visible("\n".join([*explain(found[0]), "", docs[0]])))
    print_table("merge methods", ["name", "judged", "what it computes", "source"],
                [[m.name, m.judged, visible((doc.splitlines() or [m.title])[0]), m.source]
                 for m, doc in zip(found, docs, strict=True)])  # fmt: skip
    for function, what in FROM_PYTHON.items():
        say(f"from Python, as it needs more than weights: {function}, {what}")
    for note in broken_plugins().values():
        say(note)


def explain(method: MergeMethod) -> list[str]:
    """Facts about a method, a line each."""
    from hub_fusion.merge.method import STATISTICS

    statistics = method.inputs & STATISTICS
    options = [f"{k}={v} ({' | '.join(map(str, method.choices[k]))})" if k in method.choices else f"{k}={v}"
               for k, v in method.options.items()]  # fmt: skip
    reads = "one pass over the weights" if method.one_pass else "several passes over the weights"
    memory = "whole tensors in memory" if method.whole else "block by block"
    if method.whole_for:
        memory += ", with some options whole tensors in memory"
    return [
        f"{method.title} ({', '.join((method.name, *method.aliases))})",
        method.source,
        *([f"brought by {method.plugin}"] if method.plugin else []),
        f"judged: {method.judged} ({'held-out tasks' if method.judged == 'base' else 'the tasks that were merged'})",
        f"options: {', '.join(options) or 'none'}",
        f"needs: {', '.join(sorted(method.inputs)) or 'nothing besides the weights'}; {reads}, {memory}",
        *(f"{i}: statistics that every contribution brings; tensors without get the mean" for i in sorted(statistics)),
        *(["negative weights subtract"] if method.signed else []),
    ]


def descends(
    base: str = typer.Argument(..., help="A folder, or repository[@revision]."),
    model: str = typer.Argument(..., help="A full checkpoint that is said to come from it."),
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Tell whether a model was trained from a base, by matching hidden units; exit code 3 if it was not."""
    from hub_fusion.errors import WeightsError
    from hub_fusion.weights.deltas import open_checkpoint
    from hub_fusion.weights.descent import descent
    from hub_fusion.weights.local import checkpoint_place
    from hub_fusion.weights.reading import Reader

    hub = open_hub(endpoint)
    ours, theirs = (open_checkpoint(checkpoint_place(place, hub)) for place in (base, model))
    found = descent(ours, theirs, Reader())
    if found is None:
        raise WeightsError(f"{base} has no MLP block under a name that is known, so its descendants cannot be told")
    if json:
        print_json({"descends": found.descends, "fixed": round(found.fixed, 4), "gain": round(found.gain, 4)})
    else:
        word = "descends" if found.descends else "does not descend"
        say(f"{model} {word} from {base}: {found.fixed:.1%} of the hidden units match their own, and matching them "
            f"otherwise wins {found.gain:.1%}")  # fmt: skip
    if not found.descends:
        raise typer.Exit(3)


COMMANDS = [fuse, methods, descends]
