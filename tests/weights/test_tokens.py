"""Tokens that finetunes added: told apart by what they say, whoever brought them; a stranger's tokenizer is judged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizerFast

from hub_fusion.errors import OutputError, WeightsError
from hub_fusion.records import AddedToken
from hub_fusion.records.token import MOST_OF_ONE
from hub_fusion.weights import tensors
from hub_fusion.weights.checkpoint import Checkpoint
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.directions import layer_of
from hub_fusion.weights.distance import drift
from hub_fusion.weights.fuse import FusePlan, FuseReport, fuse
from hub_fusion.weights.random_steps import tensor_norms
from hub_fusion.weights.tokens import NewTokens, Tokenizer, find, placed, shadows, within_bounds

from .test_added_rows import ROWS, WORDS, extended, weights
from .tiny import model, saved

Folders = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A masked language model with 40 tokens, and two finetunes that have one new token in common."""
    place = tmp_path_factory.mktemp("tokens")
    base = saved(model("BertForMaskedLM"), place / "base")
    (place / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(place / "vocab.txt")).save_pretrained(base)
    return base, extended(base, "one", "<b>", "<a>"), extended(base, "other", "<c>", "<b>")


TOKENS = NewTokens(40, {
    "one": (AddedToken(content="<a>", id=41, rows={"one": 41}), AddedToken(content="<b>", id=40, rows={"one": 40})),
    "other": tuple(AddedToken(content=text, id=n, rows={"other": n}) for text, n in (("<b>", 41), ("<c>", 40))),
})  # fmt: skip


def plan(folders: Folders, out: Path, *, reverse: bool = False, **changes: Any) -> FusePlan:
    """Both finetunes with their tokens."""
    base, *finetunes = folders
    sources = [Source(f.name, f, base, weight=w) for f, w in zip(finetunes, (1.0, 3.0), strict=True)]
    keys = [s.key for s in sources]
    ordered = (sources[::-1], keys[::-1]) if reverse else (sources, keys)
    return FusePlan(base, out, tuple(ordered[0]), tokens=TOKENS.of(ordered[1]), **changes)


def carried_out(asked: FusePlan, **options: Any) -> FuseReport:
    return fuse(asked, Compute(), **options)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("method", ["mean", "ties"])
