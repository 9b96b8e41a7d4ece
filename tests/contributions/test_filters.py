"""Every refusal is reached by exactly its fault, says why, and says what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hub_fusion.contributions.card import UNREADABLE
from hub_fusion.contributions.filters import QUIET, RULES, Circumstances, check_metadata, filter_contributions
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution

BASE = "acme/base"
SHA = "a" * 40
NOW = datetime(2030, 1, 10, tzinfo=UTC)
CODES = {"license_not_allowed": {"license_missing", "license_not_allowed", "license_unknown"},
         "wrong_age": {"too_young", "long_unchanged"}}  # fmt: skip


def good(**changes: Any) -> Contribution:
    """A contribution that every rule lets pass, but for the changes."""
    facts: dict[str, Any] = {
        "repo": "ann/finetune", "sha": SHA, "relation": "finetune", "author": "ann", "license": "apache-2.0",
        "base": BASE, "consent": True, "tags": ("hub-fusion",), "files": ("config.json", "model.safetensors"),
    }  # fmt: skip
    return Contribution.model_validate(facts | changes)


def at(fused: frozenset[str] = frozenset(), **recipe: Any) -> Circumstances:
    """The recipe's circumstances."""
    return Circumstances(Recipe.model_validate({"base": BASE} | recipe), fused, now=NOW)


def refusing(role: str | None, contamination: str = "refuse") -> dict[str, Any]:
    """A held-out task of bank customers' questions, and what happens to who has trained on it."""
    task = {"name": "bank", "path": "bank", "role": role, "datasets": ["mirror/banking77"]}
    return {"tasks": [task], "contamination": contamination}


