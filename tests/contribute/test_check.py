"""hub-fusion check says before the upload what the watcher would say after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from contributions.world import QUERY, World, adapter_files, card, finetuned, tensors
from safetensors.torch import save

from hub_fusion.contribute.check import Check, check_contribution
from hub_fusion.contributions.filters import RULES, Circumstances, check_metadata
from hub_fusion.errors import HubFusionError
from hub_fusion.recipe import Recipe

SINGLE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
FULL: dict[str, bytes] = {SINGLE: save(finetuned(1))}
SHARDS = {"model-00001-of-00002.safetensors": 0, "model-00002-of-00002.safetensors": 1}


def sharded() -> dict[str, bytes]:
    """A finetune in two shards."""
    names = sorted(tensors())
    parts = {file: {n: finetuned(1)[n] for n in names[i::2]} for file, i in SHARDS.items()}
    weight_map = {name: file for file, part in parts.items() for name in part}
    return {file: save(part) for file, part in parts.items()} | {INDEX: json.dumps({"weight_map": weight_map}).encode()}


def prefixed_adapter() -> dict[str, bytes]:
    """An adapter of a task model, whose names have a prefix that the base lacks."""
    factors = {
        f"base_model.model.bert.{QUERY}.lora_A.weight": torch.ones(2, 4),
        f"base_model.model.bert.{QUERY}.lora_B.weight": torch.ones(4, 2),
        "base_model.model.classifier.weight": torch.ones(3, 4),
    }
    return adapter_files() | {"adapter_model.safetensors": save(factors)}


def unknown_target() -> dict[str, bytes]:
    """An adapter of something that the base does not have."""
    factors = {f"base_model.model.h.0.x.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    return adapter_files() | {"adapter_model.safetensors": save(factors)}


# files, changes of the card (None takes a field out), refusals
CASES: dict[str, tuple[Mapping[str, bytes], dict[str, Any], list[str]]] = {
    "good": (FULL, {}, []),
    "good in shards": (sharded(), {}, []),
    "good adapter": (adapter_files(), {}, []),
    "good adapter of a task model": (prefixed_adapter(), {}, []),
    "consent in our part of the card": (FULL, {"tags": [], "hub_fusion": {"contribute": True}}, []),
    "opted out": (FULL, {"tags": ["hub-fusion", "no-fusion"]}, ["opted_out"]),
    "no consent": (FULL, {"tags": []}, ["no_consent"]),
    "other base": (FULL, {"base_model": "acme/other"}, ["other_base"]),
    "two bases": (FULL, {"base_model": ["acme/a", "acme/b"]}, ["other_base"]),
    "no licence": (FULL, {"license": None}, ["license_missing"]),
    "licence that binds": (FULL, {"license": "gpl-3.0"}, ["license_not_allowed"]),
    "everything at once": (
        {"pytorch_model.bin": b"x"}, {"license": None, "tags": [], "base_model": None},
        ["no_consent", "other_base", "license_missing", "no_safetensors"],
    ),
    "pickles": ({"pytorch_model.bin": b"x"}, {}, ["no_safetensors"]),
    "adapter in a pickle": ({CONFIG: adapter_files()[CONFIG], "adapter_model.bin": b"x"}, {}, ["no_safetensors"]),
    "truncated": ({SINGLE: FULL[SINGLE][:-1]}, {}, ["malformed_weights"]),
    "lost shard": ({INDEX: sharded()[INDEX]}, {}, ["malformed_weights"]),
    "other layers": ({SINGLE: save({"encoder.w": torch.ones(2)})}, {}, ["architecture_mismatch"]),
    "more tokens": ({SINGLE: save(finetuned(1) | {"embeddings.word_embeddings.weight": torch.ones(12, 4)})}, {}, []),
    "fewer tokens": (
        {SINGLE: save(finetuned(1) | {"embeddings.word_embeddings.weight": torch.ones(10, 4)})}, {}, ["shape_mismatch"],
    ),
    "quantized": ({SINGLE: save({n: t.to(torch.int8) for n, t in finetuned(1).items()})}, {}, ["quantized"]),
    "licence and weights": ({SINGLE: b"x"}, {"license": None}, ["license_missing", "malformed_weights"]),
    "DoRA": (adapter_files(use_dora=True), {}, ["unsupported_weights"]),
    "adapter of another model": (unknown_target(), {}, ["architecture_mismatch"]),
}  # fmt: skip


def front(world: World, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A good card with some fields changed or taken out."""
    return {key: value for key, value in (world.front() | dict(changes)).items() if value is not None}


def check(world: World, target: str) -> Check:
    """By the base's default rules."""
    return check_contribution(target, hub=world.hub, base=world.base)


def codes(result: Check) -> list[str]:
    """What it would be refused for."""
    assert result.accepted == (not result.refusals)
    assert all(r.reason and r.fix for r in result.refusals)
    return [r.code for r in result.refusals]


@pytest.mark.parametrize("case", CASES)
def test_a_folder_and_the_repository_made_of_it_get_the_same_verdict(world: World, tmp_path: Path, case: str) -> None:
    """Every refusal that applies, in the order of the watcher's rules; and the watcher's own is the first of them."""
    files, changes, expected = CASES[case]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "README.md").write_bytes(card(front(world, changes)))
    repo = world.contribute(files, front(world, changes))
    local, remote = check(world, str(tmp_path)), check(world, repo)
    assert codes(local) == codes(remote) == expected
    assert local.passed == remote.passed
    watcher = check_metadata(world.contribution(repo), Circumstances(Recipe(base=world.base)))
    first = next((code for code in expected if code not in HEADER_CODES), None)
    if CONFIG not in files:
        assert (watcher.code if watcher else None) == first


