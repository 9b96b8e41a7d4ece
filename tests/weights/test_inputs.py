"""Inputs of every kind that the Hub has: each is fused as it should be, or refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import SINGLE, Checkpoint
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, FuseReport, describe, fuse
from hub_fusion.weights.names import MismatchError, match_names

from .tiny import save_folder

Tensors = dict[str, torch.Tensor]
HIDDEN, TOKENS = 4, 6


def language_model(seed: int = 0, tokens: int = TOKENS, tied: bool = True) -> Tensors:
    """A body under ``model.`` with embeddings, and a head of its own unless that is tied."""
    source = torch.Generator().manual_seed(seed)
    made = {
        "model.embed_tokens.weight": torch.randn(tokens, HIDDEN, generator=source),
        "model.layers.0.mlp.weight": torch.randn(3, HIDDEN, generator=source),
        "model.layers.1.mlp.weight": torch.randn(3, HIDDEN, generator=source),
        "model.norm.weight": torch.randn(HIDDEN, generator=source),
    }
    return made if tied else made | {"lm_head.weight": torch.randn(tokens, HIDDEN, generator=source)}


def moved(base: Tensors, by: float = 0.5) -> Tensors:
    """Every float a little further, so that a fuse of one contribution is that contribution."""
    return {n: t + by if t.is_floating_point() else t.clone() for n, t in base.items()}


def fused(tmp_path: Path, base: Tensors, *others: Tensors, dtype: str | None = None) -> tuple[Tensors, FuseReport]:
    """The result of a fuse with equal weights."""
    home = save_folder(tmp_path / "base", base)
    folders = [save_folder(tmp_path / f"ann-{i}", other) for i, other in enumerate(others)]
    sources = tuple(Source(folder.name, folder, home) for folder in folders)
    report = fuse(FusePlan(home, tmp_path / "out", sources, dtype=dtype), Compute())
    return load_file(tmp_path / "out" / SINGLE), report


# dtypes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eight", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_finetunes_in_8_bit_floats_count_as_the_values_they_store(
    tmp_path: Path, eight: torch.dtype, wide: torch.dtype
) -> None:
    """Without scales an 8-bit float is a number like another: a fuse of one is that one, exactly."""
    base = {n: t.to(wide) for n, t in language_model().items()}
    other = {n: t.to(eight) for n, t in moved(language_model()).items()}
    result, _ = fused(tmp_path, base, other)
    assert all(torch.allclose(t.float(), other[n].float(), rtol=1e-2 if wide == torch.bfloat16 else 2e-3)
               for n, t in result.items())  # fmt: skip
    assert {t.dtype for t in result.values()} == {wide}


def test_a_base_in_8_bit_floats_needs_an_output_dtype(tmp_path: Path) -> None:
    """Rounding the sum to 8 bits would lose the change; with a dtype it is fused like any other."""
    base = {n: t.to(torch.float8_e4m3fn) for n, t in language_model().items()}
    other = moved({n: t.float() for n, t in base.items()}, 0.01)
    with pytest.raises(WeightsError, match=r"4 tensors as F8_E4M3.*--dtype bf16"):
        fused(tmp_path / "without", base, other)
    result, _ = fused(tmp_path / "with", base, other, dtype="F32")
    assert all(torch.allclose(t, other[n]) for n, t in result.items())


QUANTIZED: dict[str, Callable[[torch.Tensor], Tensors]] = {  # what stands where a matrix was
    "weight_scale_inv": lambda t: {"weight": t.to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1, 1)},
    "weight_scale": lambda t: {"weight": t.to(torch.float8_e4m3fn), "weight_scale": torch.ones(1)},
    "qweight": lambda t: {"qweight": torch.zeros(1, 4, dtype=torch.int32), "scales": torch.ones(1, 4),
                          "qzeros": torch.zeros(1, 1, dtype=torch.int32), "g_idx": torch.zeros(3, dtype=torch.int32)},
    "absmax": lambda t: {"weight": torch.zeros(6, 1, dtype=torch.uint8), "weight.absmax": torch.ones(1),
                         "weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)},
    "SCB": lambda t: {"weight": t.to(torch.int8), "SCB": torch.ones(3)},
    "weight_packed": lambda t: {"weight_packed": torch.zeros(3, 1, dtype=torch.int32), "weight_scale": torch.ones(3, 1),
                                "weight_shape": torch.tensor([3, 4])},
    "w_blocks": lambda t: {"w_blocks": torch.zeros(3, 2, dtype=torch.uint8), "w_scales": torch.zeros(3, 1).byte()},
}  # fmt: skip


@pytest.mark.parametrize("layout", QUANTIZED)
def test_quantised_layouts_are_refused_by_the_name_of_their_scales(tmp_path: Path, layout: str) -> None:
    """As contributions and as bases; the numbers mean nothing without the scales."""
    plain = language_model()
    quantized = {n: t for n, t in plain.items() if not n.endswith("mlp.weight")}
    for layer in (0, 1):
        parts = QUANTIZED[layout](plain[f"model.layers.{layer}.mlp.weight"])
        quantized |= {f"model.layers.{layer}.mlp.{name}": t for name, t in parts.items()}
    with pytest.raises(MismatchError, match=f"quantised.*{layout}") as caught:
        fused(tmp_path / "contribution", plain, quantized)
    assert caught.value.code == "quantized"
    with pytest.raises(WeightsError, match=rf"base is quantised.*{layout}.*16 or 32 bits"):
        fused(tmp_path / "base", quantized, plain)


def test_a_parameter_called_scales_is_no_quantisation(tmp_path: Path) -> None:
    """Some models have learned scales; the base has them too, and nothing is stored in integers."""
    base = language_model() | {"model.layers.0.scales": torch.ones(3)}
    result, _ = fused(tmp_path, base, moved(base))
    assert torch.equal(result["model.layers.0.scales"], torch.full((3,), 1.5))


# vocabularies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [1, 58], ids=["a token", "padded to 64"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_rows_of_tokens_that_the_base_lacks_are_left_out_with_a_note(tmp_path: Path, more: int, tied: bool) -> None:
    """The base's rows are fused as if there were no others, in the embeddings and in the head."""
    base = language_model(tied=tied)
    plain = moved(base)
    extended = {n: torch.cat([t, torch.full((more, HIDDEN), 99.0)]) if len(t) == TOKENS else t
                for n, t in plain.items()}  # fmt: skip
    result, report = fused(tmp_path, base, extended)
    expected, silent = fused(tmp_path / "plain", base, plain)
    assert all(torch.equal(result[n], expected[n]) for n in base)
    assert silent.notes == ()
    (note,) = report.notes
    assert note.startswith("ann-0: ")
    assert f"model.embed_tokens.weight: {more} rows more" in note
    plan = FusePlan(tmp_path / "base", tmp_path / "o", (Source("ann", tmp_path / "ann-0", tmp_path / "base"),))
    assert describe(plan)["notes"] == [note.replace("ann-0", "ann")]


