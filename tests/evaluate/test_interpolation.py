"""A line has its ends where they are, and a barrier is what lies below the chord."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from hub_fusion.errors import RecordError, WeightsError
from hub_fusion.evaluate.interpolation import accuracies_along, barrier, instability, interpolate, points
from hub_fusion.evaluate.suite import measure
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.fuse import folder_sha256

from .conftest import make_bert, make_vit, settings

ACCURACIES = st.lists(st.floats(0, 1), min_size=2, max_size=12)


@pytest.fixture(scope="module")
def compute() -> Compute:
    """This process alone."""
    return Compute()


def test_a_point_is_the_weighted_mean_and_the_ends_are_the_ends(vit: Path, tmp_path: Path, compute: Compute) -> None:
    other = make_vit(tmp_path / "other", seed=1)
    first, second = load_file(vit / "model.safetensors"), load_file(other / "model.safetensors")
    for at in (0.0, 0.25, 1.0):
        found = load_file(interpolate(vit, other, at, tmp_path / "p", compute) / "model.safetensors")
        assert found and all(
            (tensor - ((1 - at) * first[n] + at * second[n])).abs().max() < 1e-6 for n, tensor in found.items()
        )


def test_a_path_from_a_model_to_itself_has_no_barrier(
    vit: Path, images: Path, tmp_path: Path, compute: Compute
) -> None:
    """The same weights at every point, so the same answers, so exactly 0."""
    asked = settings(images, fewshot=None)
    found = accuracies_along(
        vit, vit, tmp_path, compute,
        lambda folder: measure(folder, asked, weights_sha256=folder_sha256(folder)).scores.mean("gate"), count=4,
    )  # fmt: skip
    assert len(set(found)) == 1 and barrier(found) == 0 and not list(tmp_path.iterdir())


def test_models_that_are_not_of_one_kind_have_no_line(vit: Path, tmp_path: Path, compute: Compute) -> None:
    with pytest.raises(WeightsError):
        interpolate(vit, make_bert(tmp_path / "bert"), 0.5, tmp_path / "p", compute)


@given(ACCURACIES)
def test_a_barrier_is_the_same_both_ways_and_never_negative(accuracies: list[float]) -> None:
    assert barrier(accuracies) == pytest.approx(barrier(accuracies[::-1]), abs=1e-12)
    assert 0 <= barrier(accuracies) <= 1


@given(st.floats(0, 1), st.floats(0, 1), st.integers(2, 12))
def test_a_straight_line_has_no_barrier_though_its_ends_differ(start: float, end: float, count: int) -> None:
    """Where the mean of the ends would see one: half their difference."""
    line = [start + at * (end - start) for at in points(count)]
    assert barrier(line) == pytest.approx(0, abs=1e-12)
    assert instability(line) == pytest.approx(abs(end - start) / 2, abs=1e-12)


def test_the_worked_examples_and_what_is_no_path() -> None:
    assert barrier([0.8, 0.6, 0.9]) == pytest.approx(0.25) and instability([0.8, 0.6, 0.9]) == pytest.approx(0.25)
    assert points(5) == [0, 0.25, 0.5, 0.75, 1]
    for call in (lambda: points(1), lambda: barrier([0.5])):
        with pytest.raises(RecordError, match="ends"):
            call()
