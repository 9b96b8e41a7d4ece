"""The output has the base's layout, whoever writes which part of it and when."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hub_fusion.weights import writer
from hub_fusion.weights.checkpoint import INDEX, SINGLE, Checkpoint

from .tiny import model, save_folder


def tensors() -> dict[str, torch.Tensor]:
    """Every kind of shape and several dtypes; names of which the alphabetical order is another one."""
    source = torch.Generator().manual_seed(0)
    return {
        "z.weight": torch.randn(3, 4, generator=source),
        "b.bias": torch.randn(5, generator=source).bfloat16(),
        "scalar": torch.tensor(1.5),
        "none": torch.empty(0, 3),
        "ids": torch.arange(4),
        "flag": torch.tensor([True]),
        "head.weight": torch.randn(2, 2, generator=source).half(),
    }


def copy_of(base: Checkpoint, out: Path, *, drop: tuple[str, ...] = (), seed: int = 0) -> dict[str, str]:
    """All tensors written as they are, in a random order and in pieces."""
    layout = writer.plan_layout(base, drop)
    writer.prepare(out, base, layout)
    output, hashes = writer.Output(out), writer.RunningHashes(out, layout)
    pieces = []
    for spec in (spec for file in layout.values() for spec in file):
        data = memoryview(base.read(spec.name).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        pieces += [(spec, data[at : at + 7], at) for at in range(0, len(data), 7)]
    random.Random(seed).shuffle(pieces)
    for spec, data, at in pieces:
        output.write(spec, data, at)
        hashes.done(spec, at, at + len(data))
    output.sync()
    output.close()
    running = hashes.finish()
    assert running == writer.hash_files(out, layout, threads=2)
    writer.finish(out, layout)
    return running


@pytest.mark.parametrize("shards", [1, 3])
def test_a_copy_has_the_same_shards_names_order_and_values(tmp_path: Path, shards: int) -> None:
    """People compare and download generations file by file."""
    base = Checkpoint.open(save_folder(tmp_path / "base", tensors(), shards=shards))
    hashes = copy_of(base, tmp_path / "out")
    assert list(hashes) == base.files
    for file, digest in hashes.items():
        ours, theirs = tmp_path / "out" / file, tmp_path / "base" / file
        assert hashlib.sha256(ours.read_bytes()).hexdigest() == digest
        with safe_open(ours, "pt") as mine, safe_open(theirs, "pt") as original:
            assert mine.metadata() == original.metadata()
            assert mine.offset_keys() == original.offset_keys()
        loaded, expected = load_file(ours), load_file(theirs)
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
        assert all(loaded[name].dtype == expected[name].dtype for name in expected)
    assert not list((tmp_path / "out").glob("*.partial"))
    assert (tmp_path / "out" / INDEX).exists() == (shards > 1)


def test_the_order_of_writing_changes_nothing(tmp_path: Path) -> None:
    """Processes are not ordered."""
    base = Checkpoint.open(save_folder(tmp_path / "base", tensors(), shards=2))
    assert copy_of(base, tmp_path / "a", seed=1) == copy_of(base, tmp_path / "b", seed=2)


def test_the_index_names_every_tensor_and_counts_every_byte(tmp_path: Path) -> None:
    """What transformers and the Hub's page read; the copy opens by it."""
    base = Checkpoint.open(save_folder(tmp_path / "base", tensors(), shards=3))
    copy_of(base, tmp_path / "out", drop=("head.weight",))
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    kept = {name: spec for name, spec in base.items() if name != "head.weight"}
    assert index["weight_map"] == {name: kept[name].file for name in sorted(kept)}
    assert index["metadata"]["total_size"] == sum(spec.size_bytes for spec in kept.values())
    assert set(Checkpoint.open(tmp_path / "out")) == set(kept)


def test_a_shard_of_dropped_tensors_is_left_out(tmp_path: Path) -> None:
    """An empty file would be an error for some readers and a riddle for all."""
    base = Checkpoint.open(save_folder(tmp_path / "base", {"a": torch.ones(2), "head": torch.ones(2)}, shards=2))
    hashes = copy_of(base, tmp_path / "out", drop=("head",))
    assert list(hashes) == [base["a"].file]
    assert list(Checkpoint.open(tmp_path / "out")) == ["a"]


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_another_dtype_moves_the_offsets_of_floats_only(tmp_path: Path, dtype: str) -> None:
    """Integers and flags stay what they are; the file is exactly as long as its header says."""
    base = Checkpoint.open(save_folder(tmp_path / "base", tensors()))
    layout = writer.plan_layout(base, (), dtype)
    writer.prepare(tmp_path / "out", base, layout)
    writer.finish(tmp_path / "out", layout)
    out = Checkpoint.open(tmp_path / "out")
    floats = {"F16", "BF16", "F32", "F64"}
    assert {n: s.dtype for n, s in out.items()} == {n: dtype if s.dtype in floats else s.dtype for n, s in base.items()}
    assert {n: s.shape for n, s in out.items()} == {n: s.shape for n, s in base.items()}


def test_data_begin_at_a_multiple_of_eight(tmp_path: Path) -> None:
    """So that a mapped file gives aligned tensors without a copy."""
    for names in ("a", "ab", "abc", "abcdefg", "über"):
        base = Checkpoint.open(save_folder(tmp_path / names, {names: torch.ones(2)}))
        copy_of(base, tmp_path / f"{names}-out")
        assert Checkpoint.open(tmp_path / f"{names}-out")[names].start % 8 == 0


@pytest.mark.parametrize("size", ["50GB", "2KB"], ids=["whole", "sharded"])
def test_transformers_loads_the_copy_and_finds_it_equal(tmp_path: Path, size: str) -> None:
    """The reader that matters; shards as save_pretrained makes them."""
    from transformers import BertModel

    made = model("BertModel")
    made.save_pretrained(tmp_path / "base", max_shard_size=size)
    base = Checkpoint.open(tmp_path / "base")
    assert (len(base.files) > 1) == (size == "2KB")
    copy_of(base, tmp_path / "out")
    (tmp_path / "out" / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
    loaded, report = BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())


def test_a_killed_writer_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    """Until it is complete a file is called FILE.partial, so nobody loads half a model."""
    base = Checkpoint.open(save_folder(tmp_path / "base", tensors()))
    writer.prepare(tmp_path / "out", base, writer.plan_layout(base, ()))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{SINGLE}.partial"]
