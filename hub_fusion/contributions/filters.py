"""Metadata rules: pure functions of a contribution and its circumstances to a refusal or None.

The first rule that speaks decides, so the order goes from what cannot be mended to what can. These are the rules that
``hub-fusion check`` applies before anything is uploaded and the watcher applies before anything is downloaded.
Not covered: whether a card tells the truth, and what the weights hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from hub_fusion.contributions import policy
from hub_fusion.contributions.card import UNREADABLE
from hub_fusion.contributions.discover import OPT_IN, OPT_OUT
from hub_fusion.contributions.licenses import BaseLicense, check_policy, read_base_license, rule_on
from hub_fusion.recipe import Recipe, trained_on
from hub_fusion.records import Contribution, Refusal, now

if TYPE_CHECKING:
    from hub_fusion.hub import Hub


@dataclass(frozen=True)
class Circumstances:
    """What the rules need to know besides the contribution."""

    recipe: Recipe
    fused: frozenset[str] = field(default_factory=frozenset)  # ``repo@sha`` of everything in any generation
    read_license: Callable[[], BaseLicense] = BaseLicense  # of the base; asked once, when the first rule wants it
    now: datetime = field(default_factory=now)

    @cached_property
    def license(self) -> BaseLicense:
        """What binds the base. Raises RecipeError where the recipe's policy does not fit it."""
        found = self.read_license()
        check_policy(found, self.recipe.contributions)
        return found

    @classmethod
    def of(cls, hub: Hub, recipe: Recipe, fused: frozenset[str] = frozenset()) -> Circumstances:
        """Those of a base on a Hub."""
        own = recipe.publish.license
        return cls(recipe, fused, lambda: read_base_license(hub, recipe.base, own=own, root=recipe.root))

    @property
    def bases(self) -> set[str]:
        """Names under which the base is known, lower case."""
        return {self.recipe.base.lower(), *(alias.lower() for alias in self.recipe.aliases)}


Rule = Callable[[Contribution, Circumstances], Refusal | None]
RULES: list[Rule] = []
QUIET = frozenset({"already_fused", "no_consent"})  # true of most of a popular base's children: counted, not recorded


def rule(function: Rule) -> Rule:
    """Add a rule at the end of the list."""
    RULES.append(function)
    return function


def filter_contributions(
    found: Iterable[Contribution], circumstances: Circumstances
) -> tuple[list[Contribution], list[Refusal]]:
    """Those that every rule lets pass, and a refusal for each of the others."""
    kept, refusals = [], []
    for contribution in found:
        refusal = check_metadata(contribution, circumstances)
        refusals.append(refusal) if refusal else kept.append(contribution)
    return kept, refusals


def check_metadata(contribution: Contribution, circumstances: Circumstances) -> Refusal | None:
    """The first refusal that applies, or None."""
    return next((r for check in RULES if (r := check(contribution, circumstances))), None)


@rule
def blocked(c: Contribution, at: Circumstances) -> Refusal | None:
    """Accounts and repositories that the maintainer does not take from."""
    if {c.author.lower(), c.repo.lower()} & {name.lower() for name in at.recipe.contributions.block}:
        return c.refuse("filter", "blocked", "The maintainers of this base do not take contributions from here.",
                        "Ask them in a discussion on the base's page.")  # fmt: skip
    return None


RULES += policy.WHO


@rule
def already_fused(c: Contribution, at: Circumstances) -> Refusal | None:
    """Every commit is fused once."""
    if c.key in at.fused:
        return c.refuse("filter", "already_fused", "This commit is part of an earlier generation.",
                        "Nothing to do; a new commit will be considered again.")  # fmt: skip
    return None


@rule
def own_repo(c: Contribution, at: Circumstances) -> Refusal | None:
    """A base's own account would vote for itself."""
    if not at.recipe.contributions.own and c.author.lower() == at.recipe.base.partition("/")[0].lower():
        return c.refuse("filter", "own_repo", f"It belongs to {c.author}, the account of the base itself.",
                        "Publish it under another account, or set contributions.own in the recipe.")  # fmt: skip
    return None


@rule
def opted_out(c: Contribution, at: Circumstances) -> Refusal | None:
    """`no-fusion` is always honoured."""
    if OPT_OUT in c.tags:
        return c.refuse("filter", "opted_out", f"Its card has the tag {OPT_OUT}.",
                        f"Remove the tag {OPT_OUT} if you want to contribute.")  # fmt: skip
    return None


