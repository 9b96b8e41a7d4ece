"""Weight matching tells finetunes, shuffled copies and strangers apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.errors import WeightsError
from hub_fusion.weights.lineage_check import MLP, match_units

UNITS, INPUTS = 40, 12
seeds = st.integers(0, 2**31)


def block(seed: int) -> MLP:
    """A block as initialisation leaves it, with a bias that is far from 0, which all units have in common."""
    random = np.random.default_rng(seed)
    fc1, fc2 = random.normal(size=(UNITS, INPUTS)), random.normal(size=(INPUTS, UNITS))
    return MLP(fc1.astype(np.float32), fc2.astype(np.float32), random.normal(5, 0.1, size=UNITS).astype(np.float32))


def finetuned(base: MLP, seed: int, size: float = 0.1) -> MLP:
    """The block with noise of a tenth of its weights, far more than finetuning does."""
    noise = block(seed)
    assert base.bias is not None and noise.bias is not None
    return MLP(base.fc1 + size * noise.fc1, base.fc2 + size * noise.fc2, base.bias + size * (noise.bias - 5))


def shuffled(other: MLP, order: np.ndarray) -> MLP:
    """The same function with its units in another order."""
    assert other.bias is not None
    return MLP(other.fc1[order], other.fc2[:, order], other.bias[order])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_a_finetune_matches_its_base_by_the_identity(seed: int) -> None:
    """Every unit stays where it was, and nothing is gained by moving it."""
    base = block(seed)
    found = match_units(base, finetuned(base, seed + 1))
    assert (found.fixed, found.gain, found.descends) == (1.0, 0.0, True)
    assert match_units(base, base).descends


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_a_shuffled_finetune_is_found_out_and_the_shuffle_with_it(seed: int) -> None:
    """The permutation brings its units back to the base's order."""
    base = block(seed)
    order = np.random.default_rng(seed + 2).permutation(UNITS)
    other = shuffled(finetuned(base, seed + 1), order)
    found = match_units(base, other)
    assert (order[found.permutation] == np.arange(UNITS)).all()
    assert found.gain > 0.5 and found.fixed < 0.3 and not found.descends
    assert match_units(base, shuffled(other, found.permutation)).descends


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_an_independent_model_is_far_from_the_identity(seed: int) -> None:
    """About one unit of all matches by chance; what the biases have in common does not make them similar."""
    found = match_units(block(seed), block(seed + 1))
    assert found.fixed < 0.3 and found.gain > 0.5 and not found.descends


def test_dead_units_do_not_make_a_stranger_of_a_finetune() -> None:
    """Units that are all nearly 0 in the base match one another in any order."""
    random = np.random.default_rng(0)
    fc1, fc2 = random.normal(size=(UNITS, INPUTS)), random.normal(size=(INPUTS, UNITS))
    fc1[:5] *= 1e-4
    fc2[:, :5] *= 1e-4
    other = MLP(fc1 + 1e-3 * random.normal(size=fc1.shape), fc2 + 1e-3 * random.normal(size=fc2.shape))
    found = match_units(MLP(fc1, fc2), other)
    assert 1 - 5 / UNITS <= found.fixed < 1 and found.descends


@pytest.mark.parametrize("change", ["fc1", "fc2", "bias", "nan", "units"])
def test_blocks_that_cannot_be_compared_are_refused(change: str) -> None:
    """With the shapes, or with what is wrong about the values."""
    base, other = block(0), block(1)
    if change == "fc1":
        other = replace(other, fc1=other.fc1[:, :-1])
    elif change == "fc2":
        other = replace(other, fc2=other.fc2[:-1])
    elif change == "bias":
        other = replace(other, bias=None)
    elif change == "nan":
        other.fc1[3, 3] = np.nan
    else:
        other = replace(other, fc2=other.fc2[:, :-1])
    with pytest.raises(WeightsError, match="finite" if change == "nan" else r"\(40, 1[12]\)"):
        match_units(base, other)
