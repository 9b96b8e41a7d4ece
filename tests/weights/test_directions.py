"""What inner products say of directions, on vectors whose directions are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hub_fusion.weights.directions import cosines, effective_directions, layer_of, spectrum
from hub_fusion.weights.distance import drift

from .tiny import save_folder

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10**6))


def vectors(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(shape[2]).normal(size=shape[:2])


@given(SHAPES)
def test_the_spectrum_is_that_of_the_vectors_themselves(shape: tuple[int, int, int]) -> None:
    """From inner products alone, as numpy finds it from the whole vectors."""
    rows = vectors(shape)
    values = np.linalg.svd(rows, compute_uv=False) ** 2
    shares = spectrum(rows @ rows.T)
    np.testing.assert_allclose(shares[: len(values)], values / values.sum(), atol=1e-9)
    assert shares.sum() == pytest.approx(1) and 1 - 1e-9 <= effective_directions(rows @ rows.T) <= shape[0] + 1e-9


@pytest.mark.parametrize(("rows", "directions"), [
    (np.eye(5)[:4], 4), (np.ones((4, 3)), 1), (-np.eye(3)[[0, 0, 1]], 1.8), (np.zeros((3, 2)), 0), (np.ones((1, 1)), 1),
])  # fmt: skip
def test_orthogonal_vectors_count_each_and_copies_once(rows: np.ndarray, directions: float) -> None:
    """Two copies beside one other: λ are 2, 1, 0, so 9/5."""
    assert effective_directions(rows @ rows.T) == pytest.approx(directions)


@given(SHAPES)
def test_cosines_do_not_depend_on_lengths(shape: tuple[int, int, int]) -> None:
    rows = vectors(shape)
    scaled = rows * np.arange(1, len(rows) + 1)[:, None]
    np.testing.assert_allclose(cosines(rows @ rows.T), cosines(scaled @ scaled.T), atol=1e-9)
    assert np.abs(cosines(rows @ rows.T)).max() <= 1
    assert not cosines(np.zeros((2, 2))).any()


@pytest.mark.parametrize(("name", "layer"), [
    ("encoder.layer.3.output.dense.weight", "encoder.layer.3"), ("embeddings.word_embeddings.weight", "embeddings"),
    ("model.layers.11.mlp.experts.7.up.weight", "model.layers.11"), ("h.0.attn.bias", "h.0"), ("weight", "weight"),
])  # fmt: skip
def test_a_layer_is_what_stands_before_the_first_number(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_drift_is_relative_and_by_layer(tmp_path: Path) -> None:
    """A step of 3-4-5 in one layer, none in another, and a layer that was all zeros."""
    parent = {"l.0.w": torch.full((4,), 5.0), "l.0.b": torch.zeros(2), "l.1.w": torch.ones(3), "new.w": torch.zeros(2)}
    moved = parent | {"l.0.w": torch.tensor([5.0, 5, 5, 8]), "l.0.b": torch.tensor([4.0, 0]), "new.w": torch.ones(2)}
    found = drift(save_folder(tmp_path / "a", parent), save_folder(tmp_path / "b", moved))
    assert found == pytest.approx({"l.0": 0.5, "l.1": 0.0, "new": 2**0.5})
