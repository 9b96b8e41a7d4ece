"""Rows of tokens that finetunes added are kept where their tokenizers say that they mean the same; the result loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertTokenizerFast

from hub_fusion import fuse_models
from hub_fusion.errors import WeightsError
from hub_fusion.hub import Hub
from hub_fusion.local_hub import add_user, serve
from hub_fusion.weights import tensors

from .tiny import model, saved, started_from, trained

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
ROWS = ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A masked language model with 40 tokens, and its tokenizer."""
    folder = saved(model("BertForMaskedLM"), tmp_path / "base")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(folder)
    return folder


def extended(base: Path, name: str, *new: str, kind: str = "BertForMaskedLM", tokenizer: bool = True) -> Path:
    """A finetune that knows more tokens, as people make it."""
    folder, made = base.parent / name, started_from(kind, base)
    words = AutoTokenizer.from_pretrained(base)
    words.add_tokens(list(new))
    made.resize_token_embeddings(len(words), mean_resizing=False)
    saved(trained(made, seed=len(name)), folder)
    if tokenizer:
        words.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("method", ["mean", "ties", "median"])
def test_new_rows_are_the_mean_of_those_who_have_them(
    base: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One knows two new tokens, one knows the first of them, one none; the rest is as if there were none."""
    folders = [extended(base, "two", "<a>", "<b>"), extended(base, "one", "<a>"), extended(base, "none")]
    shares = [1.0, 3.0, 2.0]
    kept = fuse_models(base, folders, tmp_path / "kept", method=method, weights=shares, vocab="keep")
    dropped = fuse_models(base, folders, tmp_path / "dropped", method=method, weights=shares)
    found, plain, (two, one, _) = weights(tmp_path / "kept"), weights(tmp_path / "dropped"), map(weights, folders)
    for name, tensor in plain.items():
        assert torch.equal(found[name][: len(tensor)] if name in ROWS else found[name], tensor)
    for name in ROWS:
        assert len(found[name]) == 42
        torch.testing.assert_close(found[name][40], (two[name][40] + 3 * one[name][40]) / 4)
        assert torch.equal(found[name][41], two[name][41])
    assert [note.replace("are left out", "are kept") for note in dropped.notes] == list(kept.notes)
    words = AutoTokenizer.from_pretrained(tmp_path / "kept")
    assert words.convert_tokens_to_ids(["w3", "<a>", "<b>"]) == [8, 40, 41]
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "kept", output_loading_info=True)
    assert not info["missing_keys"]
    assert loaded(**words("w1 <a> <b>", return_tensors="pt")).logits.shape[-1] == 42
    monkeypatch.setattr(tensors, "MOST", 5)
    monkeypatch.setattr(tensors, "LEAST", 5)
    again = fuse_models(base, folders, tmp_path / "again", method=method, weights=shares, vocab="keep", residual=True)
    assert again.files == kept.files


def test_rows_are_streamed_as_they_are_read_from_folders(base: Path, tmp_path: Path) -> None:
    """Tokenizer and all."""
    folders = [extended(base, "two", "<a>", "<b>"), extended(base, "one", "<a>")]
    token = add_user(tmp_path / "hub", "acme")
    with serve(tmp_path / "hub") as running:
        api = HfApi(running.url, token)
        for folder in (base, *folders):
            api.create_repo(f"acme/{folder.name}")
            api.upload_folder(repo_id=f"acme/{folder.name}", folder_path=folder)
        hub: Any = Hub(running.url, token, tmp_path / "cache")
        remote = fuse_models("acme/base", ["acme/two", "acme/one"], tmp_path / "remote", hub=hub, vocab="keep")
    assert remote.files == fuse_models(base, folders, tmp_path / "local", vocab="keep").files
    for path in (tmp_path / "local").iterdir():
        assert (tmp_path / "remote" / path.name).read_bytes() == path.read_bytes()


def test_one_id_for_two_tokens_is_refused(base: Path, tmp_path: Path) -> None:
    """Their mean would be neither; without a tokenizer nobody knows; a head without the rows could not be loaded."""
    cases = [
        ([extended(base, "x", "<a>"), extended(base, "y", "<b>")], "token 40 is '<a>' for x and '<b>' for y"),
        ([extended(base, "silent", "<a>", tokenizer=False)], "silent's new tokens cannot be kept: it has no tokenizer"),
        ([extended(base, "body", "<a>", kind="BertModel")], "no contribution has as many for cls.predictions.bias"),
    ]
    for folders, law in cases:
        with pytest.raises(WeightsError, match=law):
            fuse_models(base, folders, tmp_path / "out", vocab="keep")
        fuse_models(base, folders, tmp_path / "out")


def test_keeping_rows_where_nobody_has_any_changes_nothing(base: Path, tmp_path: Path) -> None:
    """Not even the configuration."""
    folders = [extended(base, "none")]
    kept = fuse_models(base, folders, tmp_path / "kept", vocab="keep")
    assert kept.files == fuse_models(base, folders, tmp_path / "dropped").files
    assert (tmp_path / "kept" / "config.json").read_bytes() == (base / "config.json").read_bytes()
