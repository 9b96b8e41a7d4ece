"""Whatever a stranger uploads: a refusal with its code, never an exception, and nothing is written elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import torch
from contributions.world import QUERY, World, adapter_files, finetuned, tensors
from safetensors.torch import save

from hub_fusion.contribute.check import check_contribution
from hub_fusion.contributions.discover import discover
from hub_fusion.contributions.filters import Circumstances, filter_contributions
from hub_fusion.contributions.origin import Generations, resolve_origin
from hub_fusion.recipe import Recipe
from hub_fusion.records import Relation

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Files = dict[str, bytes]


def claimed(length: int) -> bytes:
    """A file that claims a header of this length."""
    return length.to_bytes(8, "little") + b"{}"


def header(text: bytes, data: bytes = b"") -> bytes:
    """A file with this header."""
    return len(text).to_bytes(8, "little") + text + data


def overlapping() -> bytes:
    """Two tensors on the same bytes."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return header(json.dumps({"a": entry, "b": entry}).encode(), bytes(8))


def index(file: str) -> Files:
    """A sharded checkpoint whose index names this file."""
    return {
        INDEX: json.dumps({"weight_map": {"w": file}}).encode(),
        "model-00001-of-00001.safetensors": save(finetuned(1)),
    }


def changed(name: str, value: float) -> Files:
    """A finetune with one value in one tensor."""
    made = finetuned(1)
    made[name].reshape(-1)[0] = value
    return {SINGLE: save(made)}


