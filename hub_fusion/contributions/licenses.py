"""Which licence a fusion has, and whose work may enter without changing it. An engineering rule, not legal advice.

A card's `license` is one line that anybody may write; the licence that binds is that line joined with those of every
base along the chain (`effective`). Fused weights cannot be unmixed, so by default only what leaves the base's licence
as it is may enter (`keep-base`).
Which licence covers two works together is told by recipe/license_names.py.
Not covered: whether the card's line is true, the licences of data sets, and of bases that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from hub_fusion.contributions.discover import bases_of, from_model_info
from hub_fusion.errors import HubError, HubUnreachable, RecipeError
from hub_fusion.recipe import Contributions
from hub_fusion.recipe.license_names import FORBIDDEN, PERMISSIVE, class_of, join

if TYPE_CHECKING:
    from hub_fusion.hub import Hub

LONGEST_CHAIN = 8  # repositories asked


@dataclass(frozen=True)
class Link:
    """One step of a chain: a repository and the licence that its card names, None where it names none."""

    repo: str
    license: str | None
    readable: bool = True


@dataclass(frozen=True)
class BaseLicense:
    """What binds a base: its own line first, then each of its bases', as far as they can be read."""

    chain: tuple[Link, ...] = ()

    @property
    def known(self) -> bool:
        """Whether its own card names a licence, and nothing in the chain one that nobody here has read."""
        named = [link.license for link in self.chain if link.license]
        return bool(self.chain and self.chain[0].license) and all(class_of(name) != "U" for name in named)

    @property
    def name(self) -> str | None:
        """The effective licence of the base, None if it is not known or no single one covers the chain."""
        return effective(link.license for link in self.chain if link.license) if self.known else None

    @property
    def gaps(self) -> tuple[str, ...]:
        """Repositories in the chain that cannot be read, or name no licence: they are left out of `name`."""
        return tuple(link.repo for link in self.chain if not link.license)


def read_base_license(hub: Hub, repo: str, *, own: str | None = None, root: str | None = None) -> BaseLicense:
    """Follow a base's cards upwards, one request each. `own` and `root` stand for what its own card may not say.

    Raises HubUnreachable; a repository that is gone, hidden or misnamed is a gap.
    """
    waiting, chain, seen = [repo], list[Link](), set[str]()
    while waiting and len(chain) < LONGEST_CHAIN:
        name = waiting.pop(0)
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            info = hub.model(name)
        except HubUnreachable:
            raise
        except HubError:
            chain.append(Link(name, None, readable=False))
            continue
        chain.append(Link(name, from_model_info(info, "finetune").license))
        waiting += bases_of(info)
        if len(chain) == 1:
            chain[0] = Link(name, own or chain[0].license)
            waiting += [root] if root else []
    return BaseLicense(tuple(chain))


def effective(declared: Iterable[str]) -> str | None:
    """The licence that binds a model of this chain of declared licences, or None if no single one covers all.

    Example: ``effective(["apache-2.0", "llama3.1"])`` is ``"llama3.1"``, whatever the model's own card says.
    """
    first, *others = [name.strip().lower() for name in declared] or [""]
    start = first if class_of(first) not in FORBIDDEN else None
    return reduce(lambda one, two: join(one, two) if one else None, others, start)


def check_policy(base: BaseLicense, policy: Contributions) -> None:
    """Raises RecipeError where ``contributions.resulting_license`` does not cover the base itself."""
    target = policy.resulting_license
    if target and base.name and join(base.name, target) != target:
        raise RecipeError(
            f"contributions.resulting_license is {target}, which does not cover the base's own {base.name}: name one "
            "that does, or set contributions.license_policy: keep-base"
        )


@dataclass(frozen=True)
class Ruling:
    """What a policy says of one contribution: its effective licence, or a refusal's code, reason and fix."""

    effective: str | None = None
    code: str | None = None
    reason: str = ""
    fix: str = ""


def rule_on(declared: str | None, base: BaseLicense, policy: Contributions) -> Ruling:
    """Whether work under a declared licence may be fused into this base. Pure; the order goes from worst to mildest.

    An explicit ``contributions.licenses`` narrows the policy, and vouches for the names in it that nothing else knows:
    who lists ``my-license`` has read it, and it counts as permissive. Where the base names no licence there is nothing
    to keep, and only permissive work (or what the list says) may enter.
    """
    if declared is None:
        return Ruling(None, "license_missing", "Its card names no licence, or not exactly one.",
                      f"Add a license to the card; {_allowed(base, policy)}.")  # fmt: skip
    name, listed = declared.strip().lower(), policy.licenses
    names = None if listed is None else {entry.strip().lower() for entry in listed}
    kind = class_of(name)
    if kind == "U" and not (names and name in names):
        return Ruling(None, "license_unknown", f"Nothing is known about its licence {declared}.",
                      f"Publish it under a licence that the Hub has a name for; {_allowed(base, policy)}.")  # fmt: skip
    if kind == "ND":
        return Ruling(None, "license_no_derivatives", f"Its licence {declared} forbids to publish what is made of it.",
                      f"Publish it under another licence if you may; {_allowed(base, policy)}.")  # fmt: skip
    if names is not None and name not in names:
        return Ruling(None, "license_not_allowed", f"Its licence {declared} is not one that this base takes.",
                      f"Publish it under one of {_some(listed or ())} if you may.")  # fmt: skip
    target = policy.resulting_license or base.name
    if not base.known and not policy.resulting_license:
        if kind == "P" or names is not None:
            return Ruling(name)
        return Ruling(name, "license_not_allowed", f"Its licence {declared} would bind every later generation.",
                      f"Publish it under a permissive licence if you may; {_allowed(base, policy)}.")  # fmt: skip
    if target is None:
        chain = " and ".join(sorted({link.license for link in base.chain if link.license}))
        return Ruling(None, "license_incompatible", f"The base's own chain has no single licence ({chain}), so nothing "
                      "can be fused into it.", "Ask the maintainers; nothing is wrong with your model.")  # fmt: skip
    both = target if kind == "U" else join(target, name)
    if both is None:
        return Ruling(None, "license_incompatible", f"No one licence covers both its {declared} and the base's "
                      f"{target}.", f"Publish it under {target} or a permissive licence if you may.")  # fmt: skip
    if both != target.lower():
        return Ruling(both, "license_not_allowed", f"Its licence {declared} would bind every later generation, which "
                      f"would be {both} instead of {target}.",
                      f"Publish it under {target} or a permissive licence if you may.")  # fmt: skip
    return Ruling(target)


def _allowed(base: BaseLicense, policy: Contributions) -> str:
    if policy.licenses is not None:
        return f"allowed are {_some(policy.licenses)}"
    target = policy.resulting_license or base.name
    strict = f"{target} and " if target and class_of(target) != "P" else ""
    return f"allowed are {strict}permissive ones ({_some(PERMISSIVE)})"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (" …" if len(listed) > 8 else "")
