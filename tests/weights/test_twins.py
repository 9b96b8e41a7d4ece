"""Compiled code against what defines it: the torch formulas bit by bit, torch's own conversions, merge.inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.merge import find_method
from hub_fusion.merge import inputs as defined
from hub_fusion.weights.checkpoint import TORCH_NAMES
from hub_fusion.weights.codec import narrow, widen
from hub_fusion.weights.cuts import find_cuts
from hub_fusion.weights.twins import Around, find_twin

CASES: list[tuple[str, dict[str, Any]]] = [
    ("mean", {}), ("task_arithmetic", {}), ("task_arithmetic", {"scale": -0.3}), ("ties", {}),
    ("ties", {"density": 0.5, "scale": 0.7}), ("ties", {"density": 0.0}), ("ties", {"density": 1.0}), ("dare", {}),
    ("dare", {"density": 0.5, "scale": 2.0}), ("dare", {"density": 0}), ("dare_ties", {}),
    ("dare_ties", {"density": 0.7, "scale": 1.3}),
]  # fmt: skip
FLOATS = ["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"]


def deltas_of(n: int, size: int, seed: int, coarse: bool) -> np.ndarray:
    """Random changes; `coarse` ones have many equal magnitudes and zeros, as those of 16-bit models have."""
    random = np.random.default_rng(seed)
    found = random.standard_normal((n, size)).astype(np.float32)
    return (np.round(found * 2) / 64 if coarse else found * 10.0 ** random.integers(-9, 9)).astype(np.float32)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), size=st.integers(0, 1500), seed=st.integers(0, 999), coarse=st.booleans(),
       first=st.sampled_from([0, 7, 2**32 - 5, 2**33 + 1]))  # fmt: skip
def test_a_twin_gives_the_bytes_of_its_formula(
    name: str, options: dict[str, Any], n: int, size: int, seed: int, coarse: bool, first: int
) -> None:
    """Whatever the block's place in its tensor: thresholds are those of the block, noise goes by the tensor's index."""
    formula = find_method(name).bind(options)
    twin = find_twin(formula)
    assert twin is not None
    deltas = deltas_of(n, size, seed, coarse)
    weights = np.random.default_rng(seed).random(n).astype(np.float32) + np.float32(0.1)
    weights = (weights / weights.sum()).astype(np.float32)
    there = torch.from_numpy(deltas.copy())
    given_: dict[str, torch.Tensor] = {}
    cuts = []
    if "keep" in formula.method.inputs:
        first = 0
        ranks = formula.ranks(size)
        cuts = [find_cuts(lambda d=d: [d], ranks, size) for d in deltas]
        low, high = ([defined.find_cut(lambda d=d: [d], rank, size) for d in there] for rank in ranks)
        triples = zip(there, low, high, strict=True)
        given_["keep"] = torch.stack([last.before(d, 0) & ~lead.before(d, 0) for d, lead, last in triples])
    if "noise" in formula.method.inputs:
        given_["noise"] = torch.stack(
            [defined.noise_like(d, first, seed=3, tensor="t", contribution=str(i)) for i, d in enumerate(there)]
        )
    keys = [defined.noise_keys(3, "t", str(i)) for i in range(n)]
    expected = formula(there, torch.from_numpy(weights), **given_).numpy()
    out = np.full(size, np.nan, np.float32)
    twin(deltas, weights, Around(first, cuts, keys), formula.method.options | options, out)
    same = (out == 0) & (expected == 0) | (out.view(np.int32) == expected.view(np.int32))  # zeros of either sign
    assert same.all(), (out[~same], expected[~same])


@settings(max_examples=60, deadline=None)
@given(size=st.sampled_from([1, 2, 50, 400, 5000]), seed=st.integers(0, 999), coarse=st.booleans(),
       share=st.floats(0, 1), block=st.integers(1, 3000))  # fmt: skip
def test_cuts_are_those_of_the_definition(size: int, seed: int, coarse: bool, share: float, block: int) -> None:
    """The same elements on the same side, whatever the blocks; small tensors take a shorter way."""
    delta = deltas_of(1, size, seed, coarse)[0]
    rank = math.ceil(share * size)
    tensor = torch.from_numpy(delta)
    expected = defined.find_cut(lambda: [tensor], rank, size).before(tensor, 0).numpy()
    blocks = [delta[start : start + block] for start in range(0, size, block)]
    lead, last = find_cuts(lambda: blocks, (rank // 2, rank), size)
    assert (last.before(delta, 0) == expected).all()
    assert last.before(delta, 0).sum() == rank
    assert lead.before(delta, 0).sum() == rank // 2
    parts = [last.before(part, start * block) for start, part in enumerate(blocks)]
    assert (np.concatenate(parts) == expected).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_stored_floats_become_the_float32_that_torch_reads(dtype: str) -> None:
    """All bit patterns of 8 and 16 bits; float64 stays what it is."""
    width = 8 if dtype.startswith("F8") else int(dtype.removeprefix("B")[1:])
    bits = np.arange(2 ** min(width, 16), dtype=f"uint{min(width, 16)}")
    raw = bits if width <= 16 else np.random.default_rng(0).standard_normal(1000).astype(f"float{width}")
    stored = raw.view(np.float16) if dtype == "F16" else raw
    expected = torch.from_numpy(raw.copy()).view(getattr(torch, TORCH_NAMES[dtype]))
    wide = widen(stored, dtype)
    expected = expected.double() if width == 64 else expected.float()
    assert np.array_equal(wide, expected.numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_values_are_rounded_as_torch_rounds_them(dtype: str, values: list[float]) -> None:
    """To nearest, ties to even, subnormal numbers and infinities too."""
    wide = np.array(values, np.float32)
    expected = torch.from_numpy(wide).to(getattr(torch, TORCH_NAMES[dtype]))
    with np.errstate(invalid="ignore"):
        stored = narrow(wide, dtype)
    ours = torch.from_numpy(stored).view(expected.dtype) if dtype == "BF16" else torch.from_numpy(stored)
    assert torch.equal(torch.nan_to_num(ours.double()), torch.nan_to_num(expected.double()))
    assert torch.equal(ours.isnan(), expected.isnan())
