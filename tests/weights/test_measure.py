"""Norms, cosines, copies, NaN: all of it from one pass, and one bad contribution does not spoil the others' numbers."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hub_fusion.contributions.judgement import COPY_DISTANCE
from hub_fusion.weights import measure as module
from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.measure import Measures, measure

from .tiny import model, save_folder, saved, started_from, trained

NAMES = ("body.a", "body.b", "body.c")


@pytest.fixture(scope="module")
def compute() -> Compute:
    """This process alone."""
    return Compute()


def base_of(tmp_path: Path, **more: torch.Tensor) -> Path:
    """A base of three tensors of zeros (with shared heads and the like, if given)."""
    tensors = {"body.a": torch.zeros(3, 4), "body.b": torch.zeros(()), "body.c": torch.zeros(5)}
    return save_folder(tmp_path / "base", tensors | more)


def finetune(tmp_path: Path, base: Path, key: str, changes: dict[str, torch.Tensor]) -> Source:
    """A source that changed some tensors of the base to these values."""
    checkpoint = Checkpoint.open(base)
    tensors = {name: checkpoint.read(name).clone() for name in checkpoint}
    return Source(key, save_folder(tmp_path / key, tensors | changes), base)


def random_changes(seed: int) -> dict[str, torch.Tensor]:
    """A task vector."""
    source = torch.Generator().manual_seed(seed)
    return {
        "body.a": torch.randn(3, 4, generator=source),
        "body.b": torch.randn((), generator=source),
        "body.c": torch.randn(5, generator=source),
    }


def flat(changes: dict[str, torch.Tensor]) -> np.ndarray:
    """The task vector as one."""
    return torch.cat([changes[name].reshape(-1) for name in NAMES]).double().numpy()


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_norms_distances_and_cosines_are_those_of_the_whole_vectors(
    tmp_path: Path, compute: Compute, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Whatever the blocks in which they are read."""
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    base = base_of(tmp_path)
    changes = [random_changes(i) for i in range(4)]
    measures = measure([finetune(tmp_path, base, f"f{i}", c) for i, c in enumerate(changes)], base, compute)
    vectors = np.stack([flat(c) for c in changes])
    weights = [0.1, 0.2, 0.3, 0.4]
    mean = np.asarray(weights) @ vectors
    assert measures.gram == pytest.approx(vectors @ vectors.T, rel=1e-12)
    assert measures.not_finite == {}
    for i, vector in enumerate(vectors):
        length = np.linalg.norm(vector)
        assert measures.norm(i) == pytest.approx(length)
        assert measures.cosine_with_mean(i, weights) == pytest.approx(vector @ mean / length / np.linalg.norm(mean))
    for i, j in itertools.combinations(range(4), 2):
        longest = max(measures.norm(i), measures.norm(j))
        assert measures.distance(i, j) == pytest.approx(np.linalg.norm(vectors[i] - vectors[j]) / longest)


def test_signs_are_counted_over_what_both_change(tmp_path: Path, compute: Compute) -> None:
    """Of 17 elements: a and b oppose in the 12 of one tensor and agree in 5; c leaves those 5 alone."""
    base = base_of(tmp_path)
    one = {"body.a": torch.ones(3, 4), "body.c": torch.ones(5)}
    sources = [finetune(tmp_path, base, "a", one), finetune(tmp_path, base, "b", one | {"body.a": -torch.ones(3, 4)}),
               finetune(tmp_path, base, "c", {"body.a": torch.ones(3, 4)})]  # fmt: skip
    opposed = measure(sources, base, compute).opposed
    np.testing.assert_allclose(opposed, [[0, 12 / 17, 0], [12 / 17, 0, 1], [0, 1, 0]])


def test_copies_have_no_distance_also_in_another_dtype(tmp_path: Path, compute: Compute) -> None:
    """A copy saved as float16 has other bytes and the same training."""
    base = saved(model("BertModel"), tmp_path / "base")
    one = trained(started_from("BertForSequenceClassification", base))
    folders = [saved(one, tmp_path / "a"), saved(one.half(), tmp_path / "b")]
    folders.append(saved(trained(started_from("BertModel", base), seed=7), tmp_path / "c"))
    measures = measure([Source(f.name, f, base) for f in folders], base, compute)
    assert measures.distance(0, 1) < COPY_DISTANCE / 5
    assert measures.distance(0, 2) == pytest.approx(math.sqrt(2), abs=0.2)  # independent noise is about orthogonal