def test_a_smaller_vocabulary_is_refused(tmp_path: Path) -> None:
    """Nothing says what becomes of the base's other tokens."""
    with pytest.raises(MismatchError, match=r"\[5, 4\], the base has \[6, 4\].*not fewer") as caught:
        fused(tmp_path, language_model(), language_model(tokens=TOKENS - 1))
    assert caught.value.code == "shape_mismatch"


def test_rows_are_added_to_tokens_only_and_not_to_positions(tmp_path: Path) -> None:
    """More positions, or wider embeddings, are another model."""
    base = language_model() | {"model.wpe.weight": torch.ones(8, HIDDEN)}
    with pytest.raises(MismatchError, match=r"wpe.weight: \[9, 4\]"):
        fused(tmp_path / "positions", base, base | {"model.wpe.weight": torch.ones(9, HIDDEN)})
    wider = language_model() | {"model.embed_tokens.weight": torch.ones(TOKENS, HIDDEN + 1)}
    with pytest.raises(MismatchError, match=r"embed_tokens.weight: \[6, 5\]"):
        fused(tmp_path / "wider", language_model(), wider)


@pytest.mark.parametrize("method", ["mean", "ties", "fisher"])
def test_a_base_that_has_grown_or_shrunk_is_compared_where_both_have_tokens(tmp_path: Path, method: str) -> None:
    """Rows that a finetune's generation lacked are left as they are, and rows that the base lacks left out."""
    few, many = language_model(tied=False), language_model(1, tokens=TOKENS + 2, tied=False)
    for number, (base, origin) in enumerate(((many, few), (few, many))):
        homes = [save_folder(tmp_path / f"{name}-{number}", tensors) for name, tensors in
                 {"base": base, "origin": origin, "late": moved(origin), "twin": moved(origin)}.items()]  # fmt: skip
        if method == "fisher":
            for folder in homes[2:]:
                (folder / "fusion").mkdir()
                save_file({f"fisher/{n}": torch.ones_like(t) for n, t in origin.items()},
                          folder / "fusion" / "statistics.safetensors")  # fmt: skip
        sources = tuple(Source(folder.name, folder, homes[1]) for folder in homes[2:])
        options = {"density": 1.0} if method == "ties" else {}
        fuse(FusePlan(homes[0], tmp_path / f"out-{number}", sources, method, options), Compute())
        found = load_file(tmp_path / f"out-{number}" / SINGLE)
        for name, tensor in base.items():
            change = torch.zeros_like(tensor)
            change[: len(origin[name])] = 0.5
            torch.testing.assert_close(found[name], tensor + change)


