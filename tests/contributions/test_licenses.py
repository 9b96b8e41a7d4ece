"""The licence of a fusion: all pairs of classes by hand, the chain on a Hub, and what a policy makes of them."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from hub_fusion.contribute.check import check_contribution
from hub_fusion.contributions.licenses import (
    BaseLicense,
    Link,
    check_policy,
    effective,
    read_base_license,
    rule_on,
)
from hub_fusion.errors import RecipeError
from hub_fusion.local_hub.validate import LICENSES
from hub_fusion.recipe import Contributions, Recipe
from hub_fusion.recipe.license_names import INTO, PERMISSIVE, class_of, join, naming_fault, notice

from .world import World, adapter_files, card

ONE_OF = {"P": "mit", "C": "gpl-3.0", "NC": "cc-by-nc-4.0", "ND": "cc-by-nd-4.0", "R": "openrail", "V": "llama3.1",
          "U": "other"}  # fmt: skip
# what joins to what, with the first one's class in the row and the second one's in the column
PAIRS = {
    "P": {"P": "mit", "C": "gpl-3.0", "NC": "cc-by-nc-4.0", "ND": None, "R": "openrail", "V": "llama3.1", "U": None},
    "C": {"P": "gpl-3.0", "C": "gpl-3.0", "NC": None, "ND": None, "R": None, "V": None, "U": None},
    "NC": {"P": "cc-by-nc-4.0", "C": None, "NC": "cc-by-nc-4.0", "ND": None, "R": None, "V": None, "U": None},
    "ND": dict.fromkeys(ONE_OF),
    "R": {"P": "openrail", "C": None, "NC": None, "ND": None, "R": "openrail", "V": None, "U": None},
    "V": {"P": "llama3.1", "C": None, "NC": None, "ND": None, "R": None, "V": "llama3.1", "U": None},
    "U": dict.fromkeys(ONE_OF),
}  # fmt: skip


def policy(**changes: Any) -> Contributions:
    """The default policy, but for the changes."""
    return Contributions.model_validate(changes)


def base(*licenses: str | None) -> BaseLicense:
    """A base whose chain declares these, its own first."""
    return BaseLicense(tuple(Link(f"acme/{i}", name) for i, name in enumerate(licenses)))


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in ONE_OF for b in ONE_OF])
def test_every_pair_of_classes_joins_as_the_table_says(first: str, second: str) -> None:
    """One licence of each class with one of each: the stricter where it takes the other in, else nothing."""
    assert join(ONE_OF[first], ONE_OF[second]) == PAIRS[first][second]


def test_every_name_that_the_hub_knows_has_a_class() -> None:
    """What is unknown is so on purpose: a font licence, a bare "cc", and what nobody has read yet."""
    classes = {name: class_of(name) for name in LICENSES}
    assert {name for name, letter in classes.items() if letter == "U"} == {
        "other", "unknown", "cc", "c-uda", "lppl-1.3c", "ofl-1.1", "apple-ascl",
    }  # fmt: skip
    assert set(PERMISSIVE) >= {name for name, letter in classes.items() if letter == "P"}
    for name in ("", "Apache 2.0", "llama", "cc-by-nc", "gpl-", "mit license", "False"):
        assert class_of(name) == "U", name
    assert class_of(None) == "U"


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("apache-2.0", "mit", "apache-2.0"),  # permissive: the base keeps its own
        ("MIT", " Llama3.1 ", "llama3.1"),
        ("gpl-3.0", "agpl-3.0", "agpl-3.0"),
        ("agpl-3.0", "lgpl-3.0", "agpl-3.0"),
        ("gpl-2.0", "gpl-3.0", None),  # nobody says "or later"
        ("gpl-2.0", "apache-2.0", None),
        ("gpl-3.0", "apache-2.0", "gpl-3.0"),
        ("gpl-3.0", "ms-pl", None),
        ("cc-by-sa-3.0", "cc-by-sa-4.0", None),
        ("cc-by-sa-4.0", "gpl-3.0", None),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0"),
        ("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", None),
        ("cc-by-nc-sa-4.0", "gpl-3.0", None),
        ("llama3", "llama3.1", None),  # two vendors' agreements, even of one vendor
        ("llama3.1", "gemma", None),
        ("openrail", "creativeml-openrail-m", None),
    ],
)
def test_pairs_of_special_interest(first: str, second: str, joined: str | None) -> None:
    """By their texts."""
    assert join(first, second) == joined
    if class_of(first) != "P" or class_of(second) != "P":
        assert join(second, first) == joined


def test_joining_is_orderly() -> None:
    """Whatever the names: idempotent, of the two given, and never milder than either."""
    for one in LICENSES:
        for two in LICENSES:
            joined = join(one, two)
            assert joined is None or (joined in (one, two) and join(joined, one) == joined)
    assert all(class_of(a) not in "PUND" and class_of(b) not in "PUND" for a, b in INTO)


def test_what_a_card_says_does_not_loosen_what_its_base_says() -> None:
    """apache-2.0 on a derivative of Llama proves nothing."""
    assert effective(["apache-2.0", "llama3.1"]) == "llama3.1"
    assert effective(["apache-2.0", "mit", "cc-by-nc-4.0"]) == "cc-by-nc-4.0"
    assert effective(["gemma", "apache-2.0", "llama3.1"]) is None
    assert effective(["mit", "other"]) is effective(["other"]) is effective([]) is effective(["cc-by-nd-4.0"]) is None


RULINGS: dict[str, tuple[str | None, BaseLicense, Contributions, str | None, str | None]] = {
    # declared, base, policy → refusal's code, effective licence
    "nothing declared": (None, base("mit"), policy(), "license_missing", None),
    "permissive into permissive": ("apache-2.0", base("mit"), policy(), None, "mit"),
    "permissive into a vendor's": ("apache-2.0", base("llama3.1"), policy(), None, "llama3.1"),
    "permissive into what calls itself permissive": (
        "apache-2.0", base("apache-2.0", "llama3.1"), policy(), None, "llama3.1"),
    "a vendor's own": ("llama3.1", base("llama3.1"), policy(), None, "llama3.1"),
    "another vendor's": ("gemma", base("llama3.1"), policy(), "license_incompatible", None),
    "copyleft into permissive": ("gpl-3.0", base("mit"), policy(), "license_not_allowed", "gpl-3.0"),
    "copyleft into its own": ("GPL-3.0", base("gpl-3.0"), policy(), None, "gpl-3.0"),
    "copyleft into a vendor's": ("gpl-3.0", base("llama3.1"), policy(), "license_incompatible", None),
    "non-commercial": ("cc-by-nc-4.0", base("mit"), policy(), "license_not_allowed", "cc-by-nc-4.0"),
    "no derivatives": ("cc-by-nc-nd-4.0", base("mit"), policy(), "license_no_derivatives", None),
    "unknown": ("my-license", base("mit"), policy(), "license_unknown", None),
    "other": ("other", base("other"), policy(), "license_unknown", None),
    "a base of no licence, permissive": ("mit", base(None), policy(), None, "mit"),
    "a base of no licence, copyleft": ("gpl-3.0", base(None, "gpl-3.0"), policy(), "license_not_allowed", "gpl-3.0"),
    "a base of an unknown one, permissive": ("mit", base("other"), policy(), None, "mit"),
    "a base without any chain": ("mit", BaseLicense(), policy(), None, "mit"),
    "a base of an unknown root": ("mit", base("mit", "other"), policy(), None, "mit"),
    "a base that forbids": ("mit", base("cc-by-nd-4.0"), policy(), "license_incompatible", None),
    "a base of two vendors": ("mit", base("gemma", "llama3.1"), policy(), "license_incompatible", None),
    "listed": ("mit", base("mit"), policy(licenses=["MIT"]), None, "mit"),
    "not listed": ("apache-2.0", base("mit"), policy(licenses=["mit"]), "license_not_allowed", None),
    "listed, and stricter than the base": (
        "gpl-3.0", base("mit"), policy(licenses=["mit", "gpl-3.0"]), "license_not_allowed", "gpl-3.0"),
    "listed, for a base of no licence": ("gpl-3.0", base(None), policy(licenses=["gpl-3.0"]), None, "gpl-3.0"),
    "unknown, and vouched for": ("my-license", base("mit"), policy(licenses=["my-license"]), None, "mit"),
    "no derivatives, although listed": (
        "cc-by-nd-4.0", base("mit"), policy(licenses=["cc-by-nd-4.0"]), "license_no_derivatives", None),
}  # fmt: skip
STRICTER = {"license_policy": "allow-stricter", "resulting_license": "CC-BY-NC-SA-4.0"}
RULINGS |= {
    "stricter, as typed": ("cc-by-nc-sa-4.0", base("mit"), policy(**STRICTER), None, "cc-by-nc-sa-4.0"),
    "stricter, into what was typed": ("cc-by-nc-4.0", base("mit"), policy(**STRICTER), None, "cc-by-nc-sa-4.0"),
    "permissive, where stricter may come": ("mit", base("mit"), policy(**STRICTER), None, "cc-by-nc-sa-4.0"),
    "stricter otherwise than typed": ("gpl-3.0", base("mit"), policy(**STRICTER), "license_incompatible", None),
}


@pytest.mark.parametrize("case", RULINGS)
def test_a_policy_rules_as_the_table_says(case: str) -> None:
    """Every refusal with a sentence and a fix; what passes says under which licence."""
    declared, around, rules, code, bound = RULINGS[case]
    ruling = rule_on(declared, around, rules)
    assert (ruling.code, ruling.effective) == (code, bound)
    assert bool(ruling.reason) == bool(ruling.fix) == bool(code)


def test_a_policy_that_does_not_cover_the_base_is_an_error() -> None:
    """Typing a licence for others' work does not relicense the base."""
    check_policy(base("mit"), policy(**STRICTER))
    check_policy(base(None), policy(**STRICTER))
    check_policy(base("gpl-3.0"), policy())
    with pytest.raises(RecipeError, match=r"does not cover the base's own gpl-3\.0"):
        check_policy(base("gpl-3.0"), policy(**STRICTER))


