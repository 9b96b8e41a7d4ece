"""The engine's laws: what it writes is the base plus the merged changes, whoever computes it and in whatever order."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hub_fusion.errors import HubFusionError, MergeError, WeightsError
from hub_fusion.weights import fuse as engine
from hub_fusion.weights import tensors as blocks
from hub_fusion.weights.checkpoint import SINGLE, Checkpoint
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source, row_blocks
from hub_fusion.weights.fuse import FusePlan, FuseReport, describe, folder_sha256, fuse
from hub_fusion.weights.local import fuse_models
from hub_fusion.weights.share import shares

from .tiny import BERT, model, save_folder, saved, started_from, trained


@pytest.fixture(scope="module")
def compute() -> Compute:
    """This process alone."""
    return Compute()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, in the reference's reading."""
    return {name: tensor for file in Checkpoint.open(folder).files for name, tensor in load_file(folder / file).items()}


def noisy(tensors: Mapping[str, torch.Tensor], seed: int, size: float = 0.01) -> dict[str, torch.Tensor]:
    """What training makes of them: noise on floats, integers as they are."""
    source = torch.Generator().manual_seed(seed)
    return {
        name: t + (torch.randn(t.shape, generator=source) * size).to(t.dtype) if t.is_floating_point() else t.clone()
        for name, t in tensors.items()
    }


def layers(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    """A body of odd shapes with a buffer; its names have one prefix, so that added tensors are noticed."""
    source = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (7, 5), "vector": (5,), "scalar": (), "cube": (3, 1, 2), "none": (0, 4), "row": (1, 9)}
    made = {f"body.{name}": torch.randn(shape, generator=source).to(dtype) for name, shape in shapes.items()}
    return made | {"body.position_ids": torch.arange(4).reshape(1, 4)}


def step_of(value: torch.Tensor) -> torch.Tensor:
    """Half the distance of neighbouring floats at each value: the rounding of one operation."""
    return value.abs() * torch.finfo(value.dtype).eps


def run(compute: Compute, base: Path, out: Path, *folders: Path, **plan: Any) -> FuseReport:
    """Finetunes of `base` fused with equal weights."""
    sources = tuple(Source(folder.name, folder, base) for folder in folders)
    return fuse(FusePlan(base, out, sources, **plan), compute)


# identities ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_copies_of_a_finetune_fuse_to_that_finetune(
    tmp_path: Path, compute: Compute, copies: int, dtype: torch.dtype
) -> None:
    """Within the roundings of finetune − base, of the mean, and of the sum; for 16 bits within one of their steps."""
    base = save_folder(tmp_path / "base", layers(dtype))
    finetune = noisy(layers(dtype), seed=1)
    folders = [save_folder(tmp_path / f"copy{i}", finetune) for i in range(copies)]
    run(compute, base, tmp_path / "out", *folders)
    for name, fused in weights(tmp_path / "out").items():
        assert fused.dtype == finetune[name].dtype
        wide = torch.maximum(finetune[name].abs(), weights(base)[name].abs()).double()
        change = (finetune[name].double() - weights(base)[name].double()).abs()
        eps = torch.finfo(dtype).eps if fused.is_floating_point() else 0.0
        allowed = eps * wide + (copies + 2) * 2**-24 * change
        assert ((fused.double() - finetune[name].double()).abs() <= allowed).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_base_fused_with_itself_gives_its_bytes(tmp_path: Path, compute: Compute, dtype: torch.dtype) -> None:
    """Also where they are zeros with a sign, subnormal numbers, or need all 53 bits of a float64."""
    tensors = layers(dtype)
    tensors["body.row"] = torch.tensor(
        [[0.0, -0.0, 1e-7, -1e-7, 2**-24, 1 / 3, -1 / 3, 65504.0, -65504.0]], dtype=torch.float64
    ).to(dtype)
    base = save_folder(tmp_path / "base", tensors)
    report = run(
        compute, base, tmp_path / "out", save_folder(tmp_path / "a", tensors), save_folder(tmp_path / "b", tensors)
    )
    assert (tmp_path / "out" / SINGLE).read_bytes() == (base / SINGLE).read_bytes()
    assert report.weights_sha256 == folder_sha256(base) == folder_sha256(tmp_path / "out")


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    shares=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=4).filter(lambda shares: sum(shares) > 0.1),
    step=st.floats(0.05, 1.0),
    seed=st.integers(0, 999),
    block=st.integers(1, 40),
)
def test_fusing_equals_a_naive_reference(
    shape: tuple[int, ...], shares: list[float], step: float, seed: int, block: int
) -> None:
    """base + step · Σ wᵢ(finetuneᵢ − base) / Σ wᵢ in float64, for every shape, every weighting and every block size."""
    source = torch.Generator().manual_seed(seed)
    base = {"body.w": torch.randn(shape, generator=source), "body.v": torch.randn(4, generator=source)}
    finetunes = [noisy(base, seed + i + 1, size=0.5) for i in range(len(shares))]
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LEAST", block)
        patch.setattr(blocks, "MOST", block)
        root = Path(place)
        folder = save_folder(root / "base", base)
        sources = tuple(
            Source(f"f{i}", save_folder(root / f"f{i}", tensors), folder, weight=share)
            for i, (tensors, share) in enumerate(zip(finetunes, shares, strict=True))
        )
        fuse(FusePlan(folder, root / "out", sources, step=step), Compute())
        fused = weights(root / "out")
    for name, start in base.items():
        total = sum(share * (f[name].double() - start.double()) for share, f in zip(shares, finetunes, strict=True))
        expected = start.double() + step * total / sum(shares)  # type: ignore[operator]
        torch.testing.assert_close(fused[name].double(), expected, rtol=1e-6, atol=2e-6)


