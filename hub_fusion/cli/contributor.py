"""Commands for those who finetune: check, contribute."""

from __future__ import annotations

from pathlib import Path

import typer

from hub_fusion.cli.output import Endpoint, Json, open_hub, open_recipe, print_json, say

PASSED = {
    "blocked": "its account is not blocked",
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
                    "refusals": [r.model_dump(mode="json") for r in result.refusals]})  # fmt: skip
    else:
        for name in result.passed:
            say(f"✓ {PASSED.get(name, name)}")
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
    endpoint: str | None = Endpoint, json: bool = Json,
) -> None:  # fmt: skip
    """Publish a finetune or adapter as a contribution to a base."""
    from hub_fusion.contribute.upload import publish_contribution

    hub = open_hub(endpoint)
    sha = publish_contribution(folder, repo, base=base, base_revision=revision, hub=hub, license=license, task=task,
                               private=private)  # fmt: skip
    print_json({"repo": repo, "sha": sha}) if json else say(
        f"Published {repo}@{sha[:8]}; next: hub-fusion check {repo}"
    )


COMMANDS = [check, contribute]
