"""The arithmetic for GPUs, run by torch on the CPU, gives what the compiled one gives; tests/gpu runs it on CUDA.

The CPU does the same operations in the same order, so elementwise methods must give the same bytes. Where sums over a
tensor decide (Gram matrices, decompositions, products of factors) a float32 may differ by a few roundings.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.errors import WeightsError
from hub_fusion.merge import BoundMethod, find_method, merge_methods
from hub_fusion.merge import inputs as defined
from hub_fusion.weights import cuda, lanes, tensors
from hub_fusion.weights.checkpoint import SINGLE, TORCH_NAMES, Checkpoint
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.cuda import TorchArithmetic
from hub_fusion.weights.cuts import find_cuts
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.device import DeviceReader
from hub_fusion.weights.fuse import FusePlan, describe, fuse
from hub_fusion.weights.lanes import Room
from hub_fusion.weights.pieces import Piece, keep_by_rank
from hub_fusion.weights.reading import Reader

from .tiny import model, save_folder, saved, started_from, trained

SHAPES = {
    "body.matrix": (24, 10), "body.bias": (37,), "body.scalar": (), "body.empty": (0, 3), "body.cube": (6, 3, 4),
    "body.row": (1, 9), "lm_head.weight": (5, 8), "classifier.weight": (2, 4),
}  # fmt: skip
SMALL, LARGE = 8, 10**7
METHODS = [(name, {}) for name in sorted(merge_methods())] + [
    ("ties", {"within": "model"}), ("ties", {"density": 0.5, "votes": "frequency"}), ("ties", {"density": 1.0}),
    ("dare", {"rescale": "norm"}), ("dare_ties", {"density": 0.5}), ("breadcrumbs", {"within": "tensor"}),
    ("sce", {"select": 0.5}),
]  # fmt: skip
SUMMING = {"geometric_median", "karcher", "model_stock", "sce"}  # numpy and torch round Gram matrices differently


class OnTorch(Compute):
    """This process with the arithmetic of a GPU, on the CPU."""

    made: TorchArithmetic

    def arithmetic(self, formula: BoundMethod, plan: FusePlan) -> TorchArithmetic:
        self.made = TorchArithmetic(formula, plan.step, plan.seed, "cpu")
        return self.made


def tensors_like(seed: int, size: float, start: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Random tensors, or `start` with noise."""
    random = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=random) * size for name, shape in SHAPES.items()}
    return made if start is None else {name: start[name] + made[name] for name in SHAPES}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an older generation, four finetunes with statistics; one lacks the shared head, one started earlier."""
    folder = tmp_path_factory.mktemp("cuda")
    base = tensors_like(0, 1.0)
    save_folder(folder / "base", base)
    save_folder(folder / "gen-0", tensors_like(9, 0.01, base))
    for i, name in enumerate("abcd"):
        made = tensors_like(i + 1, 0.1, base)
        if name == "b":
            del made["lm_head.weight"]
        save_folder(folder / name, made)
        random = torch.Generator().manual_seed(i)
        statistics = {f"fisher/{n}": torch.rand(SHAPES[n], generator=random) for n in ("body.matrix", "body.bias")}
        inputs = torch.randn((20, 10), generator=random)
        (folder / name / "fusion").mkdir()
        save_file(statistics | {"activations/body.matrix": inputs.T @ inputs / 20},
                  folder / name / "fusion" / "statistics.safetensors")  # fmt: skip
    return folder


def sources_of(world: Path) -> tuple[Source, ...]:
    """Different weights, caps and generations."""
    return tuple(
        Source(name, world / name, world / ("gen-0" if name == "c" else "base"), weight=1 + i, scale=0.5 if i else 1.0)
        for i, name in enumerate("abcd")
    )


def both(out: Path, base: Path, sources: Sequence[Source], method: str = "mean", **plan: Any) -> list[bytes]:
    """The file as the CPU's arithmetic makes it, and as the GPU's does."""
    for compute in (Compute(), OnTorch()):
        fuse(FusePlan(base, out / type(compute).__name__, tuple(sources), method, **plan), compute)
    return [(out / name / SINGLE).read_bytes() for name in ("Compute", "OnTorch")]


def blocks_of(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """Blocks of so many elements at most, whoever computes."""
    monkeypatch.setattr(tensors, "LEAST", 1)
    monkeypatch.setattr(tensors, "MOST", elements)
    monkeypatch.setattr(cuda, "DEVICE_ELEMENTS", tensors.TORCH_ELEMENTS if elements < 10**6 else 2**24)


@pytest.mark.parametrize("elements", [SMALL, LARGE])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
def test_every_method_gives_what_it_gives_on_the_cpu(
    world: Path, tmp_path: Path, method: str, options: dict[str, Any], elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks and whole, with caps, weights, a contribution from an earlier generation and one without the head."""
    blocks_of(monkeypatch, elements)
    theirs, ours = both(tmp_path, world / "base", sources_of(world), method, options=options, step=0.7, heads="keep")
    if method not in SUMMING:
        assert ours == theirs
    expected = load_file(tmp_path / "Compute" / SINGLE)
    for name, tensor in load_file(tmp_path / "OnTorch" / SINGLE).items():
        torch.testing.assert_close(tensor, expected[name], rtol=2**-22, atol=2**-22)


