"""Commands for those who finetune: check, contribute."""

from __future__ import annotations

from pathlib import Path

import typer

from hub_fusion.cli.output import Endpoint, Json, open_hub, open_recipe, print_json, say

PASSED = {
    "blocked": "its account is not blocked",
    "not_invited": "its account may contribute",
    "blocked_ancestor": "nothing that it was made from is blocked",
    "blocked_dataset": "none of its data sets is blocked",
    "language_not_allowed": "its language is one of the base's",
    "library_not_allowed": "its library is one of the base's",
    "too_many_parameters": "it is not too large",
    "wrong_age": "it is neither too young nor too old",
    "quantized": "it is not quantised",
    "unreadable_card": "its card can be read",
    "malformed_card": "its card is well made",
    "own_repo": "it belongs to somebody else than the base",
    "opted_out": "it does not opt out",
    "no_consent": "its card says that it may be fused",
    "other_base": "its card names this base",
    "private": "it is public",
    "gated": "it is not gated",
    "license_not_allowed": "its licence may be fused",
    "no_safetensors": "its weights are safetensors",
    "headers": "its tensors are those of the base",
}


def check(
    target: str = typer.Argument(..., help="A repository (user/model[@revision]) or a folder."),
    base: str | None = typer.Option(None, "--base", help="The base.  [default: what the card declares]"),
    recipe: Path | None = typer.Option(None, "--recipe", "-r", help="Rules.  [default: what the base publishes]"),
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Would this contribution be accepted? From metadata and headers alone; exit code 3 if not."""
    from hub_fusion.contribute.check import check_contribution

    rules = open_recipe(recipe, []) if recipe else None
    result = check_contribution(target, hub=open_hub(endpoint), base=base, recipe=rules)
    if json:
        print_json({"repo": result.repo, "base": result.base, "accepted": result.accepted,
                    "passed": list(result.passed), "notes": list(result.notes),
                    "license": result.license, "effective_license": result.effective_license,
                    "refusals": [r.model_dump(mode="json") for r in result.refusals]})  # fmt: skip
    else:
        for name in result.passed:
            say(f"✓ {PASSED.get(name, name)}")
        if result.license:
            bound = result.effective_license or "none: no single licence covers it and its base"
            say(f"  licence: declared {result.license}, effective {bound}")
        for note in result.notes:
            say(f"? {note}")
        for refusal in result.refusals:
            say(f"✗ {refusal.code}: {refusal.reason}\n  Fix: {refusal.fix}")
        say(f"{'Would be accepted' if result.accepted else 'Would be refused'} by {result.base}.")
    if not result.accepted:
        raise typer.Exit(3)


def contribute(
    folder: Path = typer.Argument(..., help="What save_pretrained wrote."),
    repo: str = typer.Argument(..., help="The repository to publish it in: you/model."),
    base: str = typer.Option(..., "--base", help="The base it was trained from."),
    revision: str = typer.Option(..., "--revision", help="What of the base it was trained from: gen-6 or a sha."),
    license: str | None = typer.Option(None, "--license", help="Its licence, for example apache-2.0."),
    task: str | None = typer.Option(None, "--task", help="What it was trained on, in a few words."),
    private: bool = typer.Option(False, "--private", help="Make the repository private."),
    statistics: bool = typer.Option(False, "--statistics", help="Upload what hub-fusion statistics wrote, too."),
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Publish a finetune or adapter as a contribution to a base."""
    from hub_fusion.contribute.upload import publish_contribution

    hub = open_hub(endpoint)
    sha = publish_contribution(folder, repo, base=base, base_revision=revision, hub=hub, license=license, task=task,
                               private=private, statistics=statistics)  # fmt: skip
    print_json({"repo": repo, "sha": sha}) if json else say(
        f"Published {repo}@{sha[:8]}; next: hub-fusion check {repo}"
    )


def statistics(
    model: Path = typer.Argument(..., help="What save_pretrained wrote: a finetune with its head, or an adapter."),
    task: Path = typer.Option(..., "--task", help="A folder with a train file: what it was trained on."),
    kind: str = typer.Option("gram", "--kind", help="gram (for RegMean), fisher (for Fisher merging) or both."),
    examples: int = typer.Option(256, "--examples", min=1, help="Drawn from the train file."),
    layers: list[str] = typer.Option([], "--layers", help="Only weights whose name on disk matches: '*layer.1?.*'."),
    rank: int | None = typer.Option(None, "--rank", help="Of Gram matrices only so many eigenpairs, and the diagonal."),
    labels: int = typer.Option(10, "--labels", min=1, help="More labels than this are sampled (fisher)."),
    batch_size: int = typer.Option(8, "--batch-size", min=1),
    max_length: int = typer.Option(128, "--max-length", min=1, help="Tokens."),
    seed: int = typer.Option(0, "--seed"),
    memory: float = typer.Option(4.0, "--memory", min=0.001, help="GB for sums; more passes where it is not enough."),
    out: Path | None = typer.Option(None, "--out", help="Folder to write fusion/ into.  [default: the model's]"),
    push: str | None = typer.Option(None, "--push", help="Upload it to this repository, which has the model already."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what it takes."),
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Compute on your own data what Fisher merging and RegMean need; the data stays with you."""
    from typing import cast

    from hub_fusion.contribute.statistics import Kind, collect_statistics
    from hub_fusion.contribute.upload import publish_statistics

    if push and out and out.resolve() != model.resolve():
        raise typer.BadParameter("--push uploads what lies beside the model: leave --out away")
    hub = open_hub(endpoint)
    done = collect_statistics(
        model, task, hub=hub, kind=cast(Kind, kind), examples=examples, layers=layers, rank=rank, labels=labels,
        batch_size=batch_size, max_length=max_length, seed=seed, memory_bytes=int(memory * 1e9), out=out,
        dry_run=dry_run,
    )  # fmt: skip
    sha = publish_statistics(model, push, hub=hub) if push and not dry_run else None
    if json:
        return print_json({"file": str(done.file), "bytes": done.bytes, "whole_bytes": done.whole_bytes,
                           "memory_bytes": done.memory_bytes, "passes": done.passes, "tensors": done.tensors,
                           "sha": sha} | dict(done.about))  # fmt: skip
    did = "Would write" if dry_run else "Wrote"
    say(f"{did} {done.file}: {done.bytes / 1e6:.1f} MB (whole, not shared, in float32: "
        f"{done.whole_bytes / 1e6:.1f} MB), {done.about['covers']}; {done.memory_bytes / 1e6:.0f} MB of memory besides "
        f"the model, {done.passes} passes over {done.about['examples']} examples")  # fmt: skip
    if sha:
        say(f"Published {push}@{sha[:8]}")
    elif not dry_run:
        say("Statistics say something about your data: docs/statistics.md. Next: hub-fusion contribute … --statistics")


COMMANDS = [check, statistics, contribute]