def test_neither_order_nor_processes_nor_their_number_change_a_byte(tmp_path: Path, compute: Compute) -> None:
    """Contributions are ordered by key; every process writes its own tensors at known offsets."""
    base = save_folder(tmp_path / "base", layers(), shards=2)
    sources = [
        Source(f"user{i}/m@{i}", save_folder(tmp_path / str(i), noisy(layers(), i + 1)), base, weight=1 / (i + 1))
        for i in range(5)
    ]
    one = fuse(FusePlan(base, tmp_path / "one", tuple(sources)), compute)
    other = fuse(FusePlan(base, tmp_path / "other", (sources[3], sources[0], *sources[1:3], sources[4])), compute)
    assert other.files == one.files
    specs = list(Checkpoint.open(base).values())
    for processes in (1, 2, 3, 20):
        dealt = shares(specs, processes)
        assert sorted(s.name for share in dealt for s in share) == sorted(s.name for s in specs)


def test_blocks_of_rows_cover_every_row_once() -> None:
    """Whatever the shape; one row at least, however wide it is."""
    assert row_blocks(1, 1, 4) == [(0, 1)]
    assert row_blocks(0, 3, 4) == row_blocks(3, 0, 4) == []
    assert row_blocks(5, 3, 6) == [(0, 2), (2, 4), (4, 5)]
    assert row_blocks(2, 100, 6) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("step", [1.0, 0.5, 0.25])
def test_a_step_goes_part_of_the_way(tmp_path: Path, compute: Compute, step: float) -> None:
    """base + α · (merged − base)."""
    base = save_folder(tmp_path / "base", layers())
    finetune = noisy(layers(), 1, size=1.0)
    run(compute, base, tmp_path / "out", save_folder(tmp_path / "a", finetune), step=step)
    for name, fused in weights(tmp_path / "out").items():
        start = weights(base)[name]
        if start.is_floating_point():
            torch.testing.assert_close(fused, start + step * (finetune[name] - start), rtol=1e-6, atol=1e-6)


def test_a_scale_shortens_one_task_vector(tmp_path: Path, compute: Compute) -> None:
    """What the norm cap asks for: half of a change and the whole of another, then their mean."""
    base = save_folder(tmp_path / "base", {"body.w": torch.zeros(2)})
    long = Source("a", save_folder(tmp_path / "a", {"body.w": torch.tensor([8.0, 0.0])}), base, scale=0.5)
    short = Source("b", save_folder(tmp_path / "b", {"body.w": torch.tensor([0.0, 2.0])}), base)
    fuse(FusePlan(base, tmp_path / "out", (long, short)), compute)
    assert weights(tmp_path / "out")["body.w"].tolist() == [2.0, 1.0]


