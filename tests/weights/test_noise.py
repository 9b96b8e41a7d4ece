"""What training leaves is told from random numbers, whatever rounding, length or kind of training it went through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hub_fusion.demo.digits import CONTRIBUTORS, Contributor, write_root
from hub_fusion.demo.training import finetune
from hub_fusion.weights import noise as module
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.measure import measure
from hub_fusion.weights.noise import APART, find_order

from .tiny import save_folder

Tensors = dict[str, torch.Tensor]
ADA, GUS = CONTRIBUTORS[0], CONTRIBUTORS[-1]


@pytest.fixture(scope="module")
def compute() -> Compute:
    """This process alone."""
    return Compute()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' vision transformer: 24 matrices of 64×64 and 128×64."""
    folder = tmp_path_factory.mktemp("root") / "root"
    write_root(folder)
    return folder


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Finetunes of it, each trained once."""
    made: dict[tuple[object, ...], Path] = {}

    def train(who: Contributor = ADA, epochs: int = 1, lr: float | None = None) -> Path:
        key = (who, epochs, lr)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("trained") / "finetune"
            finetune(root, who, made[key], seed=1, lora=who.lora, epochs=epochs, lr=lr)
        return made[key]

    return train


def tensors_of(folder: Path) -> Tensors:
    """A checkpoint's."""
    return load_file(folder / "model.safetensors")


def changed(root: Path, out: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Source:
    """The root with every matrix of its layers put through `change`."""
    tensors = tensors_of(root)
    made = {n: change(t) if t.dim() == 2 and "layer" in n else t for n, t in tensors.items()}
    return Source(out.name, save_folder(out, made), root)


def noise_of(sources: list[Source], root: Path, compute: Compute) -> dict[int, float | None]:
    """How far from random those of these sources are that are no training, or cannot be judged."""
    found = find_order(sources, root, measure(sources, root, compute), compute)
    return {i: apart for i, apart in found.items() if apart is None or apart < APART}


def imitations(root: Path, real: Path, out: Path) -> list[Source]:
    """Noise made from a real finetune's change: with its spread, with its elements shuffled, with a coin for signs."""
    coin, before, after = torch.Generator().manual_seed(5), tensors_of(root), tensors_of(real)
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "gaussian": lambda d: torch.randn(d.shape, generator=coin) * d.std(),
        "shuffled": lambda d: d.reshape(-1)[torch.randperm(d.numel(), generator=coin)].reshape(d.shape),
        "flipped": lambda d: d * (torch.randint(0, 2, d.shape, generator=coin) * 2 - 1),
    }
    made = []
    for name, way in ways.items():
        tensors = {n: t + way(after[n] - t) if t.dim() > 1 else after[n] for n, t in before.items()}
        made.append(Source(name, save_folder(out / name, tensors), root))
    return made


def test_noise_like_a_real_change_in_every_norm_is_found(
    root: Path, trained: Callable[..., Path], tmp_path: Path, compute: Compute
) -> None:
    """Norms by layer, the distribution of elements and where the large ones lie do not give it away; its order does."""
    found = noise_of([Source("real", trained(), root), *imitations(root, trained(), tmp_path)], root, compute)
    assert list(found) == [1, 2, 3]
    assert all(apart is not None and abs(apart) < 0.6 * APART for apart in found.values()), found


@pytest.mark.parametrize("lr", [1e-6, 1e-2])
def test_real_finetunes_are_never_noise(
    root: Path, trained: Callable[..., Path], tmp_path: Path, compute: Compute, lr: float
) -> None:
    """With a tiny and a far too large learning rate; as they are, in 16 bits, and with half of the change dropped.

    Of the tiny one bfloat16 leaves nothing but rounding: that is not judged, and the caller hears of it.
    """
    tensors, before, coin = tensors_of(trained(lr=lr)), tensors_of(root), torch.Generator().manual_seed(6)
    made = {"bf16": {n: t.bfloat16() for n, t in tensors.items()}, "f16": {n: t.half() for n, t in tensors.items()}}
    made["dropped"] = {
        n: t + 2 * (tensors[n] - t) * (torch.rand(t.shape, generator=coin) < 0.5) for n, t in before.items()
    }
    sources = [Source(name, save_folder(tmp_path / name, made[name]), root) for name in made]
    found = noise_of([Source("real", trained(lr=lr), root), *sources], root, compute)
    assert found == ({1: None} if lr == 1e-6 else {})


def test_noise_in_16_bits_is_found_where_rounding_cannot_have_made_it(
    root: Path, tmp_path: Path, compute: Compute
) -> None:
    """A base in bfloat16 is not judged, twice its rounding is."""
    coin = torch.Generator().manual_seed(9)
    cast = changed(root, tmp_path / "cast", lambda t: t.bfloat16())
    noisy = changed(
        root, tmp_path / "noisy", lambda t: (t * (1 + 2**-8 * torch.randn(t.shape, generator=coin))).bfloat16()
    )
    found = noise_of([cast, noisy], root, compute)
    assert found[0] is None
    assert found[1] is not None


def test_an_adapter_is_judged_by_what_it_changes(root: Path, trained: Callable[..., Path], compute: Compute) -> None:
    """Its product has a rank of 16 at most, which no noise has."""
    assert noise_of([Source("lora", trained(GUS), root, "adapter")], root, compute) == {}


def test_scaled_columns_are_an_order_although_the_base_is_random(root: Path, tmp_path: Path, compute: Compute) -> None:
    """(IA)³ merged into weights: the change of a random matrix looks random until the base's signs are taken off."""
    coin = torch.Generator().manual_seed(7)
    scaled = changed(root, tmp_path / "ia3", lambda t: t * (1 + 0.1 * torch.randn(t.shape[1], generator=coin)))
    assert noise_of([scaled], root, compute) == {}


