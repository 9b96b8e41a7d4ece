"""Worked examples by hand, and equality with reference implementations where the definitions agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from .method_harness import run
from .test_laws import case

seeds = st.integers(0, 2**31)


def random_deltas(seed: int, n: int = 4, shape: tuple[int, ...] = (6, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    """Random deltas and equal weights."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)), torch.full((n,), 1 / n)


@pytest.mark.parametrize(
    ("name", "rows", "options", "expected"),
    [
        ("task_arithmetic", [[2, 0], [4, 2]], {"scale": 0.5}, [3, 1]),
        ("task_arithmetic", [[2, 0], [4, 2]], {"scale": -1.0}, [-6, -2]),
        ("ties", [[3, -1], [1, 0], [-2, -3]], {"density": 1.0}, [2, -2]),
        ("ties", [[3.0, 1.0], [1.0, 2.0]], {"density": 0.5}, [3, 2]),  # each keeps its larger element
        ("median", [[1], [2], [90]], {}, [2]),
        ("median", [[1], [2], [4], [90]], {}, [3]),
        ("trimmed_mean", [[0], [2], [4], [90]], {"trim": 0.25}, [3]),
        ("model_stock", [[1, 0], [0, 1]], {}, [0, 0]),  # orthogonal: nothing is left
        ("karcher", [[1, 0], [0, 1]], {}, [0.5**0.5, 0.5**0.5]),
        ("sce", [[2, 1], [1, -2]], {}, [1.5, -2]),  # equal lengths; of the second element only −2 has the sum's sign
        ("consensus", [[1, 1], [1, 0]], {"scale": 1.0}, [2, 0]),  # the second element matters to one only
        ("iso_c", [[[3, 0], [0, 1]]], {}, [[2, 0], [0, 2]]),  # singular values 3 and 1 become 2 and 2
        ("iso_cts", [[[3, 0], [0, 1]]], {"common": 0.5}, [[2, 0], [0, 2]]),  # of one matrix the rest is its own
        ("paint", [[2, 0], [4, 2]], {"alpha": 0.5}, [1.5, 0.5]),
        ("ties", [[3, -1], [1, 0], [-2, -3]], {"density": 1.0, "divisor": "none"}, [4, -4]),
        ("ties", [[5, 1], [-1, 1], [-1, 1]], {"density": 1.0, "votes": "frequency"}, [-1, 1]),  # two of three are minus
        ("ties", [[5, 1], [-1, 1], [-1, 1]], {"density": 1.0}, [5, 1]),
        ("breadcrumbs", [[[9, 3, -2, 1]]], {"gamma": 0.25, "density": 2 / 3, "scale": 1.0}, [[0, 3, -2, 0]]),
        ("breadcrumbs", [[[9, 8], [2, 1]]], {"gamma": 0.5, "density": 1.0, "scale": 1.0}, [[0, 8], [0, 1]]),
        (
            "breadcrumbs",
            [[[9, 8], [2, 1]]],
            {"gamma": 0.5, "density": 1.0, "scale": 1.0, "within": "tensor"},
            [[0, 0], [2, 1]],
        ),
        ("breadcrumbs_ties", [[[9, 3, -2, 1]]], {"gamma": 0.25, "density": 1 / 3}, [[0, 3, 0, 0]]),
        ("sce", [[4, 1, 1], [0, 1, 2]], {"select": 0.5}, [4, 0, 0]),  # of two with variance the first has more
        (
            "subspace_boosting",
            [[[4, 0, 0, 0], [0, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]],
            {"beta": 0.5},
            [[4, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3]],
        ),
        ("knots", [[[3, 0], [0, 1]]], {"density": 0.25}, [[3, 0], [0, 0]]),  # in its own basis a matrix is diagonal
        ("core_space", [[[0, 3], [1, 0]]], {"density": 0.25}, [[0, 3], [0, 0]]),
    ],
)
def test_worked_examples(name: str, rows: Any, options: dict[str, Any], expected: list[float]) -> None:
    """By hand."""
    deltas = torch.tensor(rows, dtype=torch.float32)
    weights = torch.full((len(rows),), 1 / len(rows))
    torch.testing.assert_close(run(name, deltas, weights, **options), torch.tensor(expected, dtype=torch.float32))


def test_analogy_subtracts_what_has_a_negative_weight() -> None:
    """A + B − C of Ilharco et al. 2022, section 5; the engine divides the weights by the sum of their magnitudes."""
    a, b, c = [1.0, 0.0], [0.0, 5.0], [0.5, 2.0]
    merged = run("task_arithmetic", torch.tensor([a, b, c]), torch.tensor([1.0, 1.0, -1.0]) / 3)
    torch.testing.assert_close(merged, torch.tensor([0.5, 3.0]))


def test_rescaling_by_the_norm_keeps_the_l1_norm_of_each_task_vector() -> None:
    """mergekit's rescaling; what it cannot rescale, a delta of which nothing stays, is 0."""
    deltas = torch.randn(1, 20, 30, generator=torch.Generator().manual_seed(0))
    for method in ("dare", "della_linear"):
        merged = run(method, deltas, torch.ones(1), rescale="norm", density=0.3, scale=1.0)
        assert 0 < merged.count_nonzero() < 400
        torch.testing.assert_close(merged.abs().sum(), deltas.abs().sum(), rtol=1e-5, atol=0)
    assert not run("dare", deltas, torch.ones(1), rescale="norm", density=0.0).any()


@settings(max_examples=25, deadline=None)
@given(seed=seeds, density=st.sampled_from([0.2, 0.5, 0.9]))
def test_ties_equals_peft_where_no_magnitudes_tie(seed: int, density: float) -> None:
    """peft.utils.merge_utils trims per tensor too, but divides by the count, which for equal weights is the same mean.

    It keeps ⌊density·n⌋ elements and this one ⌈density·n⌉: 30 elements make both the same.
    """
    from peft.utils.merge_utils import ties as peft_ties

    deltas, weights = random_deltas(seed)
    reference = peft_ties(list(deltas), torch.ones(len(deltas)), density)
    torch.testing.assert_close(run("ties", deltas, weights, density=density), reference, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_dare_keeps_the_expected_share_and_the_mean(seed: int) -> None:
    """Of 4,000 elements a tenth stays (± 5 standard errors), divided by a tenth."""
    deltas, weights = torch.ones(1, 4000), torch.ones(1)
    merged = run("dare", deltas, weights, names=[str(seed)])
    assert set(merged.unique().tolist()) == {0.0, 10.0}
    assert abs(float(merged.mean()) - 1.0) < 5 * (9 / 4000) ** 0.5


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_geometric_median_stands_a_minority_of_outliers(seed: int) -> None:
    """Two of seven, a million times too long, move the mean by as much, it by about the honest spread."""
    deltas, weights = random_deltas(seed, n=7)
    honest = deltas[2:].mean(dim=0)
    deltas[:2] *= 1e6
    spread = (deltas[2:] - honest).flatten(1).norm(dim=1).max()
    assert (run("geometric_median", deltas, weights) - honest).norm() < 3 * spread
    assert (run("mean", deltas, weights) - honest).norm() > 1e4 * spread


def test_geometric_median_of_orthogonal_vectors_of_one_length_is_the_mean() -> None:
    """By symmetry."""
    deltas, weights = torch.eye(5), torch.full((5,), 0.2)
    torch.testing.assert_close(run("geometric_median", deltas, weights), deltas.mean(dim=0), rtol=1e-6, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, t=st.floats(0.05, 0.95))
def test_karcher_mean_of_two_is_slerp(seed: int, t: float) -> None:
    """sin((1−t)θ)/sin θ · u + sin(tθ)/sin θ · v, times the mean length."""
    deltas, _ = random_deltas(seed, n=2)
    weights = torch.tensor([1 - t, t])
    u, v = (delta / delta.norm() for delta in deltas.double())
    angle = (u * v).sum().acos()
    between = ((1 - t) * angle).sin() / angle.sin() * u + (t * angle).sin() / angle.sin() * v
    length = (1 - t) * deltas[0].double().norm() + t * deltas[1].double().norm()
    merged = run("karcher", deltas, weights, iterations=50)
    torch.testing.assert_close(merged.double(), between * length, rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_tsv_of_one_matrix_is_that_matrix(seed: int) -> None:
    """All its singular triples stay, and its singular vectors are orthonormal already."""
    deltas, weights = random_deltas(seed, n=1)
    torch.testing.assert_close(run("tsv_m", deltas, weights), deltas[0], rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_iso_c_keeps_the_sum_of_singular_values_and_makes_them_equal(seed: int) -> None:
    """The definition."""
    deltas, weights = random_deltas(seed)
    values = torch.linalg.svdvals(run("iso_c", deltas, weights).double())
    expected = torch.linalg.svdvals(deltas.double().sum(dim=0)).mean()
    torch.testing.assert_close(values, expected.expand(5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["della", "breadcrumbs"])
def test_rows_are_masked_by_themselves(name: str) -> None:
    """A row of large numbers does not push out a row of small ones."""
    deltas = torch.cat([torch.full((1, 1, 50), 1e-3), torch.full((1, 1, 50), 1e3)], dim=1)
    merged = run(name, deltas, torch.ones(1))
    assert merged[0].any()
    assert merged[1].any()


def test_breadcrumbs_drops_nothing_where_there_is_nothing_to_drop() -> None:
    """gamma of a row of three is no element: the largest stays, where cutting ``[:-0]`` would lose all."""
    deltas = torch.tensor([[[3.0, 2.0, 1.0]]])
    assert run("breadcrumbs", deltas, torch.ones(1), scale=1.0, density=1.0).tolist() == [[3.0, 2.0, 1.0]]


@settings(max_examples=100, deadline=None)
@given(seed=seeds, n=st.integers(1, 6), shape=st.sampled_from([(), (1,), (2,), (7, 5)]))
@example(seed=33926933, n=3, shape=(1,))
@example(seed=1302, n=4, shape=(2,))
def test_karcher_mean_is_no_longer_than_the_mean_length(seed: int, n: int, shape: tuple[int, ...]) -> None:
    """Also of more directions than dimensions, which may nearly cancel, and of lengths from 1e-6 to 1e6."""
    deltas, weights = case(shape, n, seed)
    longest = (weights * deltas.reshape(n, -1).norm(dim=1)).sum()
    assert run("karcher", deltas, weights).norm() <= longest * 1.001
