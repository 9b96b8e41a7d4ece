"""What rounding to 16 bits loses adds up over generations if it is kept, and is gone in each of them if it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hub_fusion.errors import HeaderError
from hub_fusion.weights import fuse as engine
from hub_fusion.weights.checkpoint import INDEX, SINGLE
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, FuseReport, describe, folder_sha256, fuse
from hub_fusion.weights.writer import Output

from .tiny import save_folder

Tensors = dict[str, torch.Tensor]
FILE = "fusion/residual-00001-of-00001.st"
DTYPES = [torch.bfloat16, torch.float16]


def body(dtype: torch.dtype, seed: int = 0) -> Tensors:
    """A few tensors, one too large for a block, with a buffer and a head that are not fused."""
    source = torch.Generator().manual_seed(seed)
    shapes = {"body.a": (70, 50), "body.b": (9,), "body.c": (), "body.large": (300, 1000)}
    made = {name: torch.randn(shape, generator=source).to(dtype) for name, shape in shapes.items()}
    made["body.b"][0] = -0.0
    return made | {"body.position_ids": torch.arange(3), "classifier.weight": torch.ones(2, 9).to(dtype)}


def next_generation(folder: Path, number: int, grow: float, residual: bool, **plan: object) -> FuseReport:
    """Fuse a finetune of ``gen-N`` that made every fused float larger by a share of itself into ``gen-(N+1)``."""
    base, contribution = folder / f"gen-{number}", folder / f"ann-{number}"
    trained = {
        n: t.float() * (1 + grow) if n.startswith("body") and t.is_floating_point() else t
        for n, t in load_file(base / SINGLE).items()
    }
    save_folder(contribution, trained)
    source = Source(f"ann-{number}", contribution, base)
    made = FusePlan(base, folder / f"gen-{number + 1}", (source,), residual=residual, heads="keep", **plan)  # type: ignore[arg-type]
    return fuse(made, Compute())


def loop(folder: Path, base: Tensors, rounds: int, grow: float, residual: bool) -> tuple[Tensors, Tensors]:
    """The last generation, and what it would be if nothing had been rounded (float64)."""
    save_folder(folder / "gen-0", base)
    exact = {n: t.double() for n, t in base.items() if n.startswith("body") and t.is_floating_point()}
    for number in range(rounds):
        there = load_file(folder / f"gen-{number}" / SINGLE)
        for name in exact:
            exact[name] = exact[name] + (there[name].float() * (1 + grow) - there[name].float()).double()
        next_generation(folder, number, grow, residual)
    return load_file(folder / f"gen-{rounds}" / SINGLE), exact


def unrounded(folder: Path) -> Tensors:
    """Weights + residual of a generation."""
    weights, lost = load_file(folder / SINGLE), load_file(folder / FILE)
    return {name: weights[name].double() + lost[name].double() for name in lost}


@pytest.mark.parametrize(("dtype", "grow"), [(torch.bfloat16, 1e-4), (torch.float16, 1e-5)], ids=str)
def test_ten_small_changes_add_up_with_the_residual_and_vanish_without(
    tmp_path: Path, dtype: torch.dtype, grow: float
) -> None:
    """Each is a small part of one step of the dtype. Kept in bfloat16, what is lost stays known to 2⁻¹⁷ (2⁻²⁰)."""
    base = body(dtype)
    without, _ = loop(tmp_path / "without", base, 10, grow, residual=False)
    assert all(torch.equal(without[name], base[name]) for name in base)
    result, exact = loop(tmp_path / "with", base, 10, grow, residual=True)
    known = unrounded(tmp_path / "with" / "gen-10")
    assert set(known) == set(exact)
    step, fine = (2.0**-7, 2.0**-17) if dtype == torch.bfloat16 else (2.0**-10, 2.0**-20)
    for name, value in exact.items():
        floor = 2.0**-24  # float16 is spaced so below 2⁻¹⁴; once a round each
        assert ((result[name].double() - value).abs() <= step * value.abs() + floor).all()
        assert ((known[name] - value).abs() <= 10 * fine * value.abs() + floor).all()
        moved = (known[name] - base[name].double()).abs()
        assert (moved >= 9 * grow * base[name].double().abs() - floor).all()


def test_many_small_changes_show_in_the_weights(tmp_path: Path) -> None:
    """Forty of them are a whole step of bfloat16: every weight has moved, to the nearest that there is."""
    base = {n: t for n, t in body(torch.bfloat16).items() if n != "body.large"}
    result, exact = loop(tmp_path, base, 40, 2e-4, residual=True)
    for name, value in exact.items():
        moving = base[name].double() != 0
        assert (result[name] != base[name])[moving].all()
        assert ((result[name].double() - value).abs() <= 2.0**-8 * 1.001 * value.abs()).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_of_a_first_generation_do_not_depend_on_the_residual(tmp_path: Path, dtype: torch.dtype) -> None:
    """It is kept beside them, in bfloat16, bound to them, under a name that patterns for weights do not match."""
    for residual in (False, True):
        save_folder(tmp_path / str(residual) / "gen-0", body(dtype))
        report = next_generation(tmp_path / str(residual), 0, 1e-3, residual)
    plain, kept = (tmp_path / str(residual) / "gen-1" for residual in (False, True))
    assert (plain / SINGLE).read_bytes() == (kept / SINGLE).read_bytes()
    assert report.residual == (FILE,)
    assert not list(plain.glob("fusion/*"))
    assert sorted(path.name for path in kept.rglob("*.safetensors")) == [SINGLE]
    with safe_open(kept / FILE, "pt") as opened:
        assert opened.metadata() == {"weights_sha256": report.weights_sha256}
    lost = load_file(kept / FILE)
    assert set(lost) == {"body.a", "body.b", "body.c", "body.large"}
    assert {t.dtype for t in lost.values()} == {torch.bfloat16}
    plan = FusePlan(kept, tmp_path / "out", (Source("a", plain, kept),), residual=True)
    assert describe(plan)["residual_bytes"] == sum(2 * t.numel() for t in lost.values())


def test_a_base_fused_with_itself_keeps_bytes_and_residual(tmp_path: Path) -> None:
    """Nothing changes where nobody changed anything, zeros with their sign."""
    save_folder(tmp_path / "gen-0", body(torch.bfloat16))
    next_generation(tmp_path, 0, 1e-3, True)
    again = next_generation(tmp_path, 1, 0.0, True)
    assert (tmp_path / "gen-1" / SINGLE).read_bytes() == (tmp_path / "gen-2" / SINGLE).read_bytes()
    assert (tmp_path / "gen-1" / FILE).read_bytes() == (tmp_path / "gen-2" / FILE).read_bytes()
    assert again.notes == ()


def test_another_output_dtype_gets_the_unrounded_state(tmp_path: Path) -> None:
    """In float32 weights and residual are one number, and nothing is lost any more."""
    save_folder(tmp_path / "gen-0", body(torch.bfloat16))
    next_generation(tmp_path, 0, 1e-3, True)
    expected = unrounded(tmp_path / "gen-1")
    report = next_generation(tmp_path, 1, 0.0, True, dtype="F32")
    result = load_file(tmp_path / "gen-2" / SINGLE)
    assert all(torch.equal(result[name].double(), value) for name, value in expected.items())
    assert report.residual == ()


def test_a_residual_beside_other_weights_is_ignored_with_a_note(tmp_path: Path) -> None:
    """A rollback by hand, or a download of two revisions into one folder."""
    save_folder(tmp_path / "gen-0", body(torch.bfloat16))
    next_generation(tmp_path, 0, 1e-3, True)
    for folder in ("other", "plain"):
        save_folder(tmp_path / folder / "gen-0", body(torch.bfloat16, seed=5))
    shutil.copytree(tmp_path / "gen-1" / "fusion", tmp_path / "other" / "gen-0" / "fusion")
    report = next_generation(tmp_path / "other", 0, 1e-3, False)
    plain = next_generation(tmp_path / "plain", 0, 1e-3, False)
    assert report.files == plain.files
    assert "is ignored: it belongs to other weights" in report.notes[0]


@pytest.mark.parametrize("fault", ["truncated", "a tensor less", "a shape", "a dtype", "a tensor more", "unbound"])
def test_a_malformed_residual_is_refused_with_the_remedy(tmp_path: Path, fault: str) -> None:
    """Before anything is written: half a residual would move half of the weights."""
    save_folder(tmp_path / "gen-0", body(torch.bfloat16))
    report = next_generation(tmp_path, 0, 1e-3, True)
    file = tmp_path / "gen-1" / FILE
    lost, metadata = load_file(file), {"weights_sha256": report.weights_sha256}
    changes: dict[str, Tensors] = {
        "a shape": {"body.b": lost["body.b"][:-1].clone()}, "a dtype": {"body.b": lost["body.b"].float()},
        "a tensor more": {"body.x": torch.ones(2).bfloat16()},
    }  # fmt: skip
    if fault == "a tensor less":
        del lost["body.b"]
    save_file(lost | changes.get(fault, {}), file, None if fault == "unbound" else metadata)
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(HeaderError, match="residual"):
        next_generation(tmp_path, 1, 1e-3, True)
    assert not (tmp_path / "gen-2").exists()


def test_a_sharded_base_has_a_sharded_residual(tmp_path: Path) -> None:
    """The same numbers as of a base in one file."""
    for folder, shards in (("one", 1), ("three", 3)):
        base = save_folder(tmp_path / folder / "gen-0", body(torch.bfloat16), shards=shards)
        finetune = save_folder(tmp_path / "ann", {n: t.float() * 1.001 for n, t in body(torch.bfloat16).items()})
        fuse(FusePlan(base, tmp_path / folder / "out", (Source("ann", finetune, base),), residual=True), Compute())
    parts = sorted((tmp_path / "three" / "out" / "fusion").iterdir())
    assert len(parts) == 3
    together = {name: t for part in parts for name, t in load_file(part).items()}
    whole = load_file(tmp_path / "one" / "out" / FILE)
    assert set(together) == set(whole)
    assert all(torch.equal(t, whole[name]) for name, t in together.items())
    assert json.loads((tmp_path / "three" / "out" / INDEX).read_text())["weight_map"].keys() >= together.keys()


def test_a_killed_fuse_goes_on_with_its_residual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends with the bytes of one that was not killed; what was written is not written again."""
    for folder in ("whole", "killed"):
        save_folder(tmp_path / folder / "gen-0", body(torch.bfloat16))
    next_generation(tmp_path / "whole", 0, 1e-3, True)
    with monkeypatch.context() as patch:
        count = 0

        def write(self: Output, *arguments: object) -> None:
            nonlocal count
            count += 1
            if count > 4:
                raise KeyboardInterrupt
            Output_write(self, *arguments)  # type: ignore[arg-type]

        Output_write = Output.write
        patch.setattr(Output, "write", write)
        with pytest.raises(KeyboardInterrupt):
            next_generation(tmp_path / "killed", 0, 1e-3, True)
    report = next_generation(tmp_path / "killed", 0, 1e-3, True)
    out, expected = tmp_path / "killed" / "gen-1", tmp_path / "whole" / "gen-1"
    assert (out / SINGLE).read_bytes() == (expected / SINGLE).read_bytes()
    assert (out / FILE).read_bytes() == (expected / FILE).read_bytes()
    assert sorted(p.name for p in (out / "fusion").iterdir()) == [FILE.rpartition("/")[2]]
    assert folder_sha256(out) == report.weights_sha256


def test_an_old_residual_does_not_stay_beside_new_weights(tmp_path: Path) -> None:
    """The next fuse into the same folder takes it away."""
    save_folder(tmp_path / "gen-0", body(torch.bfloat16))
    next_generation(tmp_path, 0, 1e-3, True)
    next_generation(tmp_path, 0, 1e-3, False)
    assert not (tmp_path / "gen-1" / FILE).exists()
    engine.remove_checkpoint(tmp_path / "gen-1")
    assert not (tmp_path / "gen-1" / SINGLE).exists()