def test_a_vendors_name_and_notice() -> None:
    """Llama 3 and later want both, Llama 2 and the others neither."""
    assert notice("llama3.1") == notice("Llama4") == "Built with Llama"
    assert notice("llama2") is notice("gemma") is notice(None) is None
    assert naming_fault("llama3.2", "acme/Llama-tiny") is naming_fault("mit", "acme/base") is None
    assert "begins with Llama; acme/base does not" in str(naming_fault("llama3.2", "acme/base"))


# on a Hub ------------------------------------------------------------------------------------------------------------


def planted(world: World, front: dict[str, Any] | str) -> str:
    """A repository with this card; gives its name."""
    user = f"root{secrets.token_hex(3)}"
    api, repo = world.api(user), f"{user}/m"
    api.create_repo(repo)
    world.force(repo, "README.md", card(front), str(api.token))
    return repo


def test_the_chain_is_followed_to_its_end(world: World) -> None:
    """Two roots, one of them a ring and one that is gone; what a recipe says of the base itself comes first."""
    vendor = planted(world, {"license": "llama3.1", "base_model": ["nobody/gone", world.base]})
    between = planted(world, {"license": "apache-2.0", "base_model": vendor})
    world.commit(world.base, {"README.md": card({"license": "mit", "base_model": between})})
    found = read_base_license(world.hub, world.base)
    assert [(link.repo, link.license) for link in found.chain] == [
        (world.base, "mit"), (between, "apache-2.0"), (vendor, "llama3.1"), ("nobody/gone", None),
    ]  # fmt: skip
    assert (found.name, found.known, found.gaps) == ("llama3.1", True, ("nobody/gone",))
    assert read_base_license(world.hub, world.base, own="gpl-3.0").name is None
    again = read_base_license(world.hub, vendor, root=between)
    assert [link.repo for link in again.chain][:2] == [vendor, "nobody/gone"]
    assert between in {link.repo for link in again.chain}


def test_a_chain_without_end_costs_few_requests(world: World) -> None:
    """A stranger's card decides how long it is."""
    last = "nobody/gone"
    for _ in range(10):
        last = planted(world, {"license": "mit", "base_model": last})
    assert len(read_base_license(world.hub, last).chain) == 8


def test_the_author_is_told_what_binds_the_work(world: World) -> None:
    """Declared apache-2.0, effective llama3.1; and what is not known of the chain."""
    vendor = planted(world, {"license": "llama3.1", "base_model": "nobody/gone"})
    world.commit(world.base, {"README.md": card({"license": "apache-2.0", "base_model": vendor})})
    repo = world.contribute(adapter_files(), world.front(license="apache-2.0"))
    result = check_contribution(repo, hub=world.hub, base=world.base)
    assert (result.accepted, result.license, result.effective_license) == (True, "apache-2.0", "llama3.1")
    assert "nobody/gone" in result.notes[0]
    other = world.contribute(adapter_files(), world.front(license="gemma"))
    result = check_contribution(other, hub=world.hub, recipe=Recipe(base=world.base))
    assert ([r.code for r in result.refusals], result.effective_license) == (["license_incompatible"], None)