def test_orthogonal_steps_are_an_order_although_no_direction_is_strong(
    root: Path, tmp_path: Path, compute: Compute
) -> None:
    """One step of Muon: all singular values are equal, so the largest is smaller than noise has."""

    def step(tensor: torch.Tensor) -> torch.Tensor:
        left, _, right = torch.linalg.svd(tensor.flip(0), full_matrices=False)
        return tensor + 0.01 * left @ right

    assert noise_of([changed(root, tmp_path / "muon", step)], root, compute) == {}


def test_weight_decay_alone_says_nothing_and_does_not_hide_noise(root: Path, tmp_path: Path, compute: Compute) -> None:
    """A base of random numbers that became shorter is no noise; shorter and shaken, it is."""
    coin = torch.Generator().manual_seed(8)
    shorter = changed(root, tmp_path / "shorter", lambda t: 0.9 * t)
    shaken = changed(
        root, tmp_path / "shaken", lambda t: 0.7 * t + 0.3 * torch.randn(t.shape, generator=coin) * t.std()
    )
    found = noise_of([shorter, shaken], root, compute)
    assert found[0] is None
    assert found[1] is not None


def test_what_is_too_small_or_did_not_change_is_not_judged(tmp_path: Path, compute: Compute) -> None:
    """Matrices with a side below 64, vectors, heads; NaN is somebody else's to refuse."""
    shapes = {
        "layer.0.small": (63, 500),
        "layer.0.bias": (900,),
        "classifier.weight": (64, 64),
        "layer.1.big": (64, 64),
    }
    before = {name: torch.randn(shape) for name, shape in shapes.items()}
    base = save_folder(tmp_path / "base", before)
    moved = {n: t + torch.randn(t.shape) if n != "layer.1.big" else t for n, t in before.items()}
    broken = before | {"layer.1.big": torch.full((64, 64), torch.nan)}
    sources = [Source("moved", save_folder(tmp_path / "moved", moved), base),
               Source("broken", save_folder(tmp_path / "broken", broken), base)]  # fmt: skip
    assert noise_of(sources, base, compute) == {0: None}


def test_signs_that_do_not_matter_say_nothing(tmp_path: Path, compute: Compute) -> None:
    """Of a diagonal, and of one number in each row and column, the singular values are the same with any signs."""
    before = {"layer.0.weight": torch.randn(96, 96, generator=torch.Generator().manual_seed(1))}
    base = save_folder(tmp_path / "base", before)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(2))
    changes = {"diagonal": torch.eye(96), "scattered": torch.diag(torch.linspace(-1, 1, 96))[order]}
    sources = [Source(name, save_folder(tmp_path / name, {"layer.0.weight": before["layer.0.weight"] + change}), base)
               for name, change in changes.items()]  # fmt: skip
    assert noise_of(sources, base, compute) == {0: None, 1: None}


def test_few_changed_rows_are_judged_by_themselves(tmp_path: Path, compute: Compute) -> None:
    """Of an embedding only the words of the training change; rows that did not are no order."""
    before = {"embeddings.word.weight": torch.randn(400, 96, generator=torch.Generator().manual_seed(1))}
    base, coin = save_folder(tmp_path / "base", before), torch.Generator().manual_seed(2)
    sources = []
    for rows in (63, 64):
        after = {n: t.clone() for n, t in before.items()}
        after["embeddings.word.weight"][torch.randperm(400, generator=coin)[:rows]] += 0.1 * torch.randn(
            rows, 96, generator=coin
        )
        sources.append(Source(f"rows{rows}", save_folder(tmp_path / f"rows{rows}", after), base))
    found = noise_of(sources, base, compute)
    assert found[0] is None
    assert found[1] is not None


def test_the_answer_depends_neither_on_order_nor_on_who_judges(
    root: Path, trained: Callable[..., Path], tmp_path: Path, compute: Compute
) -> None:
    """Alone, turned around, and with the contributions split over processes."""
    sources = [Source("real", trained(), root), *imitations(root, trained(), tmp_path)]
    measures = measure(sources, root, compute)
    found = find_order(sources, root, measures, compute)
    turned = noise_of(sources[::-1], root, compute)
    assert {3 - i: apart for i, apart in turned.items()} == {i: found[i] for i in (1, 2, 3)}
    assert noise_of(sources[2:3], root, compute) == {0: found[2]}
    shares: list[Any] = []
    facts = {"processes": 3, "threads": 2, "one_thread_each": compute.one_thread_each}
    for gather in (lambda value: shares.append(value) or [value], lambda value: shares):
        peers: list[Any] = [SimpleNamespace(rank=rank, gather=gather, **facts) for rank in range(3)]
        told = [find_order(sources, root, measures, peer) for peer in peers]
    assert told == [found] * 3


def test_a_large_model_costs_a_bounded_number_of_matrices(
    tmp_path: Path, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise is judged by 32 of 200 matrices, training by the first one that has an order."""
    before = {f"layer.{i}.weight": torch.randn(64, 64) for i in range(200)}
    base = save_folder(tmp_path / "base", before)
    ordered = {n: t + torch.randn(64, 1) @ torch.randn(1, 64) for n, t in before.items()}
    random = {n: t + torch.randn(64, 64) for n, t in before.items()}
    judged: list[str] = []
    read = module._read
    monkeypatch.setattr(module, "_read", lambda *given: judged.append(given[-1]) or read(*given))
    for made, count in ((random, module.JUDGED), (ordered, 1)):
        judged.clear()
        noise_of([Source("x", save_folder(tmp_path / str(count), made), base)], base, compute)
        assert len(set(judged)) == len(judged) == count