def test_late_contributions_count_from_their_own_generation(tmp_path: Path, compute: Compute) -> None:
    """A finetune of gen-0 fused onto gen-1 brings what it learnt; gen-1's own progress stays."""
    origin = save_folder(tmp_path / "gen0", {"body.w": torch.tensor([1.0, 1.0])})
    base = save_folder(tmp_path / "gen1", {"body.w": torch.tensor([2.0, 1.0])})
    late = Source("late", save_folder(tmp_path / "late", {"body.w": torch.tensor([1.0, 5.0])}), origin)
    fresh = Source("fresh", save_folder(tmp_path / "fresh", {"body.w": torch.tensor([2.0, 3.0])}), base)
    fuse(FusePlan(base, tmp_path / "out", (late, fresh)), compute)
    assert weights(tmp_path / "out")["body.w"].tolist() == [2.0, 1.0 + (4.0 + 2.0) / 2]


# heads, buffers, ties ------------------------------------------------------------------------------------------------


def test_shared_heads_are_fused_over_those_that_have_them(tmp_path: Path, compute: Compute) -> None:
    """Weights 1 and 3 add up to 1 among the two that have the head; the third has no say on it, but on the body."""
    start = {"body.w": torch.zeros(1), "lm_head.weight": torch.zeros(1)}
    base = save_folder(tmp_path / "base", start)
    values = {"a": (4.0, 4.0, 1.0), "b": (8.0, 8.0, 3.0), "c": (12.0, None, 4.0)}
    sources = []
    for key, (body, head, weight) in values.items():
        tensors = {"body.w": torch.tensor([body])} | ({} if head is None else {"lm_head.weight": torch.tensor([head])})
        sources.append(Source(key, save_folder(tmp_path / key, tensors), base, weight=weight))
    fuse(FusePlan(base, tmp_path / "out", tuple(sources)), compute)
    fused = weights(tmp_path / "out")
    assert fused["lm_head.weight"].item() == (4 + 3 * 8) / 4
    assert fused["body.w"].item() == (4 + 3 * 8 + 4 * 12) / 8


def test_a_shared_head_that_nobody_with_a_vote_has_stays_the_bases(tmp_path: Path, compute: Compute) -> None:
    """A weight of zero is no vote: shared out among nobody it would be NaN."""
    base = save_folder(tmp_path / "base", {"body.w": torch.zeros(1), "lm_head.weight": torch.ones(1)})
    voter = Source("a", save_folder(tmp_path / "a", {"body.w": torch.ones(1)}), base)
    silent = Source("b", save_folder(tmp_path / "b", {"body.w": torch.ones(1), "lm_head.weight": torch.zeros(1)}), base,
                    weight=0.0)  # fmt: skip
    fuse(FusePlan(base, tmp_path / "out", (voter, silent)), compute)
    assert weights(tmp_path / "out")["lm_head.weight"].tolist() == [1.0]


