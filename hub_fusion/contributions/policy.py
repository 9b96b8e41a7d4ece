"""What a maintainer may ask of metadata beyond the rules that always hold: pure functions, each off by default.

Accounts, ancestors, data sets, languages, libraries, size, age, downloads; quantised copies, which have no place in a
mean, are always refused. What a card does not say does not fulfil a demand. `filters.py` puts these among its rules.
Not covered: merges that do not name what they were made of, and data sets that a card does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hub_fusion.records import Contribution, Refusal

if TYPE_CHECKING:
    from hub_fusion.contributions.filters import Circumstances
    from hub_fusion.recipe import Contributions

# tags that the Hub and quantisers give to weights that are not what was trained
QUANTIZED = frozenset({"4-bit", "8-bit", "gptq", "awq", "bitsandbytes", "compressed-tensors", "gguf", "exl2", "mlx"})
ASK = "Ask the maintainers in a discussion on the base's page."


def not_invited(c: Contribution, at: Circumstances) -> Refusal | None:
    """Where the recipe names accounts or repositories (`allow`), only they may contribute."""
    allow = at.recipe.contributions.allow
    if allow is None or {c.author.lower(), c.repo.lower()} & _lower(allow):
        return None
    return c.refuse("filter", "not_invited", "This base takes contributions from named accounts only.", ASK)


def blocked_ancestor(c: Contribution, at: Circumstances) -> Refusal | None:
    """A merge of what is blocked carries it in; accounts and repositories of `block` and `block_ancestors`."""
    rules = at.recipe.contributions
    blocked = _lower((*rules.block, *rules.block_ancestors))
    found = [a for a in c.ancestors if {a.lower(), a.partition("/")[0].lower()} & blocked]
    if not found:
        return None
    return c.refuse("filter", "blocked_ancestor", f"It was made from {', '.join(found[:3])}, which is blocked here.",
                    "Train from the base alone.")  # fmt: skip


def blocked_dataset(c: Contribution, at: Circumstances) -> Refusal | None:
    """Data sets with evaluation data in them, or that nobody may use."""
    blocked = _lower(at.recipe.contributions.block_datasets)
    found = [name for name in c.datasets if name.lower() in blocked]
    if not found:
        return None
    return c.refuse("filter", "blocked_dataset", f"It was trained on {', '.join(found[:3])}, which is blocked here.",
                    "Train without this data set.")  # fmt: skip


def language_not_allowed(c: Contribution, at: Circumstances) -> Refusal | None:
    """The card must name one of the recipe's languages."""
    wanted = at.recipe.contributions.languages
    if wanted is None or _lower(c.languages) & _lower(wanted):
        return None
    said = f"Its card names {', '.join(c.languages[:5]) or 'no language'}"
    return c.refuse("filter", "language_not_allowed", f"{said}; this base takes {', '.join(wanted[:8])}.",
                    "Say in the card which languages it was trained on: language: [en].")  # fmt: skip


def library_not_allowed(c: Contribution, at: Circumstances) -> Refusal | None:
    """What the Hub takes for its library must be one of the recipe's."""
    wanted = at.recipe.contributions.libraries
    if wanted is None or (c.library or "").lower() in _lower(wanted):
        return None
    return c.refuse("filter", "library_not_allowed", f"Its library is {c.library or 'not named'}; this base takes "
                    f"{', '.join(wanted[:8])}.", "Set library_name in the card.")  # fmt: skip


def too_many_parameters(c: Contribution, at: Circumstances) -> Refusal | None:
    """By what the Hub counted; the screen looks at the headers themselves."""
    most = at.recipe.contributions.max_parameters
    if most is None or c.parameters is None or c.parameters <= most:
        return None
    return c.refuse("filter", "too_many_parameters", f"It has {c.parameters:,} parameters; {most:,} are allowed.",
                    "Publish a model of the base's own size.")  # fmt: skip


def wrong_age(c: Contribution, at: Circumstances) -> Refusal | None:
    """Young repositories may vanish or be a flood's; old ones were trained from what nobody uses any more."""
    rules = at.recipe.contributions
    if rules.min_age and c.created_at is not None and at.now - c.created_at < rules.min_age:
        return c.refuse("filter", "too_young", f"Its repository is younger than {rules.min_age}.",
                        "Nothing to do; it is looked at again later.")  # fmt: skip
    changed = c.last_modified or c.created_at
    if rules.max_age is not None and changed is not None and at.now - changed > rules.max_age:
        return c.refuse("filter", "long_unchanged", f"It was last changed more than {rules.max_age} ago.",
                        "Train the newest generation and publish that.")  # fmt: skip
    return None


def quantized(c: Contribution, at: Circumstances) -> Refusal | None:
    """Rounded weights differ from the base everywhere, and the difference is no training. Adapters may have such bases.

    By tags; what has no such tag is found by its headers.
    """
    tags = {tag.lower() for tag in c.tags}
    quant = [tag for tag in sorted(tags) if tag in QUANTIZED or tag.startswith("base_model:quantized:")]
    if c.relation == "adapter" or not quant:
        return None
    return c.refuse("filter", "quantized", f"Its tags say that it is quantised: {', '.join(quant[:3])}.",
                    "Publish the weights in 16 or 32 bits.")  # fmt: skip


def refuse_standing(c: Contribution, found: dict[str, Any], rules: Contributions) -> Refusal | None:
    """By what the Hub says of a repository besides its listing, asked for what is about to be downloaded.

    Its security scan (``securityRepoStatus``), of which only "unsafe" counts, and how often it was downloaded.
    """
    status = found.get("securityRepoStatus")
    status = status if isinstance(status, dict) else {}
    issues = status.get("filesWithIssues")
    listed = issues if isinstance(issues, list) else []
    unsafe = [i for i in listed if not isinstance(i, dict) or i.get("level", "unsafe") == "unsafe"]
    if rules.security_scan != "ignore" and unsafe:
        names = ", ".join(str(i.get("path", "?"))[:80] for i in unsafe[:3] if isinstance(i, dict)) or "some files"
        return c.refuse("screen", "unsafe_files", f"The Hub's security scan calls {names} unsafe.",
                        "Delete these files from the repository.")  # fmt: skip
    if rules.security_scan == "require" and status.get("scansDone") is not True:
        return c.refuse("screen", "not_scanned", "The Hub has not scanned all its files yet.",
                        "Nothing to do; it is looked at again later.")  # fmt: skip
    downloads, least = found.get("downloads"), rules.min_downloads
    if isinstance(downloads, int) and downloads < least:
        return c.refuse("screen", "few_downloads", f"It was downloaded {downloads} times; {least} are asked for.",
                        "Nothing to do; it is looked at again later.")  # fmt: skip
    return None


Rule = Callable[[Contribution, "Circumstances"], Refusal | None]
WHO: tuple[Rule, ...] = (not_invited, blocked_ancestor)
WHAT: tuple[Rule, ...] = (blocked_dataset, language_not_allowed, library_not_allowed, too_many_parameters, wrong_age,
                          quantized)  # fmt: skip


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}