@pytest.mark.parametrize("out", [None, "BF16", "F32"])
@pytest.mark.parametrize("finetune", ["F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("base", ["F8_E4M3", "F16", "BF16", "F32", "F64"])
def test_every_dtype_is_read_and_written(tmp_path: Path, base: str, finetune: str, out: str | None) -> None:
    """Bytes equal to the CPU's: reading is exact, and both round to nearest, ties to even."""
    out = out or ("F16" if base == "F8_E4M3" else None)
    start = {n: t.to(getattr(torch, TORCH_NAMES[base])) for n, t in tensors_like(0, 1.0).items()}
    folders = []
    for i in (1, 2):
        made = tensors_like(i, 0.1, {n: t.float() for n, t in start.items()})
        folders.append(save_folder(tmp_path / str(i), {n: t.to(getattr(torch, TORCH_NAMES[finetune]))
                                                       for n, t in made.items()}))  # fmt: skip
    save_folder(tmp_path / "base", start)
    sources = [Source(folder.name, folder, tmp_path / "base") for folder in folders]
    theirs, ours = both(tmp_path, tmp_path / "base", sources, "ties", dtype=out)
    assert ours == theirs


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_8_bit_floats_are_read_as_the_cpu_reads_them(tmp_path: Path, dtype: str) -> None:
    """All 256 of them, NaN and infinities too."""
    codes = torch.arange(256, dtype=torch.uint8).view(getattr(torch, TORCH_NAMES[dtype]))
    checkpoint = Checkpoint.open(save_folder(tmp_path / "fp8", {"w": codes}))
    work: Any = SimpleNamespace(name="w", blocks=[(0, 256)], range=lambda start, stop: (start, stop))
    found = DeviceReader(torch.device("cpu"), 1).there(checkpoint, [Piece(work, 0)])
    assert np.array_equal(found.numpy(), Reader().whole(checkpoint, "w"), equal_nan=True)


@pytest.mark.parametrize("kind", ["lora", "dora", "lora with biases", "ia3", "tokens", "saved modules"])
@pytest.mark.parametrize("method", ["mean", "ties", "della", "karcher"])
def test_adapters_change_what_they_change_on_the_cpu(tmp_path: Path, kind: str, method: str) -> None:
    """Two adapters of a kind and a finetune; products of factors may be rounded differently."""
    import peft

    base = saved(model("BertModel"), tmp_path / "base")
    settings: dict[str, Any] = {
        "lora": peft.LoraConfig(r=3, target_modules=["query", "value"]),
        "dora": peft.LoraConfig(r=3, target_modules=["query"], use_dora=True),
        "lora with biases": peft.LoraConfig(r=3, target_modules=["key"], lora_bias=True),
        "ia3": peft.IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]),
        "tokens": peft.LoraConfig(r=2, target_modules=["key"],
                                  trainable_token_indices={"word_embeddings": [3, 1, 17]}),
        "saved modules": peft.LoraConfig(r=2, target_modules=["key"], modules_to_save=["word_embeddings"]),
    }  # fmt: skip
    sources = [Source("full", saved(trained(started_from("BertModel", base)), tmp_path / "full"), base)]
    for i in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT says what it mends and saves
            made = peft.get_peft_model(started_from("BertModel", base), settings[kind])
            random = torch.Generator().manual_seed(i)
            with torch.no_grad():
                for parameter in (p for p in made.parameters() if p.requires_grad):
                    parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.05)
            made.save_pretrained(tmp_path / str(i))
        sources.append(Source(f"adapter-{i}", tmp_path / str(i), base, "adapter", scale=0.9))
    both(tmp_path, base, sources, method)
    expected, start = (load_file(tmp_path / place / SINGLE) for place in ("Compute", "base"))
    moved = 0
    for name, tensor in load_file(tmp_path / "OnTorch" / SINGLE).items():
        torch.testing.assert_close(tensor, expected[name], rtol=2**-22, atol=2**-22)
        moved += not torch.equal(tensor, start[name])
    assert moved


