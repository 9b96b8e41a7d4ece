"""Broken files through ``hub-fusion fuse``: exit code 1 and one sentence with file, tensor and reason; no output."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from hub_fusion.cli import main

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
W = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def model(seed: int = 0) -> dict[str, torch.Tensor]:
    """A small body and a small head."""
    source = torch.Generator().manual_seed(seed)
    return {f"body.{i}.weight": torch.randn(3, 4, generator=source) for i in range(3)}


def file_of(header: object, data: int = 0, length: int | None = None) -> bytes:
    """A file from its header, `data` zero bytes, and the header length that it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)


def with_value(value: float, dtype: torch.dtype = torch.float32) -> bytes:
    """A finetune with one such value."""
    made = {name: tensor.to(dtype) for name, tensor in model(1).items()}
    made["body.1.weight"][2, 3] = value
    return save(made)


FILES: dict[str, tuple[Callable[[], bytes], str]] = {  # what the file holds, and what the sentence says
    "NaN": (lambda: with_value(float("nan")), r"tensor body.1.weight holds NaN or infinity at \[2, 3\]"),
    "infinity": (lambda: with_value(float("-inf")), r"tensor body.1.weight holds NaN or infinity at \[2, 3\]"),
    "NaN in fp16": (lambda: with_value(float("nan"), torch.float16), "body.1.weight holds NaN or infinity"),
    "NaN in bf16": (lambda: with_value(float("nan"), torch.bfloat16), r"body.1.weight holds NaN or infinity"),
    "NaN in fp8": (lambda: with_value(float("nan"), torch.float8_e4m3fn), r"body.1.weight holds NaN or infinity"),
    "infinity in fp8": (lambda: with_value(float("inf"), torch.float8_e5m2), r"body.1.weight holds NaN or infinity"),
    "truncated data": (lambda: save(model())[:-5], "its header describes .*: truncated or padded"),
    "truncated header": (lambda: save(model())[:40], "claims a header of .* has only 40: truncated"),
    "truncated length": (lambda: b"1234", "4 bytes, too short for a safetensors file"),
    "padded": (lambda: save(model()) + b"\0", "truncated or padded"),
    "empty file": (lambda: b"", "0 bytes, too short"),
    "overlapping offsets": (lambda: file_of({"a": W, "b": W}, 16), "tensor 'b' overlaps the tensor before it"),
    "a hole": (lambda: file_of({"a": W, "b": W | {"data_offsets": [24, 40]}}, 40), "tensor 'b' leaves a hole"),
    "overflowing offsets": (
        lambda: file_of({"a": W | {"data_offsets": [2**64 - 16, 2**64]}}, 16), "tensor 'a' has shape .* to 2⁴⁸"),
    "overflowing shape": (lambda: file_of({"a": W | {"shape": [2**32, 2**32, 2]}}, 16), "tensor 'a' .*needs .* bytes"),
    "negative offsets": (lambda: file_of({"a": W | {"data_offsets": [-16, 0]}}, 16), "tensor 'a' has shape"),
    "offsets backwards": (lambda: file_of({"a": W | {"data_offsets": [16, 0]}}, 16), "tensor 'a' .*needs 16 bytes"),
    "10 GB header": (lambda: file_of(b"{}", length=10 * 2**30), "claims a header of 10737418240 bytes"),
    "largest header": (lambda: file_of(b"{}", length=2**64 - 1), "claims a header of 18446744073709551615 bytes"),
    "unknown dtype": (lambda: file_of({"a": W | {"dtype": "F12"}}, 16), "tensor 'a' has dtype 'F12'; known are BOOL"),
    "4-bit dtype": (lambda: file_of({"a": W | {"dtype": "F4"}}, 2), "tensor 'a' has dtype 'F4'; known are BOOL"),
    "dtype is a number": (lambda: file_of({"a": W | {"dtype": 7}}, 16), "tensor 'a' has dtype 7"),
    "a name twice": (lambda: file_of(b'{"a":' + json.dumps(W).encode() + b',"a":' + json.dumps(W).encode() + b"}", 16),
                     "a name occurs twice"),
    "a pickle": (lambda: b"\x80\x04\x95" + bytes(100), "claims a header of"),
    "no JSON": (lambda: file_of(b"{" * 100), "the header is not JSON"),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A base, a good finetune and an empty folder."""
    for name, seed in (("base", 0), ("good", 1)):
        (tmp_path / name).mkdir()
        save_file(model(seed), tmp_path / name / SINGLE)
    (tmp_path / "bad").mkdir()
    return tmp_path


def told(
    place: Path, base: str, *others: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the command says on stderr; it ends with exit code 1 and has written no weights."""
    folders = [str(place / name) for name in (base, *others)]
    monkeypatch.setattr(sys, "argv", ["hub-fusion", "fuse", *folders, "-o", str(place / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert not list(place.glob("out/*"))
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return " ".join(said.err.split())


@pytest.mark.parametrize("role", ["contribution", "base"])
@pytest.mark.parametrize("case", FILES)
def test_a_broken_file_is_one_sentence_that_names_it(
    place: Path, case: str, role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever of the inputs it is: a good one beside it changes nothing."""
    data, words = FILES[case]
    (place / "bad" / SINGLE).write_bytes(data())
    inputs = ("base", "bad", "good") if role == "contribution" else ("bad", "good")
    if role == "base" and "in fp8" in case:
        words = "needs|ask for another output dtype"
    said = told(place, *inputs, monkeypatch=monkeypatch, capsys=capsys)
    assert re.search(words, said), said
    assert "bad" in said
    assert len(said) < 1500
