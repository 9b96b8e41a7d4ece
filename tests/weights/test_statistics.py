"""What contributors compute beside their weights: read back as defined, and worth nothing when it is scaled."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.errors import WeightsError
from hub_fusion.merge import find_method
from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse
from hub_fusion.weights.reading import Reader
from hub_fusion.weights.statistics import Statistics, check, faults

from .tiny import save_folder

SHAPES = {"body.q": (6, 5), "body.k": (6, 5), "body.square": (5, 5), "body.bias": (6,)}
Tensors = dict[str, torch.Tensor]


def inputs(seed: int, columns: int = 5, rows: int = 30) -> torch.Tensor:
    """Inputs of a layer, some of them correlated."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, columns, generator=random) @ torch.randn(columns, columns, generator=random)
    return mixed * torch.linspace(0.1, 3, columns)


def gram(seed: int, columns: int = 5) -> torch.Tensor:
    """A Gram matrix of inputs."""
    x = inputs(seed, columns).double()
    return (x.T @ x / len(x)).float()


class World:
    """A base and finetunes of it whose statistics a test writes."""

    def __init__(self, folder: Path, n: int = 3, config: dict[str, Any] | None = None) -> None:
        self.folder = folder
        random = torch.Generator().manual_seed(0)
        self.base = {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
        self.place = save_folder(folder / "base", self.base, config=config)
        self.deltas = [{n: torch.randn(t.shape, generator=random) for n, t in self.base.items()} for _ in range(n)]
        self.folders = [save_folder(folder / f"f{i}", {n: t + d[n] for n, t in self.base.items()})
                        for i, d in enumerate(self.deltas)]  # fmt: skip

    def bring(self, i: int, tensors: Tensors, **metadata: str) -> None:
        """Write what a contributor computed."""
        (self.folders[i] / "fusion").mkdir(exist_ok=True)
        own = {n: t.clone().contiguous() for n, t in tensors.items()}
        save_file(own, self.folders[i] / "fusion" / "statistics.safetensors", metadata=metadata)

    def fuse(self, method: str, **options: Any) -> Tensors:
        """The fused tensors."""
        sources = tuple(Source(f.name, f, self.place) for f in self.folders)
        fuse(FusePlan(self.place, self.folder / "out", sources, method, options), Compute())
        return load_file(self.folder / "out" / "model.safetensors")

    def closed_form(self, name: str, grams: list[torch.Tensor], turned: bool = False) -> torch.Tensor:
        """Base + (Σ δᵢGᵢ)(Σ Gᵢ)⁻¹."""
        deltas = [d[name].double().T if turned else d[name].double() for d in self.deltas]
        merged = sum(d @ g.double() for d, g in zip(deltas, grams, strict=True)) @ torch.linalg.inv(sum(grams).double())
        return (self.base[name].double() + (merged.T if turned else merged)).float()


def by_trace(grams: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each with a mean diagonal of 1."""
    return [g / g.diagonal().mean() for g in grams]


EXACT: dict[str, Any] = {"alpha": 1.0, "ridge": 0.0}


def test_layers_with_the_same_inputs_share_one_matrix(tmp_path: Path) -> None:
    """Queries, keys and values: stored three times their matrices would be most of the file."""
    world = World(tmp_path)
    grams = [gram(i) for i in range(3)]
    for i, g in enumerate(grams):
        world.bring(i, {"activations/body.q": g}, shared=json.dumps({"body.k": "body.q"}))
    fused = world.fuse("regmean", **EXACT)
    for name in ("body.q", "body.k"):
        expected = world.closed_form(name, by_trace(grams))
        torch.testing.assert_close(fused[name], expected, rtol=2e-5, atol=2e-5)
    mean = world.base["body.square"] + sum(d["body.square"] for d in world.deltas) / 3
    torch.testing.assert_close(fused["body.square"], mean)


@pytest.mark.parametrize("tensor", ["body.w", "body.embed_tokens.weight"])
@pytest.mark.parametrize("missing", ["refuse", "pool"])
def test_memory_of_regmean_does_not_grow_with_the_contributions(tmp_path: Path, missing: str, tensor: str) -> None:
    """A Gram matrix of 11,008 inputs has half a gigabyte; embeddings, which have none, are merged block by block."""
    columns, rows, peaks = 400, 300 if tensor == "body.w" else 8000, []
    tensors = {"body.w": torch.zeros(1, columns), tensor: torch.randn(rows, columns)}
    base = save_folder(tmp_path / "base", tensors)
    folders = [save_folder(tmp_path / f"f{i:02}", {n: t + i for n, t in tensors.items()}) for i in range(16)]
    for i, folder in enumerate(folders[: 16 if missing == "refuse" else 3]):
        (folder / "fusion").mkdir()
        save_file({"activations/body.w": gram(i, columns)}, folder / "fusion" / "statistics.safetensors")
    for n in (4, 16):
        sources = tuple(Source(f.name, f, base) for f in folders[:n])
        plan = FusePlan(base, tmp_path / "out", sources, "regmean", {"missing": missing})
        fuse(plan, Compute())  # what is loaded once does not count
        tracemalloc.start()
        fuse(plan, Compute())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    if tensor == "body.w":
        assert peaks[1] < peaks[0] + 4 * columns**2, "less than another matrix for twelve more contributions"
    else:
        assert peaks[1] < 4 * 16 * rows * columns / 3, "the embeddings of all are never there at once"


@pytest.mark.parametrize("missing", ["refuse", "pool"])
def test_one_after_another_gives_the_bytes_of_all_at_once(tmp_path: Path, missing: str) -> None:
    """On any number of threads: contributions are added in their order, whoever adds them."""
    world = World(tmp_path, config={"model_type": "gpt2"})
    for i in range(3 if missing == "refuse" else 2):
        world.bring(i, {f"activations/{name}": gram(i) for name in ("body.q", "body.k", "body.square")})
    fused, options = world.fuse("regmean", missing=missing), find_method("regmean").bind({"missing": missing})
    grams = [
        Statistics.open(f).gram("body.q", Reader().whole, by_trace=True)
        for f in world.folders[: 3 if missing == "refuse" else 2]
    ]
    if missing == "pool":
        grams.append(np.mean(grams, axis=0, dtype=np.float32))
    saved = [load_file(folder / "model.safetensors")["body.q"] for folder in world.folders]
    deltas = torch.stack([tensor - world.base["body.q"] for tensor in saved])
    whole = options(deltas, torch.full((3,), 1 / 3), activations=torch.from_numpy(np.stack(grams)))
    assert torch.equal(fused["body.q"], world.base["body.q"] + whole)
    for threads in (1, 3):
        out = tmp_path / f"out-{threads}"
        sources = tuple(Source(f.name, f, world.place) for f in world.folders)
        compute = Compute()
        compute.threads = threads
        fuse(FusePlan(world.place, out, sources, "regmean", {"missing": missing}), compute)
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("normalise", ["trace", "none"])
def test_the_short_form_is_read_as_it_is_defined(tmp_path: Path, normalise: str) -> None:
    """F·Fᵀ + diag(rest), here with rank 2 of 5; beside one that is whole."""
    world = World(tmp_path)
    random = torch.Generator().manual_seed(5)
    factors = [torch.randn(5, 2, generator=random) for _ in range(2)]
    rests = [torch.rand(5, generator=random) for _ in range(2)]
    grams = [f @ f.T + r.diag() for f, r in zip(factors, rests, strict=True)] + [gram(2)]
    for i in range(2):
        world.bring(i, {"activations.factor/body.q": factors[i], "activations.rest/body.q": rests[i]})
    world.bring(2, {"activations/body.q": grams[2]})
    fused = world.fuse("regmean", normalise=normalise, **EXACT)
    expected = world.closed_form("body.q", by_trace(grams) if normalise == "trace" else grams)
    torch.testing.assert_close(fused["body.q"], expected, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_weights_that_are_stored_the_other_way_round_are_merged_along_their_inputs(
    tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2's layers are (in, out); of square ones only the base's configuration tells."""
    names = {
        "body.q": "h.0.attn.c_attn.weight",
        "body.k": "h.0.mlp.c_fc.weight",
        "body.square": "h.0.attn.c_proj.weight",
    }
    for old, new in names.items():
        monkeypatch.setitem(SHAPES, new, SHAPES.get(old, (6, 5)))
        monkeypatch.delitem(SHAPES, old)
    world = World(tmp_path, config={"model_type": model_type})
    turned = model_type == "gpt2"
    grams, wide = [gram(i) for i in range(3)], [gram(9 + i, 6) for i in range(3)]
    for i in range(3):
        world.bring(i, {f"activations/{names['body.square']}": grams[i],
                        f"activations/{names['body.q']}": wide[i] if turned else grams[i]})  # fmt: skip
    fused = world.fuse("regmean", **EXACT)
    for name, used in ((names["body.square"], grams), (names["body.q"], wide if turned else grams)):
        expected = world.closed_form(name, by_trace(used), turned)
        torch.testing.assert_close(fused[name], expected, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
@pytest.mark.parametrize("missing", ["refuse", "pool"])
@pytest.mark.parametrize("factor", [2.0**20, 1e6])
def test_whoever_multiplies_their_statistics_wins_nothing(
    tmp_path: Path, method: str, missing: str, factor: float
) -> None:
    """Not one byte with a power of two; with another number what rounding the file moves. Nor over the pool's mean."""
    world = World(tmp_path, n=4)

    def fused(times: float) -> Tensors:
        for i in range(3 if missing == "pool" else 4):
            found = {
                f"fisher/{n}": torch.rand(s, generator=torch.Generator().manual_seed(i)) for n, s in SHAPES.items()
            }
            found |= {"activations/body.q": gram(i), "activations/body.square": gram(i + 9)}
            world.bring(i, {n: t * (times if i == 0 else 1) for n, t in found.items()})
        return world.fuse(method, missing=missing)

    honest, scaled = fused(1.0), fused(factor)
    for name in SHAPES:
        if factor == 2.0**20:
            assert torch.equal(honest[name], scaled[name])
        torch.testing.assert_close(honest[name], scaled[name], rtol=2e-6, atol=2e-6)


def test_an_element_weighs_no_more_than_a_multiple_of_the_median_there(tmp_path: Path) -> None:
    """All importance on one element is, divided by its norm, far above anybody's who cares for the whole model."""
    world = World(tmp_path, n=4)
    for i in range(4):
        even = {f"fisher/{n}": torch.ones(s) for n, s in SHAPES.items()}
        if i == 0:
            even = {n: torch.zeros_like(t) for n, t in even.items()}
            even["fisher/body.bias"][2] = 1.0
        world.bring(i, even)
    capped, free = world.fuse("fisher", cap=3.0), world.fuse("fisher", cap=0.0)
    theirs = torch.stack([d["body.bias"][2] for d in world.deltas])
    expected = world.base["body.bias"][2] + (3 * theirs[0] + theirs[1:].sum()) / 6
    torch.testing.assert_close(capped["body.bias"][2], expected)
    norm = sum(torch.Size(s).numel() for s in SHAPES.values()) ** 0.5
    uncapped = world.base["body.bias"][2] + (norm * theirs[0] + theirs[1:].sum()) / (norm + 3)
    torch.testing.assert_close(free["body.bias"][2], uncapped)


def test_who_has_none_gets_the_mean_of_the_others_if_the_recipe_says_so(tmp_path: Path) -> None:
    """Each of the others' comes normalised first."""
    world = World(tmp_path)
    grams = by_trace([gram(0), gram(1) * 50])
    for i, g in enumerate(grams):
        world.bring(i, {"activations/body.q": g * (50 if i else 1)})
    with pytest.raises(WeightsError, match=r"regmean needs activations statistics .* f2 have none"):
        world.fuse("regmean")
    fused = world.fuse("regmean", missing="pool", **EXACT)
    expected = world.closed_form("body.q", [*grams, (grams[0] + grams[1]) / 2])
    torch.testing.assert_close(fused["body.q"], expected, rtol=5e-5, atol=5e-5)
    for folder in world.folders:
        (folder / "fusion" / "statistics.safetensors").unlink(missing_ok=True)
    torch.testing.assert_close(world.fuse("regmean", missing="pool"), world.fuse("mean"))


HEADERS: dict[str, tuple[Tensors, dict[str, str], str]] = {
    "another tensor": ({"fisher/body.x": torch.ones(2)}, {}, "does not have"),
    "another kind": ({"hessian/body.q": torch.ones(6, 5)}, {}, "no kind that is known"),
    "no kind": ({"body.q": torch.ones(6, 5)}, {}, "no kind that is known"),
    "fisher of another shape": ({"fisher/body.q": torch.ones(5, 6)}, {}, r"\[5, 6\]; body.q has the shape \[6, 5\]"),
    "outputs for inputs": ({"activations/body.q": torch.ones(6, 6)}, {}, r"\[6, 6\]"),
    "a vector's": ({"activations/body.bias": torch.ones(6, 6)}, {}, r"\[6, 6\]"),
    "integers": ({"fisher/body.q": torch.ones(6, 5, dtype=torch.int64)}, {}, "I64"),
    "half of the short form": ({"activations.factor/body.q": torch.ones(5, 2)}, {}, "need activations.rest/body.q"),
    "both forms": (
        {"activations.factor/body.q": torch.ones(5, 2), "activations.rest/body.q": torch.ones(5),
         "activations/body.q": torch.eye(5)}, {}, "whole and in short form",
    ),
    "more ranks than inputs": (
        {"activations.factor/body.q": torch.ones(5, 6), "activations.rest/body.q": torch.ones(5)}, {}, r"\[5, 6\]",
    ),
    "shared with a vector": (
        {"activations/body.q": torch.eye(5)}, {"shared": '{"body.bias": "body.q"}'}, "other inputs",
    ),
    "shared with nobody": ({"activations/body.q": torch.eye(5)}, {"shared": '{"x": "y"}'}, "other inputs"),
    "shared is a list": ({"activations/body.q": torch.eye(5)}, {"shared": "[1]"}, "map names to names"),
    "shared is no JSON": ({"activations/body.q": torch.eye(5)}, {"shared": "[" * 9999}, "map names to names"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_say_something_else_are_an_error_that_names_them(tmp_path: Path, case: str) -> None:
    """Before a value is read; with `missing: pool` too."""
    tensors, metadata, message = HEADERS[case]
    world = World(tmp_path, n=1)
    world.bring(0, tensors, **metadata)
    with pytest.raises(WeightsError, match=message):
        world.fuse("regmean", missing="pool")


def test_statistics_of_every_tensor_and_form_pass(tmp_path: Path) -> None:
    """And what is sound is found to be sound: whole, short, of rank 1, of fewer tokens than inputs, in 16 bits."""
    world = World(tmp_path, n=1)
    thin = inputs(0, rows=2)
    world.bring(0, {"activations/body.q": thin.T @ thin, "fisher/body.q": torch.rand(6, 5).bfloat16(),
                    "activations.factor/body.square": torch.randn(5, 1).half(),
                    "activations.rest/body.square": torch.zeros(5)}, shared='{"body.k": "body.q"}')  # fmt: skip
    found = Statistics.open(world.folders[0])
    assert found is not None
    check(found.files, found.shared, SHAPES)
    assert faults(found, Reader().whole, ("fisher", "activations"), 1e-6) is None


VALUES: dict[str, tuple[Tensors, str]] = {
    "NaN": ({"fisher/body.q": torch.full((6, 5), torch.nan)}, "NaN or infinity"),
    "infinity": ({"activations/body.q": torch.full((5, 5), torch.inf)}, "NaN or infinity"),
    "negative Fisher": ({"fisher/body.q": -torch.ones(6, 5)}, "negative somewhere"),
    "Fisher beyond squares": ({"fisher/body.q": torch.full((6, 5), 3e38)}, "squares can be summed"),
    "not symmetric": ({"activations/body.q": torch.eye(5) + torch.ones(5, 5).triu(1) / 9}, "not symmetric"),
    "negative square": ({"activations/body.q": -torch.eye(5)}, "negative square"),
    "indefinite": ({"activations/body.q": torch.ones(5, 5) * 3 - 2 * torch.eye(5)}, "not positive semi-definite"),
    "zero": ({"activations/body.q": torch.zeros(5, 5)}, "no input arrived"),
    "negative rest": ({"activations.factor/body.q": torch.eye(5), "activations.rest/body.q": -torch.ones(5) / 9},
                      "negative somewhere"),
    "a factor too large": ({"activations.factor/body.q": torch.full((5, 1), 1e200, dtype=torch.float64),
                            "activations.rest/body.q": torch.ones(5)}, "NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_values_that_cannot_be_are_found(tmp_path: Path, case: str) -> None:
    """One indefinite matrix would end a whole round: its sum with the others' has no Cholesky factor."""
    tensors, message = VALUES[case]
    world = World(tmp_path, n=1)
    world.bring(0, tensors)
    found = Statistics.open(world.folders[0])
    assert found is not None
    with np.errstate(over="ignore"):
        fault = faults(found, Reader().whole, ("fisher", "activations"), 1e-6)
    assert fault is not None
    assert message in fault


def test_what_is_sound_can_be_merged_however_few_the_tokens(tmp_path: Path) -> None:
    """One token for 64 inputs of very different lengths: singular but for the ridge, whatever float32 rounds."""
    for seed in range(5):
        x = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed)).double() * torch.logspace(-3, 4, 64)
        folder = tmp_path / str(seed)
        (folder / "fusion").mkdir(parents=True)
        save_file({"activations/w": (x.T @ x).float().contiguous()}, folder / "fusion/statistics.safetensors")
        assert Checkpoint.open(folder / "fusion", "statistics.safetensors")
        found = Statistics.open(folder)
        assert found is not None
        assert faults(found, Reader().whole, ("activations",), 1e-6) is None