# tied weights --------------------------------------------------------------------------------------------------------


def test_a_head_that_the_base_ties_is_left_out_with_a_note(tmp_path: Path) -> None:
    """The base's head is its embeddings; a head of its own has no place in the result."""
    base = language_model()
    result, report = fused(tmp_path, base, moved(language_model(tied=False)))
    assert set(result) == set(base)
    assert report.notes == (
        "ann-0: lm_head.weight is left out: the base ties it to its embeddings, or has no such head",
    )


def test_a_finetune_without_the_bases_head_has_no_say_on_it(tmp_path: Path) -> None:
    """A classifier was trained without it: the head is the others', or stays."""
    base = language_model(tied=False)
    headless = {n: t for n, t in moved(base).items() if n != "lm_head.weight"}
    result, _ = fused(tmp_path / "one", base, headless)
    assert torch.equal(result["lm_head.weight"], base["lm_head.weight"])
    result, _ = fused(tmp_path / "two", base, headless, moved(base, 0.25))
    assert torch.allclose(result["lm_head.weight"], base["lm_head.weight"] + 0.25)


@pytest.mark.parametrize("stored", ["embeddings", "head"])
def test_tied_weights_meet_under_whichever_name_they_are_stored(tmp_path: Path, stored: str) -> None:
    """safetensors' save_model keeps the first name of shared memory, save_pretrained the embeddings'."""
    base = language_model()
    head = {n.replace("model.embed_tokens", "lm_head"): t for n, t in base.items()}
    ours, theirs = (base, head) if stored == "embeddings" else (head, base)
    result, report = fused(tmp_path, ours, moved(theirs))
    assert all(torch.equal(t, ours[n] + 0.5) for n, t in result.items())
    assert "stands for" in report.notes[0]
    assert "tied" in report.notes[0]


def test_copies_of_shared_embeddings_may_come_and_go(tmp_path: Path) -> None:
    """Old checkpoints of T5 and BART store encoder.embed_tokens and decoder.embed_tokens beside shared."""
    plain = {f"encoder.block.{i}.weight": torch.ones(3, 4) * i for i in range(3)} | {"shared.weight": torch.ones(6, 4)}
    copies = plain | {"encoder.embed_tokens.weight": torch.ones(6, 4)}
    result, _ = fused(tmp_path / "come", plain, moved(copies))
    assert torch.equal(result["shared.weight"], torch.full((6, 4), 1.5))
    result, _ = fused(tmp_path / "go", copies, moved(plain))
    assert torch.equal(result["encoder.embed_tokens.weight"], result["shared.weight"])
    assert torch.equal(result["shared.weight"], torch.full((6, 4), 1.5))


# buffers -------------------------------------------------------------------------------------------------------------

BUFFERS = {
    "model.layers.0.attn.bias": torch.ones(1, 1, 5, 5).tril(),
    "model.layers.0.attention.masked_bias": torch.tensor(-1e9),
    "model.layers.0.causal_mask": torch.ones(5, 5),
    "model.rotary_emb.inv_freq": torch.ones(2),
    "model.position_ids": torch.arange(5),
    "model.layers.0.attn.mask": torch.ones(5, dtype=torch.bool),
    "model.layers.0.norm.num_batches_tracked": torch.tensor(7),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_are_the_bases_and_may_come_and_go(tmp_path: Path, name: str) -> None:
    """GPT-2 as it is on the Hub stores its causal masks as floats; finetunes saved today do not."""
    plain, buffer = language_model(), BUFFERS[name]
    result, _ = fused(tmp_path / "go", plain | {name: buffer}, moved(plain))
    assert torch.equal(result[name], buffer)
    other = buffer if buffer.dtype == torch.bool else buffer + 1
    result, _ = fused(tmp_path / "both", plain | {name: buffer}, moved(plain) | {name: other})
    assert torch.equal(result[name], buffer)
    result, _ = fused(tmp_path / "come", plain, moved(plain) | {name: buffer})
    assert name not in result


def test_thousands_of_expert_tensors_are_matched_in_linear_time(tmp_path: Path) -> None:
    """10,000 tensors in well under a second; quadratic matching would take minutes."""
    tensors = {f"model.layers.{i // 512}.experts.{i % 512}.weight": torch.zeros(1) for i in range(10_000)}
    checkpoint = Checkpoint.open(save_folder(tmp_path, tensors))
    assert len(match_names(checkpoint, checkpoint).names) == 10_000
