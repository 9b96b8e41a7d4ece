"""mergekit configurations mean here what they mean there, held to its formulas; what is not covered is all named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hub_fusion.errors import MergeError
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.fuse import fuse
from hub_fusion.weights.mergekit import plan_mergekit, translate

from .tiny import save_folder

SHAPES = {"matrix": (8, 5), "vector": (40,), "cube": (2, 3, 4)}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three models made from it, in folders."""
    folder = tmp_path_factory.mktemp("mergekit")
    source = torch.Generator().manual_seed(5)
    base = {f"body.{name}": torch.randn(shape, generator=source) for name, shape in SHAPES.items()}
    save_folder(folder / "base", base)
    for name in ("ann", "bob", "cem"):
        save_folder(folder / name, {n: t + 0.1 * torch.randn(t.shape, generator=source) for n, t in base.items()})
    return folder


def tensors(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def configuration(world: Path, method: str, models: dict[str, dict[str, Any]], **more: Any) -> str:
    entries = [{"model": str(world / name), "parameters": given} for name, given in models.items()]
    return yaml.safe_dump({"merge_method": method, "base_model": str(world / "base"), "models": entries} | more)


def merged(world: Path, tmp_path: Path, text: str) -> tuple[Tensors, tuple[str, ...]]:
    """What our engine makes of a configuration."""
    path = tmp_path / "merge.yml"
    path.write_text(text)
    plan, notes = plan_mergekit(path, tmp_path / "out")
    fuse(plan, Compute())
    return tensors(tmp_path / "out"), notes


# mergekit's formulas, from their description, in plain torch ----------------------------------------------------------


def trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """The density·n largest magnitudes."""
    kept = torch.zeros(delta.numel())
    kept[delta.abs().reshape(-1).argsort(descending=True)[: max(1, int(density * delta.numel()))]] = 1
    return delta * kept.reshape(delta.shape)


def crumbs(delta: torch.Tensor, density: float, gamma: float) -> torch.Tensor:
    """Without the gamma·n largest, the density·n largest of the rest."""
    n = delta.numel()
    order, top, kept = delta.abs().reshape(-1).argsort(descending=True), int(gamma * n), torch.zeros(n)
    kept[order[top : top + int(density * n)]] = 1
    return delta * kept.reshape(delta.shape)


def vote(deltas: list[torch.Tensor], weights: list[float], normalize: bool) -> torch.Tensor:
    """Signs elected by the weighted sum; those that have them, summed or averaged."""
    weighted = torch.stack([d * w for d, w in zip(deltas, weights, strict=True)])
    agrees = weighted.sign() == torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    total = (weighted * agrees).sum(0)
    shares = sum(w * a for w, a in zip(weights, agrees, strict=True))
    assert isinstance(shares, torch.Tensor)
    return total / torch.where(shares == 0, 1.0, shares) if normalize else total


def total(deltas: list[torch.Tensor], weights: list[float], normalize: bool) -> torch.Tensor:
    summed = sum(d * w for d, w in zip(deltas, weights, strict=True))
    assert isinstance(summed, torch.Tensor)
    return summed / sum(weights) if normalize else summed


Formula = Callable[[list[torch.Tensor]], torch.Tensor]
W = {"ann": 0.7, "bob": 0.2, "cem": 1.5}
WEIGHTS = list(W.values())
EACH = {name: {"weight": weight} for name, weight in W.items()}
CASES: dict[str, tuple[str, dict[str, Any], Formula]] = {
    "task arithmetic": ("task_arithmetic", {}, lambda d: total(d, WEIGHTS, False)),
    "task arithmetic, lambda": ("task_arithmetic", {"lambda": 0.3}, lambda d: 0.3 * total(d, WEIGHTS, False)),
    "task arithmetic, normalized": ("task_arithmetic", {"normalize": True}, lambda d: total(d, WEIGHTS, True)),
    "linear": ("linear", {}, lambda d: total([*d, d[0] * 0], [*WEIGHTS, 0.0], True)),
    "ties": ("ties", {"density": 0.5}, lambda d: vote([trim(x, 0.5) for x in d], WEIGHTS, True)),
    "ties, all": ("ties", {"lambda": 2}, lambda d: 2 * vote(d, WEIGHTS, True)),
    "ties, not normalized": (
        "ties", {"density": 0.5, "normalize": False}, lambda d: vote([trim(x, 0.5) for x in d], WEIGHTS, False)),
    "dare_linear, all": ("dare_linear", {"density": 1.0}, lambda d: total(d, WEIGHTS, False)),
    "dare_ties, all": ("dare_ties", {"density": 1.0}, lambda d: vote(d, WEIGHTS, False)),
    "della, all": ("della", {"density": 1.0}, lambda d: vote(d, WEIGHTS, True)),
    "della_linear, all": ("della_linear", {"lambda": 0.5}, lambda d: 0.5 * total(d, WEIGHTS, False)),
    "breadcrumbs": (
        "breadcrumbs", {"density": 0.5, "gamma": 0.25},
        lambda d: total([crumbs(x, 0.5, 0.25) for x in d], WEIGHTS, False)),
    "breadcrumbs_ties": (
        "breadcrumbs_ties", {"density": 0.5, "gamma": 0.25},
        lambda d: vote([crumbs(x, 0.5, 0.25) for x in d], WEIGHTS, False)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_gives_what_mergekits_formula_gives(case: str, world: Path, tmp_path: Path) -> None:
    """Within the roundings of a float32 sum: weights are absolute there and shares here."""
    method, parameters, formula = CASES[case]
    models = EACH if method != "linear" else EACH | {"base": {"weight": 0.0}}
    found, _ = merged(world, tmp_path, configuration(world, method, models, parameters=parameters))
    start = tensors(world / "base")
    for name, tensor in found.items():
        changes = [tensors(world / model)[name] - start[name] for model in W]
        torch.testing.assert_close(tensor, start[name] + formula(changes), rtol=1e-6, atol=1e-6)


def test_weights_below_zero_subtract(world: Path, tmp_path: Path) -> None:
    """Shares are of the magnitudes' sum, and task arithmetic is the method that takes them."""
    text = configuration(world, "task_arithmetic", {"ann": {"weight": 1.0}, "bob": {"weight": -0.5}})
    assert translate(text).formula.options == {"scale": 0.75}
    found, _ = merged(world, tmp_path, text)
    base, ann, bob = (tensors(world / name) for name in ("base", "ann", "bob"))
    for name, tensor in found.items():
        expected = base[name] + (ann[name] - base[name]) - 0.5 * (bob[name] - base[name])
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-6)


def test_in_a_linear_merge_the_base_counts_as_one_of_the_models(world: Path, tmp_path: Path) -> None:
    """Also without base_model, where the first model gives the configuration."""
    models = {"base": {"weight": 3}, "ann": {"weight": 1}}
    base, ann = tensors(world / "base"), tensors(world / "ann")
    for more in ({}, {"base_model": None}):
        found, _ = merged(world, tmp_path, configuration(world, "linear", models, **more))
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, 0.75 * base[name] + 0.25 * ann[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", [True, False])
def test_dare_keeps_a_share_and_the_l1_norm_if_it_rescales(
    method: str, rescale: bool, world: Path, tmp_path: Path
) -> None:
    """Which elements stay is drawn, so what holds for any draw is tested."""
    models = {"ann": {"weight": 2.0, "density": 0.5}}
    found, notes = merged(world, tmp_path, configuration(world, method, models, parameters={"rescale": rescale}))
    assert any("another generator" in note for note in notes)
    base, ann = tensors(world / "base"), tensors(world / "ann")
    for name, tensor in found.items():
        change, whole = tensor - base[name], 2 * (ann[name] - base[name])
        kept = change.abs() > 1e-5
        assert 0 < int(kept.sum()) < kept.numel()
        ratio = float(whole.abs().sum() / whole[kept].abs().sum()) if rescale else 1.0
        torch.testing.assert_close(change[kept], ratio * whole[kept], rtol=1e-4, atol=1e-5)


def test_model_stock_sce_and_multislerp_are_translated(world: Path, tmp_path: Path) -> None:
    for method, words in (("model_stock", "cut to"), ("sce", "'weight'"), ("multislerp", "Karcher")):
        found, notes = merged(world, tmp_path, configuration(world, method, EACH))
        assert any(words in note for note in notes) and all(t.isfinite().all() for t in found.values())
    found, _ = merged(world, tmp_path, configuration(world, "sce", EACH))
    base = tensors(world / "base")
    for name, tensor in found.items():
        changes = [tensors(world / model)[name] - base[name] for model in W]
        signs = torch.where(torch.stack(changes).sum(0) >= 0, 1.0, -1.0)
        shares = [float(c.square().sum()) * (c.sign() == signs) for c in changes]
        expected = sum(s * c for s, c in zip(shares, changes, strict=True)) / sum(shares).clamp_min(1e-30)  # type: ignore
        torch.testing.assert_close(tensor, base[name] + expected, rtol=1e-5, atol=1e-5)
    t = translate(configuration(world, "sce", EACH, parameters={"select_topk": 0.1}))
    assert (t.formula.method, t.formula.options, t.formula.weights) == ("sce", {"select": 0.1}, (1.0, 1.0, 1.0))
    assert any("'weight'" in note and "left out" in note for note in t.notes)


def test_references_adapters_dtypes_and_conditions_that_always_hold_are_read() -> None:
    t = translate("""
        merge_method: ties
        base_model: {model: {path: acme/base, revision: gen-1}}
        models:
          - model: acme/base@gen-1
          - model: acme/base@gen-1+ann/lora
            parameters: {weight: 1, density: [{filter: "*", value: "5e-1"}, {filter: mlp, value: 0.9}]}
          - model: bob/finetune@0123abc
            parameters: {weight: 3, density: {value: 0.5}}
        parameters: {int8_mask: true, normalise: 1}
        dtype: bfloat16
        out_dtype: float32
        tokenizer_source: base
        license: mit
    """)
    assert (t.base, t.models, t.dtype) == ("acme/base@gen-1", ("ann/lora", "bob/finetune@0123abc"), "float32")
    assert t.formula.weights == (1.0, 3.0)
    assert t.formula.options == {"density": 0.5, "divisor": "weights", "scale": 1.0}
    said = "\n".join(t.notes)
    for words in ("'license' is no key", "no parameter 'normalise'", "computed in float32", "base's vocabulary", "⌈"):
        assert words in said
    assert "int8_mask" not in said


def test_everything_that_is_not_covered_is_named_at_once() -> None:
    text = """
        merge_method: della
        base_model: acme/base+acme/lora
        models:
          - model: ann/one
            parameters: {weight: [0.1, 0.9], density: 0.5}
          - model: ann/one
          - model: bob/two+bob/lora
            layer_range: [0, 4]
            parameters: {weight: {filter: mlp, value: 2}, density: 0.7}
          - {model: cem/three, parameters: {weight: -1, density: much}}
          - 7
        slices: [{sources: []}]
        parameters: {rescale: false, epsilon: 0.6, normalize: perhaps}
        tokenizer: {source: union, tokens: {}}
        chat_template: chatml
        dtype: int3
    """
    with pytest.raises(MergeError) as error:
        translate(text, source="merge.yml")
    said = str(error.value)
    assert said.startswith("merge.yml asks for what hub-fusion does not cover:\n  - ")
    for words in (
        "slices: layers", "a base with an adapter", "gradient over the layers", "ann/one is named twice",
        "models[2].layer_range", "an adapter of another model", "weight of bob/lora: a filter", "'much' is not",
        "models[4] is not a mapping", "density differs between models", "rescale: false", "density ± epsilon",
        "normalize: 'perhaps'", "tokenizer source 'union'", "tokenizer.tokens", "chat_template", "dtype 'int3'",
        "takes no negative weights",
    ):  # fmt: skip
        assert words in said, words


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("passthrough", {}, "layers are not stacked"),
        ("slerp", {}, "works on whole weights"),
        ("karcher", {}, "works on whole weights"),
        ("nuslerp", {}, "each change's own length"),
        ("magic", {}, "has no counterpart; covered are linear, task_arithmetic"),
        (["ties"], {}, "has no counterpart"),
        ("ties", {"base_model": None}, "base_model: ties needs one"),
        ("ties", {"models": []}, "a list of models is needed"),
        ("ties", {"models": [{"model": "b"}]}, "weight of b is missing"),
        ("ties", {"models": [{"model": "base"}]}, "no model to merge"),
        ("ties", {"models": [{"model": "b", "parameters": {"weight": 0}}]}, "all weights are 0"),
        ("ties", {"parameters": {"density": 0.5, "rescale": True}}, "rescale: true"),
        ("ties", {"parameters": {"density": math.inf}}, "density of a: inf is not finite"),
        ("ties", {"parameters": [1]}, "parameters is not a mapping"),
        ("linear", {}, "weight of the base is missing"),
        ("linear", {"parameters": {"normalize": False, "weight": 1}}, "add up to 2"),
        ("linear", {"parameters": {"weight": -1}}, "weights add up to 0"),
        ("model_stock", {}, "needs two models"),
        ("model_stock", {"parameters": {"filter_wise": True}}, "filter_wise: true"),
        (
            "multislerp",
            {"parameters": {"normalize_weights": False}, "models": [{"model": "b", "parameters": {"weight": 2}}]},
            "normalize_weights: false",
        ),
        ("task_arithmetic", {"models": [{"model": "~/x", "parameters": {"weight": 1}}]}, "not a folder or repository"),
        ("task_arithmetic", {"models": [{"model": {"lora": "x"}}]}, "names no model"),
    ],
)
def test_the_reason_is_named(method: Any, more: dict[str, Any], words: str) -> None:
    one = {"model": "a", "parameters": {"weight": 1.0}}
    config = {"merge_method": method, "base_model": "base", "models": [one]} | more
    with pytest.raises(MergeError) as error:
        translate(yaml.safe_dump(config))
    assert words in str(error.value)


BOMB = "a: &a [x, x, x]\n" + "".join(f"b{n}: &b{n} [*{p}, *{p}]\n" for n, p in enumerate(["a", "b0", "b1", "b2"]))


@pytest.mark.parametrize(
    "text",
    [
        BOMB, "[" * 10_000, "a: " + "{b: " * 30 + "1" + "}" * 30, "- x\n" * 60_000, "", "7", "- a", "{1: 2}", "a: b: c",
        "a: 1\n---\nb: 2", "!!python/object/apply:os.system [ls]", "a: \x00", "x: " + "9" * 5000, "d: 2026-99-99",
        "? [1]\n: 2", "<<: 1",
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_hostile_yaml_is_refused_with_a_sentence(text: str, tmp_path: Path) -> None:
    """No code, no memory for aliases of aliases, no traceback."""
    with pytest.raises(MergeError):
        translate(text)
    file = tmp_path / "merge.yml"
    for content in (text.encode(), b"\xff\xfe" + text.encode(), b"#" * 1_000_001):
        file.write_bytes(content)
        with pytest.raises(MergeError):
            plan_mergekit(file, tmp_path / "out")
    with pytest.raises(MergeError, match="cannot read"):
        plan_mergekit(tmp_path / "missing.yml", tmp_path / "out")