@pytest.mark.parametrize("method", ["mean", "ties", "dare_ties"])
def test_small_tensors_go_to_the_device_together(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A hundred tensors of experts cost a few calls of the formula, not a hundred; the bytes are the same."""
    random = torch.Generator().manual_seed(0)
    shapes = {f"body.{i}": (i % 5, 3) if i % 2 else (i % 7,) for i in range(100)}
    base = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    save_folder(tmp_path / "base", base)
    sources = []
    for i in range(3):
        made = {n: t + torch.randn(t.shape, generator=random).round() / 8 for n, t in base.items()}
        sources.append(Source(str(i), save_folder(tmp_path / str(i), made), tmp_path / "base"))
    calls: list[int] = []
    fuse_one = TorchArithmetic._fuse

    def counted(self: TorchArithmetic, pieces: Sequence[Piece], base: Any) -> Any:
        calls.append(len(pieces))
        return fuse_one(self, pieces, base)

    monkeypatch.setattr(TorchArithmetic, "_fuse", counted)
    theirs, ours = both(tmp_path, tmp_path / "base", sources, method)
    assert ours == theirs
    assert calls == [sum(t.numel() > 0 for t in base.values())]


def test_threads_and_runs_change_no_byte(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a generation reproducible on the same kind of device."""
    blocks_of(monkeypatch, SMALL)
    found = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr(TorchArithmetic, "threads", lambda self, available, n=threads: n)
        plan = FusePlan(world / "base", tmp_path / str(threads), sources_of(world), "sce")
        found.add(fuse(plan, OnTorch()).weights_sha256)
    assert len(found) == 1


def test_stored_bytes_cross_in_as_many_buffers_as_they_need(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor larger than a buffer, and several in one, arrive in order."""
    monkeypatch.setattr(lanes, "SLOT_BYTES", 56)
    theirs, ours = both(tmp_path, world / "base", sources_of(world), "mean")
    assert ours == theirs


# what cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["finetune", "base", "generation", "too large", "adapter"])
def test_what_is_not_finite_is_named_as_on_the_cpu(tmp_path: Path, fault: str) -> None:
    """File, tensor and index, also of one tensor among many that go together."""
    dtype = torch.float16 if fault == "too large" else torch.float32
    start = {f"body.{i}": torch.zeros(3, 4, dtype=dtype) for i in range(5)}
    made = {name: tensor + 1 for name, tensor in start.items()}
    origin = dict(start)
    if fault == "finetune":
        made["body.3"][1, 2] = torch.nan
    if fault == "base":
        start["body.3"][1, 2] = torch.inf
    if fault == "generation":
        origin["body.3"] = torch.full((3, 4), torch.inf)
    if fault == "too large":
        start["body.3"] = torch.full((3, 4), 60000.0, dtype=dtype)
        made["body.3"] = torch.full((3, 4), 60000.0, dtype=dtype)
    base = save_folder(tmp_path / "base", start)
    source = Source("a", save_folder(tmp_path / "a", made), save_folder(tmp_path / "gen-0", origin))
    if fault == "adapter":
        (tmp_path / "a" / "adapter_config.json").write_text(
            '{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["3"]}'
        )
        base = save_folder(tmp_path / "base", {"body.3.weight": torch.zeros(3, 4)})
        name = "base_model.model.body.3.lora_{}.weight"
        save_file({name.format("A"): torch.full((1, 4), torch.nan), name.format("B"): torch.ones(3, 1)},
                  tmp_path / "a" / "adapter_model.safetensors")  # fmt: skip
        source = Source("a", tmp_path / "a", base, "adapter")
    told = []
    for compute in (Compute(), OnTorch()):
        with pytest.raises(WeightsError) as error:
            fuse(FusePlan(base, tmp_path / "out", (source,)), compute)
        told.append(str(error.value))
    assert told[0] == told[1]
    assert "body.3" in told[0] or "lora_A" in told[0]


@pytest.mark.parametrize("times", [1, 100])
def test_running_out_of_memory_is_survived_or_explained(
    world: Path, tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer threads at once, with blocks of the same size and so the same bytes; if one does not fit, a remedy."""
    blocks_of(monkeypatch, SMALL)
    merged, left = TorchArithmetic._merged, [times]

    def short(self: TorchArithmetic, pieces: Sequence[Piece], deltas: torch.Tensor) -> torch.Tensor:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. And more")
        return merged(self, pieces, deltas)

    monkeypatch.setattr(TorchArithmetic, "_merged", short)
    compute = OnTorch()
    plan = FusePlan(world / "base", tmp_path / "out", sources_of(world))
    if times == 100:
        with pytest.raises(WeightsError, match=r"memory of the device \(CUDA out of memory\): take fewer"):
            fuse(plan, compute)
        return
    report = fuse(plan, compute)
    assert compute.made.reader.room.most < cuda.MOST_THREADS
    assert report.files == fuse(FusePlan(plan.base, tmp_path / "cpu", plan.sources), Compute()).files


def test_a_room_lets_in_as_many_as_fit() -> None:
    """One fewer after each failure, until all had their turn; whoever fails otherwise leaves the place to others."""
    room, here, most = Room(4), threading.Barrier(4), []
    first = threading.local()

    def task() -> None:
        if not hasattr(first, "over"):
            first.over = True
            here.wait()
        most.append(room._inside)
        if room._inside > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. And more")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: room.carry_out(task), range(4)))
    assert max(most) > 2 and room.most in (1, 2, 3)
    with pytest.raises(ZeroDivisionError):
        room.carry_out(lambda: 1 / 0)
    assert room.carry_out(lambda: room._inside) == 1


# thresholds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_thresholds_are_the_cpus(coarse: bool, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted on the device or sorted, held or read again: the same elements, ties by lowest index."""
    random = np.random.default_rng(3)
    delta = random.standard_normal(5000).astype(np.float32)
    delta = np.round(delta * 4).astype(np.float32) / 64 if coarse else delta
    ranks = (int(share * 1000), int(share * 5000))
    expected = find_cuts(lambda: [delta], ranks, len(delta))
    kept = expected[1].before(delta, 0) & ~expected[0].before(delta, 0)
    there = torch.from_numpy(delta)
    for held in (0, 2**26):
        monkeypatch.setattr(cuda, "HELD", held)
        lead, last = cuda._find_cuts(lambda: there.split(777), ranks, len(delta))
        assert (last.before(delta, 0) & ~lead.before(delta, 0) == kept).all()
    work: Any = SimpleNamespace(blocks=[(0, 5000)], range=lambda start, stop: (start, stop))
    found = keep_by_rank([Piece(work, 0)], there.reshape(1, -1), [ranks])
    assert (found[0].numpy() == kept).all()


def test_noise_at_any_index_is_that_of_a_block() -> None:
    """Also beyond 2³² elements."""
    block = defined.noise_like(torch.zeros(9), 2**33 - 4, seed=1, tensor="t", contribution="c")
    index = torch.arange(2**33 - 4, 2**33 + 5)
    keys = [torch.full((9,), key) for key in defined.noise_keys(1, "t", "c")]
    assert torch.equal(defined.noise_at(index, keys[0], keys[1]), block)


def test_a_dry_run_tries_a_block_on_the_device(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the CPU, whose time would tell nothing."""
    tried: list[int] = []
    fuse_one = TorchArithmetic._fuse

    def counted(self: TorchArithmetic, pieces: Sequence[Piece], base: Any) -> Any:
        tried.append(len(pieces))
        return fuse_one(self, pieces, base)

    monkeypatch.setattr(TorchArithmetic, "_fuse", counted)
    found = describe(FusePlan(world / "base", tmp_path / "out", sources_of(world)), OnTorch())
    assert found["seconds"] > 0
    assert tried == [1, 1]


def test_methods_with_a_compiled_twin_have_it_on_the_cpu_only() -> None:
    """On a device the torch formula runs."""
    assert Compute().arithmetic(find_method("mean").bind({}), FusePlan(Path(), Path(), ())).twin
    assert OnTorch().arithmetic(find_method("mean").bind({}), FusePlan(Path(), Path(), ())).twin is None