WEIGHTS: dict[str, tuple[Callable[[], Files], str]] = {
    "truncated": (lambda: {SINGLE: save(finetuned(1))[:-5]}, "malformed_weights"),
    "padded": (lambda: {SINGLE: save(finetuned(1)) + b"\0"}, "malformed_weights"),
    "five bytes": (lambda: {SINGLE: b"12345"}, "malformed_weights"),
    "a pickle": (lambda: {SINGLE: b"\x80\x04\x95" + bytes(100)}, "malformed_weights"),
    "overlap": (lambda: {SINGLE: overlapping()}, "malformed_weights"),
    "10 GB header": (lambda: {SINGLE: claimed(10 * 2**30)}, "malformed_weights"),
    "largest header": (lambda: {SINGLE: claimed(2**64 - 1)}, "malformed_weights"),
    "deep header": (lambda: {SINGLE: header(b'{"a":' + b"[" * 100_000)}, "malformed_weights"),
    "dtype is a list": (
        lambda: {SINGLE: header(b'{"a":{"dtype":[],"shape":[2],"data_offsets":[0,8]}}', bytes(8))},
        "malformed_weights"),
    "name of control characters": (
        lambda: {SINGLE: header(b'{"\\u001b[2J":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8))},
        "malformed_weights"),
    "half a surrogate": (
        lambda: {SINGLE: header(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8))},
        "malformed_weights"),
    "index up the tree": (lambda: index("../../../../etc/passwd.safetensors"), "malformed_weights"),
    "index of an absolute path": (lambda: index("/etc/passwd.safetensors"), "malformed_weights"),
    "index of a NUL": (lambda: index("a\0.safetensors"), "malformed_weights"),
    "index of a stranger's file": (lambda: index("other.safetensors"), "malformed_weights"),
    "index is no JSON": (lambda: {INDEX: b"{"}, "malformed_weights"),
    "index is deep": (lambda: {INDEX: b"[" * 100_000}, "malformed_weights"),
    "index is not text": (lambda: {INDEX: b"\xff\xfe\x00"}, "malformed_weights"),
    "index of 21 MB": (lambda: {INDEX: b" " * 21_000_000}, "unsupported_weights"),
    "NaN": (lambda: changed(f"{QUERY}.weight", float("nan")), "not_finite"),
    "infinity": (lambda: changed(f"{QUERY}.bias", float("inf")), "not_finite"),
    "no change": (lambda: {SINGLE: save(tensors())}, "unchanged"),
    "integers": (lambda: {SINGLE: save({n: t.to(torch.int8) for n, t in finetuned(1).items()})}, "quantized"),
    "complex numbers": (lambda: {SINGLE: save({n: t + 0j for n, t in finetuned(1).items()})}, "quantized"),
    "nothing at all": (lambda: {SINGLE: save({})}, "architecture_mismatch"),
}  # fmt: skip

FACTOR = f"base_model.model.{QUERY}"


def adapter(config: bytes | None = None, **factors: torch.Tensor) -> Files:
    """An adapter with this configuration, or with these tensors."""
    files = adapter_files()
    if config is not None:
        files[CONFIG] = config
    if factors:
        files[ADAPTER] = save({f"{FACTOR}.{name}.weight": tensor for name, tensor in factors.items()})
    return files


ADAPTERS: dict[str, tuple[Callable[[], Files], str]] = {
    "no configuration": (lambda: {ADAPTER: adapter_files()[ADAPTER]}, "unsupported_weights"),
    "broken configuration": (lambda: adapter(b'{"peft_type": "LORA"'), "unsupported_weights"),
    "configuration is a list": (lambda: adapter(b"[]"), "unsupported_weights"),
    "configuration is not text": (lambda: adapter(b"\xff\xfe\x00"), "unsupported_weights"),
    "deep configuration": (lambda: adapter(b"[" * 200_000), "unsupported_weights"),
    "deep value": (
        lambda: adapter(b'{"peft_type":"LORA","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "unsupported_weights"),
    "huge configuration": (lambda: adapter(b" " * 1_100_000), "unsupported_weights"),
    "alpha of 400 digits": (
        lambda: adapter(b'{"peft_type":"LORA","lora_alpha":1%s}' % (b"0" * 400)), "unsupported_weights"),
    "alpha of 5000 digits": (
        lambda: adapter(b'{"peft_type":"LORA","lora_alpha":%s}' % (b"9" * 5000)), "unsupported_weights"),
    "alpha is NaN": (lambda: adapter(b'{"peft_type":"LORA","lora_alpha":NaN}'), "unsupported_weights"),
    "a catastrophic pattern": (
        lambda: adapter(b'{"peft_type":"LORA","alpha_pattern":{"(a+)+$":1}}'), "unsupported_weights"),
    "rank 0": (lambda: adapter(lora_A=torch.ones(0, 4), lora_B=torch.ones(4, 0)), "unsupported_weights"),
    "half of it": (lambda: adapter(lora_A=torch.ones(2, 4)), "unsupported_weights"),
    "wrong shape": (lambda: adapter(lora_A=torch.ones(2, 5), lora_B=torch.ones(4, 2)), "shape_mismatch"),
    "no tensors": (lambda: {CONFIG: adapter_files()[CONFIG], ADAPTER: save({})}, "architecture_mismatch"),
    "NaN": (lambda: adapter(lora_A=torch.full((2, 4), float("nan")), lora_B=torch.ones(4, 2)), "not_finite"),
    "no change": (lambda: adapter(lora_A=torch.ones(2, 4), lora_B=torch.zeros(4, 2)), "unchanged"),
    "truncated": (
        lambda: {CONFIG: adapter_files()[CONFIG], ADAPTER: adapter_files()[ADAPTER][:-3]}, "malformed_weights"),
}  # fmt: skip
NEEDS_TENSORS = {"not_finite", "unchanged"}  # what only the whole download tells


@contextmanager
def nothing_else_touched(folder: Path) -> Iterator[None]:
    """The world's folder may change; what lies beside it, and the working directory, may not."""
    (folder / "here").mkdir(exist_ok=True)
    before = sorted(folder.parent.iterdir())
    with chdir(folder / "here"):
        yield
    assert sorted(folder.parent.iterdir()) == before
    assert not list((folder / "here").iterdir())


@pytest.mark.parametrize(
    ("relation", "case"), [("finetune", c) for c in WEIGHTS] + [("adapter", c) for c in ADAPTERS], ids=lambda v: v
)
def test_hostile_weights_are_refused_and_the_round_goes_on(world: World, relation: Relation, case: str) -> None:
    """By the screen with everything, by the check with all that headers tell; a good one beside it passes."""
    make, code = (WEIGHTS if relation == "finetune" else ADAPTERS)[case]
    good = world.contribution(world.contribute({SINGLE: save(finetuned(7))}))
    repo = world.contribute(make())
    with nothing_else_touched(world.folder):
        screened = world.screen(world.contribution(repo, relation), good)
        check = check_contribution(repo, hub=world.hub, recipe=Recipe(base=world.base))
    assert [c.repo for c in screened.contributions] == [good.repo]
    assert [(r.repo, r.code, r.stage) for r in screened.refusals] == [(repo, code, "screen")]
    for refusal in (*screened.refusals, *check.refusals):
        assert refusal.reason
        assert refusal.fix
        assert refusal.reason.isprintable()
        assert len(refusal.reason) < 2000
        refusal.to_json().encode()
    if code not in NEEDS_TENSORS and case != "no configuration":  # without it nothing says that it is an adapter
        assert [r.code for r in check.refusals] == [code]


CARDS = {
    "broken YAML": "base_model: [unclosed\n",
    "no mapping": "- a\n- b\n",
    "a bomb": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nbase_model: [*b,*b,*b,*b,*b,*b]\n",
    "an object": "base_model: !!python/object/apply:os.system ['touch owned']\n",
    "control characters": 'base_model: "BASE\\x1b[2J"\nlicense: "mit\\x00"\ntags: ["hub-fusion\\n"]\n',
    "the client's arguments": (
        "self: 1\nignore_metadata_errors: 1\nbase_model: BASE\ntags: [hub-fusion]\nlicense: mit\n"
    ),
}


@pytest.mark.parametrize("case", CARDS)
def test_hostile_cards_are_read_as_far_as_they_say_something(world: World, case: str) -> None:
    """Listing, filter, origin and check of a repository with such a card end in a verdict."""
    good = world.contribute({SINGLE: save(finetuned(7))})
    repo = world.contribute({SINGLE: save(finetuned(1))}, CARDS[case].replace("BASE", world.base))
    recipe = Recipe.model_validate({"base": world.base, "contributions": {"include": [repo]}})
    with nothing_else_touched(world.folder):
        found, refusals = discover(world.hub, recipe)
        kept, more = filter_contributions(found, Circumstances(recipe))
        generations = Generations.of(world.hub, world.base)
        resolved = [resolve_origin(c, generations, world.hub) for c in kept]
        check = check_contribution(repo, hub=world.hub, recipe=recipe)
    assert good in {c.repo for c in resolved}
    assert {good, repo} <= {c.repo for c in kept} | {r.repo for r in (*refusals, *more)}
    assert check.accepted == (case == "the client's arguments")


def test_a_huge_configuration_is_not_downloaded(world: World) -> None:
    """Its size is known before: a terabyte would fill the disk of whoever asks."""
    repo = world.contribute(adapter(b" " * 3_000_000))
    contribution = world.contribution(repo, "adapter")
    resolve_origin(contribution, Generations.of(world.hub, world.base), world.hub)
    world.screen(contribution)
    assert not [p for p in world.folder.rglob("*") if p.is_file() and p.stat().st_size >= 3_000_000]


def test_a_spool_that_is_full_refuses_and_says_which_dial_to_turn(world: World) -> None:
    """A contribution of a terabyte costs nothing but its header."""
    from hub_fusion.errors import WeightsError
    from hub_fusion.weights.remote import Spool

    repo = world.contribute({SINGLE: save(finetuned(1))})
    contribution = world.contribution(repo)
    files = world.hub.files(repo, contribution.sha)
    spool = Spool(world.folder / "small", 100)
    with pytest.raises(WeightsError, match=r"screen\.spool_bytes"):
        spool.fetch(world.hub, repo, contribution.sha, [files[SINGLE]])
    assert not [p for p in (world.folder / "small").rglob("*") if p.is_file()]