FAULTS: dict[str, tuple[Contribution, Circumstances, str]] = {
    "blocked account": (good(), at(contributions={"block": ["ann"]}), "blocked"),
    "blocked account, other case": (good(), at(contributions={"block": ["Ann"]}), "blocked"),
    "blocked repository": (good(), at(contributions={"block": ["Ann/Finetune"]}), "blocked"),
    "blocked ancestor": (good(ancestors=(BASE, "eve/x")), at(contributions={"block_ancestors": ["Eve/X"]}),
                         "blocked_ancestor"),
    "made from a blocked account's": (good(ancestors=(BASE, "eve/x")), at(contributions={"block": ["eve"]}),
                                      "blocked_ancestor"),
    "not invited": (good(), at(contributions={"allow": ["bob", "cem/x"]}), "not_invited"),
    "blocked data set": (good(datasets=("sst2", "Evil/Test")), at(contributions={"block_datasets": ["evil/test"]}),
                         "blocked_dataset"),
    "another language": (good(languages=("de",)), at(contributions={"languages": ["en"]}), "language_not_allowed"),
    "no language": (good(), at(contributions={"languages": ["en"]}), "language_not_allowed"),
    "another library": (good(library="timm"), at(contributions={"libraries": ["peft"]}), "library_not_allowed"),
    "no library": (good(), at(contributions={"libraries": ["peft"]}), "library_not_allowed"),
    "too many parameters": (good(parameters=11), at(contributions={"max_parameters": 10}), "too_many_parameters"),
    "too young": (good(created_at=NOW - timedelta(hours=1)), at(contributions={"min_age": "P1D"}), "too_young"),
    "too old": (good(last_modified=NOW - timedelta(days=9)), at(contributions={"max_age": "P7D"}), "long_unchanged"),
    "quantised, says the Hub": (good(tags=("hub-fusion", f"base_model:quantized:{BASE}")), at(), "quantized"),
    "quantised, by a tool": (good(tags=("hub-fusion", "GPTQ")), at(), "quantized"),
    "no card to speak of": (good(faults=(UNREADABLE,)), at(), "unreadable_card"),
    "a card that cannot be taken": (good(faults=("tags is a number", "x")), at(), "malformed_card"),
    "fused before": (good(), at(frozenset({f"ann/finetune@{SHA}"})), "already_fused"),
    "the base's own account": (good(repo="Acme/x", author="Acme"), at(), "own_repo"),
    "opted out": (good(tags=("hub-fusion", "no-fusion")), at(), "opted_out"),
    "opted out, though its licence would do": (
        good(tags=("no-fusion",), consent=False), at(contributions={"consent": "license"}), "opted_out"),
    "no consent": (good(consent=False, tags=()), at(), "no_consent"),
    "other base": (good(base="acme/other"), at(), "other_base"),
    "no base": (good(base=None), at(), "other_base"),
    "a full model, where generations are adapters": (good(), at(publish={"kind": "adapter"}), "not_an_adapter"),
    "private": (good(private=True), at(), "private"),
    "gated": (good(gated=True), at(), "gated"),
    "no licence": (good(license=None), at(), "license_missing"),
    "restrictive licence": (good(license="cc-by-nc-4.0"), at(), "license_not_allowed"),
    "licence that nobody knows": (good(license="other"), at(), "license_unknown"),
    "licence other than the recipe's": (good(), at(contributions={"licenses": ["mit"]}), "license_not_allowed"),
    "trained on what judges, by its data set": (
        good(datasets=("imdb", "PolyAI/Banking-77")), at(evaluate=refusing("gate")), "contaminates"),
    "trained on what judges, by its task": (good(task="Bank"), at(evaluate=refusing(None)), "contaminates"),
    "trained on what is reported": (good(task="bank"), at(evaluate=refusing("report")), "contaminates"),
    "pickles only": (good(files=("pytorch_model.bin",)), at(), "no_safetensors"),
    "adapter without safetensors": (
        good(relation="adapter", files=("adapter_config.json", "adapter_model.bin")), at(), "no_safetensors"),
    "adapter with a stray full model": (
        good(relation="adapter", files=("adapter_config.json", "model.safetensors")), at(), "no_safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_gives_its_refusal_with_reason_and_fix(fault: str) -> None:
    """Only that one: mending it lets the contribution pass."""
    contribution, circumstances, code = FAULTS[fault]
    refusals = [r for rule in RULES if (r := rule(contribution, circumstances))]
    assert [r.code for r in refusals] == [code]
    assert (refusals[0].repo, refusals[0].sha, refusals[0].stage) == (contribution.repo, SHA, "filter")
    assert len(refusals[0].reason) > 10
    assert len(refusals[0].fix) > 10
    assert check_metadata(contribution, circumstances) == refusals[0]


GOOD: dict[str, tuple[Contribution, Circumstances]] = {
    "plain": (good(), at()),
    "sharded": (good(files=("model.safetensors.index.json", "model-00001-of-00001.safetensors")), at()),
    "adapter": (good(relation="adapter", files=("adapter_config.json", "adapter_model.safetensors")), at()),
    "base in another case": (good(base="ACME/Base"), at()),
    "an alias of the base": (good(base="mirror/base"), at(aliases=["Mirror/base"])),
    "licence in capitals": (good(license="MIT"), at()),
    "recipe's licence in capitals": (good(license="mit"), at(contributions={"licenses": ["MIT"]})),
    "consent by licence": (good(consent=False, tags=()), at(contributions={"consent": "license"})),
    "own, where the recipe says so": (good(repo="acme/x", author="acme"), at(contributions={"own": True})),
    "private, where the recipe says so": (good(private=True), at(contributions={"private": True})),
    "gated, where the recipe says so": (good(gated=True), at(contributions={"gated": True})),
    "trained on what judges, where that is only told": (good(task="bank"), at(evaluate=refusing("gate", "flag"))),
    "trained on what is seen anyway": (good(task="bank"), at(evaluate=refusing("seen"))),
    "trained on something else": (good(task="banks", datasets=("a/…", "b/")), at(evaluate=refusing("gate"))),
    "invited": (good(), at(contributions={"allow": ["Ann"]})),
    "another's data sets and ancestors are blocked": (
        good(datasets=("sst2",), ancestors=(BASE,)),
        at(contributions={"block_datasets": ["x"], "block_ancestors": ["eve"]}),
    ),
    "one language of several": (good(languages=("de", "en")), at(contributions={"languages": ["EN"]})),
    "the right library": (good(library="PEFT"), at(contributions={"libraries": ["peft"]})),
    "as large as may be": (good(parameters=10), at(contributions={"max_parameters": 10})),
    "of the right age": (
        good(created_at=NOW - timedelta(days=2)),
        at(contributions={"min_age": "P1D", "max_age": "P7D"}),
    ),
    "nobody knows how old": (good(), at(contributions={"min_age": "P1D", "max_age": "P7D"})),
    "an adapter of a quantised base": (
        good(relation="adapter", tags=("4-bit",), files=("adapter_model.safetensors",)),
        at(),
    ),
    "another commit was fused": (good(), at(frozenset({"ann/finetune@" + "b" * 40}))),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_good_contribution_passes(case: str) -> None:
    """In all its forms."""
    contribution, circumstances = GOOD[case]
    assert check_metadata(contribution, circumstances) is None


def test_every_rule_is_tested_here() -> None:
    """A rule without a fault that reaches it would be a rule that nobody has seen work."""
    reached = {code for _, _, code in FAULTS.values()}
    assert {code for rule in RULES for code in CODES.get(rule.__name__, {rule.__name__})} == reached
    assert reached >= QUIET


def test_filtering_keeps_the_order_and_loses_nobody() -> None:
    """Every contribution is kept, or refused by name."""
    found = [good(repo=f"ann/m{i}", license="mit" if i % 2 else "gpl-3.0") for i in range(6)]
    kept, refusals = filter_contributions(found, at())
    assert [c.repo for c in kept] == ["ann/m1", "ann/m3", "ann/m5"]
    assert [r.repo for r in refusals] == ["ann/m0", "ann/m2", "ann/m4"]


def test_the_first_rule_that_speaks_decides() -> None:
    """What cannot be mended comes before what can: nobody is sent to add a licence to what will never be taken."""
    hopeless = good(license=None, private=True, files=())
    refusal = check_metadata(hopeless, at(contributions={"block": ["ann"]}))
    assert refusal is not None
    assert refusal.code == "blocked"