@rule
def unreadable_card(c: Contribution, at: Circumstances) -> Refusal | None:
    """Nobody can say what its author wanted."""
    if UNREADABLE in c.faults:
        return c.refuse("filter", "unreadable_card", f"Its card cannot be used: {UNREADABLE}.",
                        "Mend the YAML at the head of README.md; hub-fusion check FOLDER names the line.")  # fmt: skip
    return None


@rule
def no_consent(c: Contribution, at: Circumstances) -> Refusal | None:
    """Without consent nobody's work is taken (recipe: contributions.consent)."""
    if at.recipe.contributions.consent == "tag" and not c.consent:
        return c.refuse("filter", "no_consent",
                        f"Its card neither has the tag {OPT_IN} nor says hub_fusion.contribute: true.",
                        f"Add the tag {OPT_IN} to the card to contribute.")  # fmt: skip
    return None


@rule
def malformed_card(c: Contribution, at: Circumstances) -> Refusal | None:
    """To go on without a field that decides something would be to guess."""
    if c.faults and UNREADABLE not in c.faults:
        return c.refuse("filter", "malformed_card", f"Its card cannot be taken as it is: {'; '.join(c.faults)}.",
                        "Mend these fields in the metadata at the head of README.md.")  # fmt: skip
    return None


@rule
def other_base(c: Contribution, at: Circumstances) -> Refusal | None:
    """The card must name this base, and only this one."""
    if (c.base or "").lower() not in at.bases:
        given = c.base or "nothing, or several bases"
        return c.refuse("filter", "other_base", f"Its card's base_model is {given}, not {at.recipe.base}.",
                        f"Set base_model: {at.recipe.base} in the card if it was trained from it.")  # fmt: skip
    return None


@rule
def not_an_adapter(c: Contribution, at: Circumstances) -> Refusal | None:
    """Where generations are adapters of frozen weights, a whole model has no place in them."""
    if at.recipe.publish.kind == "adapter" and c.relation != "adapter":
        return c.refuse("filter", "not_an_adapter", "It is a full model; the generations of this base are adapters.",
                        "Publish a LoRA adapter of this base.")  # fmt: skip
    return None


@rule
def private(c: Contribution, at: Circumstances) -> Refusal | None:
    """What others cannot see they cannot check."""
    if c.private and not at.recipe.contributions.private:
        return c.refuse("filter", "private", "The repository is private.", "Make it public.")
    return None


@rule
def gated(c: Contribution, at: Circumstances) -> Refusal | None:
    """Gated weights would leave their gate through the base."""
    if c.gated and not at.recipe.contributions.gated:
        return c.refuse("filter", "gated", "The repository is gated.", "Turn gating off in its settings.")
    return None


@rule
def license_not_allowed(c: Contribution, at: Circumstances) -> Refusal | None:
    """Fused weights cannot be unmixed, so one restrictive licence would bind all later generations."""
    ruling = rule_on(c.license, at.license, at.recipe.contributions)
    return c.refuse("filter", ruling.code, ruling.reason, ruling.fix) if ruling.code else None


RULES += policy.WHAT


@rule
def contaminates(c: Contribution, at: Circumstances) -> Refusal | None:
    """What has been trained on cannot judge (recipe: evaluate.contamination)."""
    found = trained_on(c, at.recipe.evaluate.tasks) if at.recipe.evaluate.contamination == "refuse" else {}
    if found:
        task, declared = next(iter(found.items()))
        return c.refuse("filter", "contaminates",
                        f"Its card names {declared}, which the held-out task {task} is made of.",
                        "Train on other data: what this base is judged by must stay unseen. If it was not trained on "
                        "that, mend datasets (and hub_fusion.task) in the card.")  # fmt: skip
    return None


@rule
def no_safetensors(c: Contribution, at: Circumstances) -> Refusal | None:
    """Pickled weights can run code when they are loaded, so they never are."""
    needed = (
        ("adapter_model.safetensors",)
        if c.relation == "adapter"
        else ("model.safetensors", "model.safetensors.index.json")
    )
    if not any(name in c.files for name in needed):
        return c.refuse("filter", "no_safetensors", f"It has no {' or '.join(needed)}.",
                        "Save it with save_pretrained, which writes safetensors, and upload it again.")  # fmt: skip
    return None