def test_an_unchanged_contribution_has_norm_zero_and_no_direction(tmp_path: Path, compute: Compute) -> None:
    """Not NaN: 0/0 would go into the record."""
    base = base_of(tmp_path)
    sources = [finetune(tmp_path, base, "a", {}), finetune(tmp_path, base, "b", random_changes(1))]
    measures = measure(sources, base, compute)
    assert measures.norm(0) == 0
    assert measures.cosine_with_mean(0, [0.5, 0.5]) == 0
    assert measures.distance(0, 0) == 0
    assert measures.distance(0, 1) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_tensor_with_nan_or_infinity_is_named(tmp_path: Path, compute: Compute, value: float) -> None:
    """In the order of the base's file, for any number of processes; the numbers of the others are as without it."""
    base = base_of(tmp_path)
    good = [finetune(tmp_path, base, f"good{i}", random_changes(i)) for i in range(2)]
    poison = {"body.b": torch.tensor(value), "body.c": torch.tensor([0, 0, value, 0, 0])}
    bad = finetune(tmp_path, base, "bad", random_changes(9) | poison)
    alone = measure(good, base, compute)
    together = measure([good[0], bad, good[1]], base, compute)
    order = list(Checkpoint.open(base))
    first = min(("body.b", "body.c"), key=order.index)
    assert together.not_finite == {1: first}
    assert together.gram[np.ix_([0, 2], [0, 2])] == pytest.approx(alone.gram, rel=1e-12)
    assert together.cosine_with_mean(0, [0.5, 0.0, 0.5]) == pytest.approx(alone.cosine_with_mean(0, [0.5, 0.5]))
    shares = _in_processes([good[0], bad, good[1]], base, 3)
    assert all(share.not_finite == {1: first} for share in shares)
    assert shares[0].gram[0, 2] == pytest.approx(together.gram[0, 2])


def _in_processes(sources: list[Source], base: Path, processes: int) -> list[Measures]:
    """What each of several processes would return: they run one after the other, then again with what all found."""
    found: list[Any] = []

    def peer(rank: int, gather: Any) -> Any:
        return SimpleNamespace(
            threads=2,
            one_thread_each=Compute().one_thread_each,
            rank=rank,
            processes=processes,
            device="cpu",
            gather=gather,
        )

    for rank in range(processes):
        measure(sources, base, peer(rank, lambda value: found.append(value) or [value]))
    return [measure(sources, base, peer(rank, lambda value: found)) for rank in range(processes)]


def test_values_that_overflow_float32_when_squared_are_finite(tmp_path: Path, compute: Compute) -> None:
    """Sums of squares are in float64; 1e30 is absurd, but it is a norm and not a NaN."""
    base = base_of(tmp_path)
    measures = measure([finetune(tmp_path, base, "a", {"body.a": torch.full((3, 4), 1e30)})], base, compute)
    assert measures.not_finite == {}
    assert measures.norm(0) == pytest.approx(1e30 * math.sqrt(12))


def test_shared_heads_are_measured_as_far_as_they_are_fused(tmp_path: Path, compute: Compute) -> None:
    """A pooler is fused over those that have it: NaN in it would pass into the base, and so would a huge value."""
    base = base_of(tmp_path, **{"pooler.weight": torch.zeros(2), "classifier.weight": torch.zeros(2)})
    poison = finetune(tmp_path, base, "a", random_changes(1) | {"pooler.weight": torch.tensor([1.0, math.nan])})
    huge = finetune(tmp_path, base, "b", random_changes(1) | {"pooler.weight": torch.tensor([3000.0, 4000.0])})
    task = finetune(tmp_path, base, "c", random_changes(1) | {"classifier.weight": torch.tensor([1.0, math.nan])})
    measures = measure([poison, huge, task], base, compute)
    assert measures.not_finite == {0: "pooler.weight"}
    assert measures.norm(1) == pytest.approx(math.hypot(5000, np.linalg.norm(flat(random_changes(1)))))
    assert measures.norm(2) == pytest.approx(np.linalg.norm(flat(random_changes(1))))


def test_a_head_of_its_own_does_not_hide_a_copy(tmp_path: Path, compute: Compute) -> None:
    """Copies are told by the body: the pooler is lost or replaced easily."""
    base = base_of(tmp_path, **{"pooler.weight": torch.zeros(2)})
    one = finetune(tmp_path, base, "a", random_changes(1) | {"pooler.weight": torch.ones(2)})
    other = finetune(tmp_path, base, "b", random_changes(1) | {"pooler.weight": torch.full((2,), -1.0)})
    measures = measure([one, other], base, compute)
    assert measures.distance(0, 1) == 0


def test_a_base_without_floats_in_its_body_gives_zeros(tmp_path: Path, compute: Compute) -> None:
    """Nothing to read is no error."""
    base = save_folder(tmp_path / "base", {"body.ids": torch.arange(3)})
    assert measure([finetune(tmp_path, base, "a", {})], base, compute).gram.tolist() == [[0.0]]


def test_what_the_base_cannot_hold_is_not_finite(tmp_path: Path, compute: Compute) -> None:
    """A million in float32 on a base in float16 would be infinity in the fused model."""
    base = save_folder(
        tmp_path / "base", {"body.a": torch.ones(3, 4).half(), "body.b": torch.full((2,), 65504.0).half()}
    )
    fine = finetune(tmp_path, base, "fine", {"body.a": torch.full((3, 4), 60000.0)})
    large = finetune(tmp_path, base, "large", {"body.a": torch.full((3, 4), -1e6)})
    measures = measure([fine, large], base, compute)
    assert measures.not_finite == {1: "body.a"}
    assert measures.norm(0) > 0