def test_one_token_at_two_ids_is_one_row_and_order_does_not_matter(
    folders: Folders, tmp_path: Path, method: str
) -> None:
    """Texts decide ids, weights decide rows; tokenizer and configuration say the same, in whatever order they came."""
    carried_out(plan(folders, tmp_path / "out", method=method))
    carried_out(plan(folders, tmp_path / "back", method=method, reverse=True))
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "back")
    _, one, other = map(weights, folders)
    found = weights(tmp_path / "out")
    for name in ROWS:
        assert torch.equal(found[name][40], one[name][41]) and torch.equal(found[name][42], other[name][40])
        torch.testing.assert_close(found[name][41], (one[name][40] + 3 * other[name][41]) / 4)
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.convert_tokens_to_ids(["w3", "<a>", "<b>", "<c>"]) == [8, 40, 41, 42]
    assert words.tokenize("w1<b>w2") == ["w1", "<b>", "w2"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 43


def test_spare_rows_of_the_base_are_used_first(folders: Folders, tmp_path: Path) -> None:
    """Many bases have more rows than tokens; tokenizers count on without holes, so new tokens lie in those rows."""
    padded = tuple(tmp_path / folder.name for folder in folders)
    for source, folder in zip(folders, padded, strict=True):
        made = model("BertForMaskedLM").from_pretrained(source)
        made.resize_token_embeddings(64, mean_resizing=False)
        shutil.copytree(source, folder)
        saved(made, folder)
    report = carried_out(plan(padded, tmp_path / "out"))  # type: ignore[arg-type]
    base, one, other = map(weights, padded)
    found = weights(tmp_path / "out")
    for name in ROWS:
        assert found[name].shape == base[name].shape
        assert torch.equal(found[name][43:], base[name][43:]), "rows that nobody has a token for stay"
        assert torch.equal(found[name][40], one[name][41]) and torch.equal(found[name][42], other[name][40])
        torch.testing.assert_close(found[name][:40], (one[name][:40] + 3 * other[name][:40]) / 4)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 64 and report.tensors


def test_a_killed_fuse_of_new_tokens_goes_on_to_the_same_bytes(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small blocks, stopped at each tenth of the way; another set of tokens does not go on with them."""
    monkeypatch.setattr(tensors, "MOST", 40)
    monkeypatch.setattr(tensors, "LEAST", 40)
    whole = carried_out(plan(folders, tmp_path / "whole", residual=True))
    for tenth in range(1, 10, 2):
        out = tmp_path / f"out-{tenth}"

        def stop(done: int, total: int, tenth: int = tenth) -> None:
            if done >= total * tenth / 10:
                raise OutputError("the disk is full")

        with pytest.raises(OutputError, match="full"):
            carried_out(plan(folders, out), progress=stop)
        report = carried_out(plan(folders, out))
        assert report.files == whole.files
    fewer = FusePlan(folders[0], out, plan(folders, out).sources, tokens=TOKENS.of(["one"]))
    assert carried_out(fewer).bytes_resumed == 0 and len(weights(out)[ROWS[0]]) == 42


def test_what_a_random_step_and_a_drift_compare_is_what_both_have(folders: Folders, tmp_path: Path) -> None:
    """The control of a candidate with more tokens moves its embeddings too, and its drift counts them."""
    carried_out(plan(folders, tmp_path / "out"))
    norms = tensor_norms(Checkpoint.open(folders[0]), Checkpoint.open(tmp_path / "out"))
    before, after = weights(folders[0]), weights(tmp_path / "out")
    assert norms[ROWS[0]] == pytest.approx(float((after[ROWS[0]][:40] - before[ROWS[0]]).norm()), rel=1e-4)
    assert drift(folders[0], tmp_path / "out")[layer_of(ROWS[0])] > 0


def test_a_token_of_which_no_row_is_there_is_an_error(folders: Folders, tmp_path: Path) -> None:
    """As a hostile record could have it; and so are ids that do not go on from the base's."""
    for rows, id, law in (({"one": 99}, 40, "1 rows|2 rows"), ({"gone": 40}, 40, "2 rows"), ({"one": 40}, 50, "go on")):
        asked = FusePlan(folders[0], tmp_path / "out", plan(folders, tmp_path / "out").sources,
                         tokens=(AddedToken(content="<a>", id=id, rows=rows),))  # fmt: skip
        with pytest.raises(WeightsError, match=law):
            carried_out(asked)


# a stranger's tokenizer ----------------------------------------------------------------------------------------------
def tokenizer(change: Callable[[dict[str, Any]], Any] = lambda data: None) -> Tokenizer:
    """A small tokenizer.json, changed."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[SEP]", "the", "##ing", "w0"])}
    data: dict[str, Any] = {
        "model": {"type": "WordPiece", "vocab": vocabulary},
        "added_tokens": [{"id": n, "content": c, "special": True} for n, c in enumerate(["[PAD]", "[UNK]", "[SEP]"])],
    }
    change(data)
    return Tokenizer.parse(json.dumps(data), "tokenizer.json")


def adding(*tokens: Any) -> Callable[[dict[str, Any]], None]:
    """These tokens after all others."""

    def change(data: dict[str, Any]) -> None:
        data["added_tokens"] += [{"id": 6 + n, "content": token} for n, token in enumerate(tokens)]

    return change


HOSTILE = {
    "control characters": (adding("<a\x1b[2J>"), "cannot be seen"),
    "right to left": (adding("<a\u202e>"), "cannot be seen"),
    "half a letter": (adding("<\ud800>"), "cannot be seen"),
    "a line": (adding("a\n"), "cannot be seen"),
    "huge": (adding("x" * 101), "longer than 100"),
    "empty": (adding(""), "empty"),
    "spaces": (adding("   "), "empty"),
    "thousands": (adding(*(f"<{n}>" for n in range(5000))), f"adds 5000 tokens; {MOST_OF_ONE} are allowed"),
    "a special token in full width": (adding("［ＳＥＰ］"), r"stands for the special token '\[SEP\]'"),
    "a special token in small letters": (adding("[sep]"), r"stands for the special token '\[SEP\]'"),
    "a special token with more": (adding("[SEP]!"), r"takes its place"),
    "the text before a special token": (adding("w0["), "takes the beginning of the special token"),
    "a word": (adding(" The"), "is a token of its generation"),
    "an end": (adding("ing"), "is a token of its generation"),
    "another tokenizer": (lambda d: d["model"]["vocab"].update({"the": 5, "w0": 3}), "token 5 is 'the' for it, 'w0'"),
    "trained again": (lambda d: d["model"]["vocab"].update({"new": 6}), "trained again"),
    "a token twice": (lambda d: d["added_tokens"].append({"id": 9, "content": "w0"}), "'w0' has the id 9, 5 in its"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_token_that_may_not_be_is_named(name: str) -> None:
    """One sentence that can be printed, however long and many they are."""
    change, law = HOSTILE[name]
    found, fault = find(tokenizer(change), tokenizer(), "ann/x@1")
    assert not found and fault and fault.isprintable() and len(fault) < 800
    assert re.search(law, fault), fault


NONE = ["", "[]", "{}", '{"model": []}', "[" * 100_000,
        *(f'{{"model": {{"vocab": {ids}}}}}' for ids in
          ('{"a": "x"}', '{"a": Infinity}', '{"a": 1, "b": 1}', '{"a": -1}'))]  # fmt: skip


@pytest.mark.parametrize("text", NONE, ids=lambda text: text[:30])
def test_what_is_no_tokenizer_is_an_error(text: str) -> None:
    """Whatever JSON it is; two tokens with one id are none."""
    with pytest.raises(WeightsError):
        Tokenizer.parse(text, "ann/x/tokenizer.json")


def test_a_special_token_of_a_stranger_may_not_take_anothers_beginning_either() -> None:
    """Saying that it is special is no excuse; nor is a special token's coming later than its generation."""

    def change(data: dict[str, Any]) -> None:
        adding("w0[", "<|tool|>")(data)
        for entry in data["added_tokens"][-2:]:
            entry["special"] = True

    assert "takes the beginning" in str(find(tokenizer(change), tokenizer(), "ann/x@1")[1])
    grown = tokenizer(lambda d: d["added_tokens"].append({"id": 6, "content": "<|tool|>", "special": True}))
    assert "takes its place" in str(shadows(["<|tool|>!"], grown)) and shadows(["<|other|>"], grown) is None


def test_good_tokens_come_with_how_they_are_found_and_nothing_else() -> None:
    """Flags that are no booleans are false."""
    change = adding("<|tool|>", "<a>")

    def flagged(data: dict[str, Any]) -> None:
        change(data)
        data["added_tokens"][-1] |= {"lstrip": True, "special": "yes", "role": "eos_token"}

    found, fault = find(tokenizer(flagged), tokenizer(), "ann/x@1")
    assert fault is None and [(t.content, t.id, t.lstrip, t.special) for t in found] == [
        ("<a>", 7, True, False), ("<|tool|>", 6, False, False)]  # fmt: skip
    assert placed(found, 6)[0].rows == {"ann/x@1": 7}


def test_a_generation_takes_in_so_many_tokens_and_no_more() -> None:
    """In the order of the contributions; those that fit after one that does not are taken still."""
    brought = {f"{who}/x@1": tuple(AddedToken(content=f"<{who}{n}>", id=n) for n in range(count))
               for who, count in {"a": 1000, "b": 25, "c": 24}.items()}  # fmt: skip
    assert list(within_bounds(dict(reversed(brought.items())))) == ["a/x@1", "c/x@1"]