HEADER_CODES = {"malformed_weights", "unsupported_weights", "architecture_mismatch", "shape_mismatch", "quantized"}


def test_what_passed_and_what_was_refused_are_all_rules(world: World) -> None:
    """Nothing is left unsaid, but for the rule that only the base's records decide."""
    result = check(world, world.contribute(FULL, front(world, {"license": None})))
    passed = {rule.__name__ for rule in RULES} - {"license_not_allowed", "already_fused"} | {"headers"}
    assert set(result.passed) == passed


def test_the_base_is_the_one_that_the_card_names(world: World) -> None:
    """No flag is needed for what the card says already; without both there is no answer."""
    repo = world.contribute(FULL)
    assert check_contribution(repo, hub=world.hub).base == world.base
    with pytest.raises(HubFusionError, match="declares no single base_model"):
        check_contribution(world.contribute(FULL, {"license": "mit"}), hub=world.hub)


def test_a_folder_without_a_card_is_told_what_to_write(world: World, tmp_path: Path) -> None:
    """As save_pretrained leaves it."""
    (tmp_path / SINGLE).write_bytes(FULL[SINGLE])
    result = check(world, str(tmp_path))
    assert codes(result) == ["no_consent", "other_base", "license_missing"]
    assert "headers" in result.passed


@pytest.mark.parametrize("text", ["---\nlicense: [\n---\n", "---\nself: 1\n---\n", "---\n- a\n---\n"])
def test_a_card_that_cannot_be_read_is_an_error_that_names_it(world: World, tmp_path: Path, text: str) -> None:
    """Its author can mend it; the Hub would refuse it."""
    (tmp_path / SINGLE).write_bytes(FULL[SINGLE])
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(HubFusionError, match=r"README\.md"):
        check(world, str(tmp_path))


def test_an_older_commit_can_be_checked(world: World) -> None:
    """user/model@revision: what is judged is that commit's files."""
    repo = world.contribute({SINGLE: b"broken"})
    user = repo.partition("/")[0]
    before = world.hub.resolve(repo)
    world.commit(repo, FULL, world.api(user))
    assert codes(check(world, f"{repo}@{before}")) == ["malformed_weights"]
    assert codes(check(world, repo)) == []


@pytest.mark.parametrize("target", ["nobody/nothing", "no such folder", "a/b/c"])
def test_a_target_that_is_not_there_is_an_error(world: World, target: str) -> None:
    """Of the tree that the command line catches."""
    with pytest.raises(HubFusionError):
        check(world, target)


def test_the_rules_are_those_that_the_base_publishes(world: World) -> None:
    """fusion/recipe.yaml on main; a broken one is an error, not the defaults."""
    repo = world.contribute(FULL)
    recipe = f"base: {world.base}\ncontributions:\n  licenses: [apache-2.0]\n"
    world.commit(world.base, {"fusion/recipe.yaml": recipe.encode()})
    assert codes(check(world, repo)) == ["license_not_allowed"]
    world.commit(world.base, {"fusion/recipe.yaml": b"basis: x\n"})
    with pytest.raises(HubFusionError, match=r"fusion/recipe\.yaml"):
        check(world, repo)
    assert codes(check_contribution(repo, hub=world.hub, recipe=Recipe(base=world.base))) == []
    world.commit(world.base, {"fusion/recipe.yaml": f"base: {world.base}\n".encode()})


WITHOUT_TORCH = """
import json, sys
for name in ("torch", "transformers", "accelerate", "peft", "numpy", "safetensors"):
    sys.modules[name] = None
from hub_fusion import Hub, check_contribution
hub, found = Hub(), []
for target in sys.argv[2:]:
    result = check_contribution(target, hub=hub, base=sys.argv[1])
    found.append([result.accepted, [r.code for r in result.refusals], list(result.notes)])
print(json.dumps(found))
"""


def test_checking_needs_neither_torch_nor_its_kin(world: World, tmp_path: Path, python: Callable[..., str]) -> None:
    """People check on a laptop or in a browser's notebook; what is undecided without torch is a note, not a refusal."""
    folders = {}
    for name in ("good", "good in shards", "good adapter of a task model", "truncated", "adapter of another model"):
        folder = folders[name] = tmp_path / name
        folder.mkdir()
        for file, data in CASES[name][0].items():
            (folder / file).write_bytes(data)
        (folder / "README.md").write_bytes(card(front(world, {})))
    repo = world.contribute(prefixed_adapter())
    found = json.loads(python(WITHOUT_TORCH, world.base, repo, *map(str, folders.values())))
    verdicts = dict(zip(["repository", *folders], found, strict=True))
    good = ("repository", "good", "good in shards", "good adapter of a task model")
    assert {name: verdicts[name] for name in good} == {name: [True, [], []] for name in good}
    assert verdicts["truncated"] == [False, ["malformed_weights"], []]
    accepted, refusals, notes = verdicts["adapter of another model"]
    assert (accepted, refusals) == (True, [])
    assert "not decided without torch" in notes[0]