def test_a_contribution_without_a_vote_has_no_influence(tmp_path: Path, compute: Compute) -> None:
    """Not even where its values are infinite: 0 · ∞ is NaN."""
    base = save_folder(tmp_path / "base", {"body.w": torch.zeros(2)})
    voter = Source("a", save_folder(tmp_path / "a", {"body.w": torch.ones(2)}), base)
    silent = Source("b", save_folder(tmp_path / "b", {"body.w": torch.full((2,), math.inf)}), base, weight=0.0)
    fuse(FusePlan(base, tmp_path / "out", (voter, silent)), compute)
    assert weights(tmp_path / "out")["body.w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("heads", ["drop", "keep"])
def test_task_heads_are_dropped_or_kept_as_they_are_but_never_fused(
    tmp_path: Path, compute: Compute, heads: Any
) -> None:
    """A classifier of one task is noise to another."""
    base = saved(model("BertForSequenceClassification"), tmp_path / "base")
    finetune = saved(trained(started_from("BertForSequenceClassification", base)), tmp_path / "a")
    report = run(compute, base, tmp_path / "out", finetune, heads=heads)
    fused, before = weights(tmp_path / "out"), weights(base)
    names = {"classifier.weight", "classifier.bias"}
    assert set(report.dropped) == (names if heads == "drop" else set())
    assert set(before) - set(fused) == set(report.dropped)
    assert all(torch.equal(fused[name], before[name]) for name in names & set(fused))
    assert not torch.equal(fused["bert.pooler.dense.weight"], before["bert.pooler.dense.weight"])


def test_buffers_of_integers_are_the_bases(tmp_path: Path, compute: Compute) -> None:
    """position_ids are counted, not learnt."""
    base = save_folder(tmp_path / "base", layers())
    other = layers() | {"body.position_ids": torch.full((1, 4), 9)}
    run(compute, base, tmp_path / "out", save_folder(tmp_path / "a", other))
    assert weights(tmp_path / "out")["body.position_ids"].tolist() == [[0, 1, 2, 3]]


def test_tied_weights_are_stored_and_fused_once(tmp_path: Path, compute: Compute) -> None:
    """GPT-2's head is its embedding; the fused model has both moved, and still tied."""
    from transformers import GPT2LMHeadModel

    base = saved(model("GPT2LMHeadModel"), tmp_path / "base")
    finetune = saved(trained(started_from("GPT2LMHeadModel", base)), tmp_path / "a")
    run(compute, base, tmp_path / "out", finetune)
    assert set(weights(tmp_path / "out")) == set(weights(base))
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    expected = GPT2LMHeadModel.from_pretrained(finetune).lm_head.weight
    torch.testing.assert_close(loaded.lm_head.weight, expected, rtol=0, atol=1e-7)


def test_what_an_adapter_does_not_touch_counts_as_no_change(tmp_path: Path, compute: Compute) -> None:
    """It voted for leaving it: one finetune and one adapter move such a tensor half of the finetune's way."""
    from peft import LoraConfig, get_peft_model

    base = saved(model("BertModel"), tmp_path / "base")
    finetune = saved(trained(started_from("BertModel", base)), tmp_path / "a")
    adapter = get_peft_model(started_from("BertModel", base), LoraConfig(r=2, target_modules=["query"],
                                                                         init_lora_weights=False))  # fmt: skip
    adapter.save_pretrained(tmp_path / "b")
    saved(adapter.merge_and_unload(), tmp_path / "merged")
    sources = (Source("a", finetune, base), Source("b", tmp_path / "b", base, "adapter"))
    fuse(FusePlan(base, tmp_path / "out", sources), compute)
    fused, start, one, other = (weights(tmp_path / place) for place in ("out", "base", "a", "merged"))
    for name in start:
        share = one[name] if "pooler" in name else (one[name] + other[name]) / 2  # on the pooler it has no say
        torch.testing.assert_close(fused[name], share, rtol=0, atol=1e-6, msg=name)


# dtypes and layouts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("finetune_dtype", [torch.float32, None], ids=["float32 finetunes", "16-bit finetunes"])
def test_16_bit_bases_are_fused_in_32_bits(
    tmp_path: Path, compute: Compute, dtype: torch.dtype, finetune_dtype: torch.dtype | None
) -> None:
    """The result is the float32 result rounded once: within one 16-bit step of it."""
    base = save_folder(tmp_path / "base", layers(dtype))
    finetunes = [noisy(layers(finetune_dtype or dtype), i, size=0.1) for i in (1, 2, 3)]
    run(compute, base, tmp_path / "out", *(save_folder(tmp_path / f"{i}", f) for i, f in enumerate(finetunes)))
    for name, start in layers(dtype).items():
        if not start.is_floating_point():
            continue
        mean = sum(f[name].float() - start.float() for f in finetunes) / 3
        expected = start.float() + mean
        fused = weights(tmp_path / "out")[name]
        assert fused.dtype == dtype
        assert ((fused.float() - expected).abs() <= step_of(expected.to(dtype)).float() + 1e-7).all(), name


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_another_output_dtype_can_be_asked_for(tmp_path: Path, compute: Compute, dtype: str) -> None:
    """Values as close as the dtype allows; integers stay."""
    base = save_folder(tmp_path / "base", layers())
    run(compute, base, tmp_path / "out", save_folder(tmp_path / "a", noisy(layers(), 1)), dtype=dtype)
    out = Checkpoint.open(tmp_path / "out")
    assert {spec.dtype for spec in out.values()} == {dtype, "I64"}
    for name, tensor in weights(tmp_path / "out").items():
        torch.testing.assert_close(tensor.double(), noisy(layers(), 1)[name].double(), rtol=1e-2, atol=1e-6)


def test_the_configuration_says_the_dtype_that_was_asked_for(tmp_path: Path, compute: Compute) -> None:
    """from_pretrained goes by it: a model written in 16 bits would be loaded in 32."""
    from transformers import AutoModel

    base = saved(model("BertModel"), tmp_path / "base")
    assert "float32" in (base / "config.json").read_text()
    run(compute, base, tmp_path / "out", saved(trained(started_from("BertModel", base)), tmp_path / "a"), dtype="BF16")
    assert AutoModel.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    nested = {"dtype": "float32", "text_config": {"torch_dtype": "float32", "d": 1}, "quant": {"dtype": 3}, "x": None}
    for text in (json.dumps(nested), "{", "[]"):
        (base / "config.json").write_text(text)
        run(compute, base, tmp_path / "out", tmp_path / "a", dtype="F16")
    assert (tmp_path / "out" / "config.json").read_text() == "[]"
    (base / "config.json").write_text(json.dumps(nested))
    run(compute, base, tmp_path / "out", tmp_path / "a", dtype="F16")
    expected = nested | {"dtype": "float16", "text_config": {"torch_dtype": "float16", "d": 1}}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == expected


@pytest.mark.parametrize("base_shards", [1, 3])
@pytest.mark.parametrize("shards", [1, 2])
def test_base_and_contributions_may_be_sharded_differently(
    tmp_path: Path, compute: Compute, base_shards: int, shards: int
) -> None:
    """The output has the base's files, the contributions may have any."""
    base = save_folder(tmp_path / "base", layers(), shards=base_shards)
    report = run(compute, base, tmp_path / "out", save_folder(tmp_path / "a", noisy(layers(), 1), shards=shards))
    assert list(report.files) == Checkpoint.open(base).files
    whole = save_folder(tmp_path / "whole", layers())
    run(compute, whole, tmp_path / "expected", save_folder(tmp_path / "b", noisy(layers(), 1)))
    fused, expected = weights(tmp_path / "out"), weights(tmp_path / "expected")
    assert fused.keys() == expected.keys()
    assert all(torch.equal(fused[name], expected[name]) for name in fused)


def test_the_output_is_a_base_to_finetune_from(tmp_path: Path, compute: Compute) -> None:
    """from_pretrained with any number of labels: everything but the new classifier comes from the fused weights."""
    from transformers import BertForSequenceClassification

    base = saved(model("BertForMaskedLM"), tmp_path / "base")
    (base / "vocab.txt").write_text("[UNK]\n")
    (base / "pytorch_model.bin").write_bytes(b"pickle")
    (base / "modeling_own.py").write_text("print('code')")
    (base / "README.md").write_text("# card")
    folders = []
    for i, kind in enumerate(("BertForSequenceClassification", "BertForTokenClassification", "BertForMaskedLM")):
        folders.append(saved(trained(started_from(kind, base), seed=i), tmp_path / f"f{i}"))
    (base / "adapter_config.json").write_text("{}")  # from_pretrained would look for an adapter
    run(compute, base, tmp_path / "out", *folders)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", SINGLE, "vocab.txt"]
    loaded, report = BertForSequenceClassification.from_pretrained(
        tmp_path / "out", num_labels=5, output_loading_info=True
    )
    missing = {"classifier.bias", "classifier.weight", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert set(report["missing_keys"]) == missing
    assert not report["mismatched_keys"]
    assert loaded.classifier.out_features == 5
    assert all(p.isfinite().all() for p in loaded.bert.encoder.parameters())


def test_an_old_output_is_replaced_and_other_files_are_left_alone(tmp_path: Path, compute: Compute) -> None:
    """Shards of an earlier result would be loaded instead; weights of somebody else in that folder are not ours."""
    out = tmp_path / "out"
    run(
        compute,
        save_folder(tmp_path / "sharded", layers(), shards=3),
        out,
        save_folder(tmp_path / "a", noisy(layers(), 1)),
    )
    (out / "precious.safetensors").write_bytes(b"not ours")
    base = save_folder(tmp_path / "base", layers())
    report = run(compute, base, out, save_folder(tmp_path / "b", noisy(layers(), 2)))
    assert sorted(p.name for p in out.iterdir()) == [SINGLE, "precious.safetensors"]
    assert folder_sha256(out) == report.weights_sha256


# plans and errors ----------------------------------------------------------------------------------------------------


def test_describe_tells_what_a_plan_reads_and_writes(tmp_path: Path) -> None:
    """From headers alone: the numbers are those of the files."""
    base = saved(model("BertForSequenceClassification"), tmp_path / "base")
    finetune = saved(trained(started_from("BertForTokenClassification", base)), tmp_path / "a")
    adapter = lora(base, tmp_path / "b")
    sources = (Source("a", finetune, base, weight=2.0), Source("b", adapter, base, "adapter", scale=0.5))
    facts = describe(FusePlan(base, tmp_path / "out", sources, heads="drop"))
    kept = [spec for name, spec in Checkpoint.open(base).items() if not name.startswith("classifier")]
    assert (facts["tensors"], facts["bytes"]) == (len(kept), sum(s.size_bytes for s in kept))
    assert facts["dropped"] == ["classifier.bias", "classifier.weight"]
    body = [s for n, s in Checkpoint.open(finetune).items() if n.startswith("bert.")]
    factors = Checkpoint.open(adapter, "adapter_model.safetensors").values()
    assert [s["bytes"] for s in facts["sources"]] == [sum(s.size_bytes for s in part) for part in (body, factors)]
    assert [s["weight"] for s in facts["sources"]] == [2.0, 1.0]
    assert facts["memory_bytes"] >= 4 * 3 * max(s.size_bytes // 4 for s in kept)
    assert not (tmp_path / "out").exists()
    json.dumps(facts)


def lora(base: Path, folder: Path) -> Path:
    """A plain adapter of two layers."""
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(started_from("BertModel", base), LoraConfig(r=2, target_modules=["query"]))
    made.save_pretrained(folder)
    return folder


CHANGED = ("model.layers.0.query.weight", "model.layers.0.value.weight")


def plain_lora(folder: Path, names: Sequence[str], rank: int = 2) -> Path:
    """An adapter of matrices of 3 rows and 4 columns, written by hand."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    factors = {"lora_A": (rank, 4), "lora_B": (3, rank)}
    made = {f"base_model.model.{n.removesuffix('.weight')}.{part}.weight": torch.full(shape, 0.1)
            for n in names for part, shape in factors.items()}  # fmt: skip
    save_file(made, folder / "adapter_model.safetensors")
    return folder


def test_every_input_error_comes_before_a_byte_is_written(tmp_path: Path, compute: Compute) -> None:
    """From `describe` and from `fuse` alike, and never a half-written output."""
    base = save_folder(tmp_path / "base", layers())
    good = Source("good", save_folder(tmp_path / "good", noisy(layers(), 1)), base)
    short = {name: t for name, t in layers().items() if name != "body.vector"}
    lacking = Source("lacking", save_folder(tmp_path / "lacking", short), base)
    shaped = Source("shaped", save_folder(tmp_path / "shaped", layers() | {"body.vector": torch.ones(6)}), base)
    strange = Source("strange", good.folder, save_folder(tmp_path / "other", layers() | {"body.vector": torch.ones(6)}))
    smaller = Source("smaller", good.folder, save_folder(tmp_path / "smaller", short))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / SINGLE).write_bytes((base / SINGLE).read_bytes()[:-1])
    out = tmp_path / "out"
    copy = save_folder(tmp_path / "copy", layers())
    file = tmp_path / "file"
    file.write_text("")
    lora = plain_lora(tmp_path / "lora", CHANGED)
    plan = FusePlan(base, out, (good,))
    wrong: list[tuple[FusePlan, type[HubFusionError], str]] = [
        (replace(plan, sources=()), WeightsError, "nothing to fuse"),
        (replace(plan, sources=(good, good)), WeightsError, "named twice: good"),
        (replace(plan, sources=(good, lacking)), WeightsError, "^lacking: .*body.vector"),
        (replace(plan, sources=(good, shaped)), WeightsError, r"^shaped: .*body.vector: \[6\], the base has \[5\]"),
        (replace(plan, sources=(lacking, good, shaped)), WeightsError, "2 contributions .*: lacking: .*; shaped: "),
        (replace(plan, sources=(good, strange)), WeightsError, "strange: its generation has other shapes"),
        (replace(plan, sources=(good, smaller)), WeightsError, "smaller: its generation lacks.*body.vector"),
        (replace(plan, sources=(Source("x", tmp_path / "nowhere", base),)), WeightsError, "neither"),
        (replace(plan, sources=(Source("x", broken, base),)), WeightsError, "truncated"),
        (replace(plan, sources=(Source("x", base, broken),)), WeightsError, "truncated"),
        (replace(plan, sources=(Source("x", base, base, "adapter"),)), WeightsError, "adapter_model"),
        (replace(plan, base=tmp_path / "nowhere"), WeightsError, "neither"),
        (replace(plan, sources=(replace(good, weight=-1.0),)), WeightsError, "not negative: .*task_arithmetic"),
        (replace(plan, sources=(replace(good, weight=math.nan),)), WeightsError, "finite"),
        (replace(plan, sources=(replace(good, weight=0.0),)), WeightsError, "not all zero"),
        (replace(plan, sources=(replace(good, weight=1e308), replace(good, key="b", weight=1e308))),
         WeightsError, "finite"),
        (replace(plan, sources=(replace(good, scale=math.inf),)), WeightsError, "scale"),
        (replace(plan, step=math.nan), WeightsError, "step"),
        (replace(plan, dtype="I64"), WeightsError, "'I64'"),
        (replace(plan, out=base), WeightsError, "is an input"),
        (replace(plan, out=good.folder), WeightsError, "is an input"),
        (replace(plan, sources=(replace(good, origin=copy),), out=copy),
         WeightsError, "is an input"),
        (replace(plan, out=file), WeightsError, "not a folder"),
        (replace(plan, out=lora), WeightsError, "holds an adapter, which from_pretrained would put on top"),
        (replace(plan, method="meen"), MergeError, "no merge method 'meen'"),
        (replace(plan, options={"k": 1}), MergeError, "no option 'k'"),
    ]  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for bad, kind, message in wrong:
        for act in (lambda bad=bad: fuse(bad, compute), lambda bad=bad: describe(bad)):
            with pytest.raises(kind, match=message):
                act()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_fuse_models_keeps_the_bases_head_and_takes_folders_of_one_name(tmp_path: Path) -> None:
    """The short way in: folders, weights, dtype; names of folders may repeat."""
    base = saved(model("BertForSequenceClassification"), tmp_path / "base")
    folders = [
        saved(trained(started_from("BertForSequenceClassification", base), seed=i), tmp_path / str(i) / "final")
        for i in range(2)
    ]
    report = fuse_models(str(base), folders, str(tmp_path / "out"), weights=[3, 1], dtype="fp32")
    assert not report.dropped
    start, one, two = (weights(folder) for folder in (base, *folders))
    for name, fused in weights(tmp_path / "out").items():
        expected = start[name] if "classifier" in name else 0.75 * one[name] + 0.25 * two[name]
        torch.testing.assert_close(fused, expected, rtol=0, atol=1e-6)
    for dtype in ("I64", "int8", "fp7"):
        with pytest.raises(MergeError, match=f"no output dtype '{dtype}'"):
            fuse_models(base, folders, tmp_path / "out", dtype=dtype)
    with pytest.raises(MergeError, match="2 contributions need as many weights, not 1"):
        fuse_models(base, folders, tmp_path / "out", weights=[1])


def test_an_unaligned_base_is_fused_like_an_aligned_one(tmp_path: Path, compute: Compute) -> None:
    """Other writers leave tensors at odd offsets; ours does not, but reads them."""
    aligned = save_folder(tmp_path / "base", {"body.w": torch.arange(5.0), "body.flag": torch.tensor([True])})
    odd = tmp_path / "odd"
    odd.mkdir()
    header = {
        "body.flag": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]},
        "body.w": {"dtype": "F32", "shape": [5], "data_offsets": [1, 21]},
    }
    from .tiny import file_bytes

    (odd / SINGLE).write_bytes(file_bytes(header, b"\x01" + torch.arange(5.0).numpy().tobytes()))
    finetune = tmp_path / "a"
    finetune.mkdir()
    save_file({"body.w": torch.ones(5), "body.flag": torch.tensor([False])}, finetune / SINGLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(compute, aligned, tmp_path / "x", finetune)
        run(compute, odd, tmp_path / "y", finetune)
    assert weights(tmp_path / "y")["body.w"].tolist() == weights(tmp_path / "x")["body.w"].tolist() == [1.0] * 5
    assert weights(tmp_path / "y")["body.flag"].tolist() == [True]


def test_the_tiny_models_have_the_sizes_that_these_tests_count_on() -> None:
    """Two layers, so that a mistake in one of them shows."""
    assert BERT["num_hidden_layers"] == 2


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), None), (float("inf"), None), (1e6, "F16")])
def test_a_result_that_is_not_finite_is_an_error_that_names_the_tensor(
    tmp_path: Path, compute: Compute, value: float, dtype: str | None
) -> None:
    """NaN of an input, and numbers beyond the output's dtype, would otherwise be found by whoever loads the model."""
    base = save_folder(tmp_path / "base", {"body.weight": torch.zeros(3), "body.bias": torch.zeros(2)})
    bad = save_folder(tmp_path / "bad", {"body.weight": torch.tensor([0.0, value, 0.0]), "body.bias": torch.ones(2)})
    plan = FusePlan(base, tmp_path / "out", (Source("bad", bad, base),), dtype=dtype)
    law = (
        r"fused tensor body\.weight is not finite"
        if dtype
        else r"bad/model.safetensors: tensor body\.weight .* at \[1\]"
    )
    with pytest.raises(WeightsError, match=law):
        fuse(plan, compute)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("name", ["body.norm.weight", "classifier.weight", "model.layers.0.query.weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_nan_of_the_base_is_an_error_also_where_nobody_changed_it(
    tmp_path: Path, compute: Compute, dtype: torch.dtype, name: str, value: float
) -> None:
    """What an adapter leaves alone is copied, and the fused model would be as broken as its base; masks may be −∞."""
    made = {n: torch.ones(3, 4, dtype=dtype) for n in (*CHANGED, "body.norm.weight", "classifier.weight")}
    made["body.attn_mask"] = torch.full((2, 2), -math.inf, dtype=dtype)
    adapter = plain_lora(tmp_path / "lora", CHANGED)
    plan = FusePlan(save_folder(tmp_path / "base", made), tmp_path / "out", (), heads="keep")
    plan = replace(plan, sources=(Source("lora", adapter, plan.base, "adapter"),))
    fuse(plan, compute)
    made[name][2, 3] = value
    save_folder(tmp_path / "base", made)
    law = rf"base/model.safetensors: tensor {name} holds NaN or infinity at \[2, 3\] \(the base\)"
    with pytest.raises(WeightsError, match=law):
        fuse(plan, compute)


def test_many_contributions_of_many_shards_fit_into_a_few_open_files(tmp_path: Path, compute: Compute) -> None:
    """35 contributions of 30 shards are 1,050 files, and a process may often have 1,024 of them open."""
    made = {f"body.{i}.weight": torch.randn(3, 4) for i in range(12)}
    base = save_folder(tmp_path / "base", made, shards=12)
    folders = [save_folder(tmp_path / f"f{i}", noisy(made, i), shards=12) for i in range(9)]
    expected = fuse_models(base, folders, tmp_path / "expected").files
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = max(int(p.name) for p in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + 80, hard))  # of 108 files to read, and 12 to write
    try:
        found = [fuse_models(base, folders, tmp_path / method, method=method) for method in ("mean", "ties")]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found[0].files == expected
    gone = [p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(p.resolve())]
    assert not gone


def test_compiled_code_needs_no_place_on_the_disk(tmp_path: Path) -> None:
    """A read-only installation, and a user without a home: every process compiles for itself."""
    base = save_folder(tmp_path / "base", {"body.weight": torch.randn(40, 50).bfloat16()})
    folders = [save_folder(tmp_path / f"f{i}", noisy(load_file(base / SINGLE), i)) for i in range(2)]
    expected = fuse_models(base, folders, tmp_path / "expected", method="ties").files
    package = Path(engine.__file__).parents[1]
    shutil.copytree(package, tmp_path / "lib" / "hub_fusion", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("hub_fusion", "hub_fusion/weights"):
        (tmp_path / "lib" / folder / "__pycache__").touch()  # a file, so that not even root can write into it
    nowhere = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "PYTHONPATH": str(tmp_path / "lib")}
    program = ("import sys; from pathlib import Path; from hub_fusion import fuse_models; import hub_fusion\n"
               "assert hub_fusion.__file__.startswith(sys.argv[1]), hub_fusion.__file__\n"
               "base, *folders, out = map(Path, sys.argv[2:])\n"
               "print(fuse_models(base, folders, out, method='ties').files)")  # fmt: skip
    arguments = [str(tmp_path / "lib"), *map(str, (base, *folders, tmp_path / "out"))]
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=os.environ | nowhere, cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(expected)
