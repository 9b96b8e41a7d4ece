"""The format's laws: whatever is not a safetensors file is a HeaderError, whatever is one is read exactly."""

from __future__ import annotations

import copy
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hub_fusion.errors import HeaderError, WeightsError
from hub_fusion.weights.checkpoint import (
    INDEX,
    ITEM_BYTES,
    SINGLE,
    TORCH_NAMES,
    Checkpoint,
    header_length,
    parse_header,
    read_header,
    read_index,
)

from .tiny import file_bytes, save_folder

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HUGE = 10**4299  # the longest number Python reads; one digit more and it cannot be printed


def parse(data: bytes) -> dict[str, Any]:
    """The tensors of a file in memory, as read_header finds them on disk."""
    length = header_length(data[:8], source="file")
    if 8 + length > len(data):
        raise HeaderError("truncated")
    return parse_header(data[8 : 8 + length], len(data), source="file")[0]


def entry(**changes: Any) -> dict[str, Any]:
    """A good file's header but for the changes to its only entry."""
    return {"w": F32 | changes}


MALFORMED = {
    "empty file": b"",
    "seven bytes": b"1234567",
    "header length 0": file_bytes(b""),
    "header length 1": file_bytes(b"{"),
    "10 GB header": file_bytes(b"{}", length=10 * 2**30),
    "header length 2**64 - 1": file_bytes(b"{}", length=2**64 - 1),
    "header longer than the file": file_bytes(b"{}", length=3),
    "header does not begin with a brace": file_bytes(b" {}"),
    "a list": file_bytes(b"[]"),
    "no JSON": file_bytes(b"{oops}"),
    "not UTF-8": file_bytes(b'{"\xff": 1}'),
    "UTF-16": file_bytes('{"w":1}'.encode("utf-16-le")),
    "deep nesting": file_bytes(b'{"a":' + b"[" * 200_000),
    "deep and closed": file_bytes(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "number of 5000 digits": file_bytes(b'{"w":' + b"9" * 5000 + b"}"),
    "duplicate tensor": file_bytes(b'{"w":%s,"w":%s}' % ((json.dumps(F32).encode(),) * 2), bytes(8)),
    "duplicate key": file_bytes(b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "half a surrogate as name": file_bytes({"\ud800": F32}, bytes(8)),
    "metadata is a list": file_bytes({"__metadata__": [], "w": F32}, bytes(8)),
    "metadata of numbers": file_bytes({"__metadata__": {"a": 1}, "w": F32}, bytes(8)),
    "entry is a number": file_bytes({"w": 1}),
    "entry lacks offsets": file_bytes({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "entry has more": file_bytes(entry(more=1), bytes(8)),
    "unknown dtype": file_bytes(entry(dtype="F12"), bytes(8)),
    "dtype is a list": file_bytes(entry(dtype=["F32"]), bytes(8)),
    "dtype is an object": file_bytes(entry(dtype={}), bytes(8)),
    "dtype is null": file_bytes(entry(dtype=None), bytes(8)),
    "negative shape": file_bytes(entry(shape=[-2]), bytes(8)),
    "two negative sizes": file_bytes(entry(shape=[-2, -1]), bytes(8)),
    "fraction in shape": file_bytes(entry(shape=[2.0]), bytes(8)),
    "true in shape": file_bytes(entry(shape=[2, True]), bytes(8)),
    "NaN in shape": file_bytes(entry(shape=[float("nan")]), bytes(8)),
    "shape is a number": file_bytes(entry(shape=2), bytes(8)),
    "shape is null": file_bytes(entry(shape=None), bytes(8)),
    "overflowing shape": file_bytes(entry(shape=[2**32, 2**32]), bytes(8)),
    "overflow to the right size": file_bytes(entry(shape=[2**62, 4, 2]), bytes(8)),
    "shape of 4300 digits": file_bytes(entry(shape=[HUGE]), bytes(8)),
    "a thousand axes": file_bytes(entry(shape=[1] * 1000 + [2]), bytes(8)),
    "negative offset": file_bytes(entry(data_offsets=[-8, 0]), bytes(8)),
    "offsets backwards": file_bytes(entry(data_offsets=[8, 0]), bytes(8)),
    "one offset": file_bytes(entry(data_offsets=[8]), bytes(8)),
    "offsets are text": file_bytes(entry(data_offsets=["0", "8"]), bytes(8)),
    "offset of 4300 digits": file_bytes(entry(data_offsets=[10 * HUGE - 9, 10 * HUGE - 1]), bytes(8)),
    "size is not that of the shape": file_bytes(entry(shape=[3]), bytes(8)),
    "starts late": file_bytes(entry(data_offsets=[8, 16]), bytes(16)),
    "truncated": file_bytes(entry(), bytes(7)),
    "padded": file_bytes(entry(), bytes(9)),
    "overlap": file_bytes({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
    "same bytes twice": file_bytes({"a": F32, "b": F32}, bytes(8)),
    "hole": file_bytes({"a": F32, "b": F32 | {"data_offsets": [12, 20]}}, bytes(20)),
    "empty tensor inside another": file_bytes({"a": F32, "b": F32 | {"shape": [0], "data_offsets": [4, 4]}}, bytes(8)),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_are_header_errors_with_short_messages(tmp_path: Path, data: bytes) -> None:
    """Never another exception, nor a message of megabytes: it goes into a record and is printed."""
    (tmp_path / SINGLE).write_bytes(data)
    with pytest.raises(HeaderError) as caught:
        Checkpoint.open(tmp_path)
    assert len(str(caught.value).encode()) < 2000


@pytest.mark.parametrize("case", ["10 GB header", "header length 2**64 - 1"])
def test_a_claimed_length_allocates_nothing(tmp_path: Path, case: str) -> None:
    """The length is eight bytes of a stranger; believing it would fill the memory."""
    path = tmp_path / SINGLE
    path.write_bytes(MALFORMED[case])
    tracemalloc.start()
    with pytest.raises(HeaderError, match="claims a header"):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_a_sparse_file_as_large_as_it_claims_is_refused(tmp_path: Path) -> None:
    """A file may have 10 GB on disk for nothing; the limit holds before anything is read."""
    path = tmp_path / SINGLE
    with path.open("wb") as file:
        file.write((10 * 2**30).to_bytes(8, "little") + b"{")
        file.truncate(10 * 2**30 + 8)
    with pytest.raises(HeaderError, match="claims a header of 10737418240 bytes"):
        read_header(path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_headers_are_header_errors_or_good_files(data: st.DataObject) -> None:
    """A field replaced by any JSON whatever: refused, or still a file that the reference implementation reads."""
    header: dict[str, Any] = {
        "a": copy.deepcopy(F32),
        "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
        "c": {"dtype": "I64", "shape": [], "data_offsets": [20, 28]},
    }
    place = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "entry", "metadata", "number"]))
    name = data.draw(st.sampled_from(["a", "b", "c"]))
    junk = data.draw(JUNK)
    if place == "entry":
        header[name] = junk
    elif place == "metadata":
        header["__metadata__"] = junk
    elif place == "number":
        header[name]["data_offsets"][data.draw(st.sampled_from([0, 1]))] = junk
    else:
        header[name][place] = junk
    check_like_reference(file_bytes(header, bytes(28)))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bytes_are_header_errors_or_good_files(data: st.DataObject) -> None:
    """Files are damaged on the way; no damage may end in another exception or another reading."""
    good = file_bytes({"a": F32, "b": {"dtype": "F16", "shape": [1, 2], "data_offsets": [8, 12]}}, bytes(12))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)) | st.none())
    check_like_reference(bytes(damaged[:cut]))


def check_like_reference(file: bytes) -> None:
    """Ours refuses with HeaderError, or both agree about every tensor: no file may mean two things."""
    try:
        ours = parse(file)
    except HeaderError:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SINGLE
        path.write_bytes(file)
        try:
            with safe_open(path, "pt") as reference:
                theirs = {name: tuple(reference.get_slice(name).get_shape()) for name in reference.keys()}  # noqa: SIM118
        except SafetensorError as error:  # pragma: no cover
            raise AssertionError(f"the reference refuses what we take: {error}, {file!r}") from None
    assert {name: spec.shape for name, spec in ours.items()} == theirs


@pytest.mark.parametrize("name", sorted(ITEM_BYTES))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (7, 5)], ids=str)
def test_every_dtype_is_read_as_the_reference_reads_it(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    """Bit for bit: the bytes of both tensors are equal."""
    dtype = getattr(torch, TORCH_NAMES[name])
    count = torch.Size(shape).numel() * ITEM_BYTES[name]
    raw = torch.randint(0, 2 if name == "BOOL" else 256, (count,), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(shape)
    save_file({"w": tensor, "x": torch.ones(3)}, tmp_path / SINGLE)
    read = Checkpoint.open(tmp_path).read("w")
    reference = load_file(tmp_path / SINGLE)["w"]
    assert (read.dtype, read.shape) == (reference.dtype, reference.shape) == (dtype, torch.Size(shape))
    assert read.reshape(-1).view(torch.uint8).tolist() == raw.tolist()


def test_unaligned_tensors_are_read_exactly(tmp_path: Path) -> None:
    """The format promises no alignment: here a byte comes first, so everything after it begins at an odd offset."""
    values = torch.arange(5, dtype=torch.float64)
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F64", "shape": [5], "data_offsets": [1, 41]},
    }
    (tmp_path / SINGLE).write_bytes(file_bytes(header, b"\x07" + values.numpy().tobytes()))
    checkpoint = Checkpoint.open(tmp_path)
    assert torch.equal(checkpoint.read("b"), values)
    assert checkpoint.read("a").tolist() == [7]


def test_changing_a_tensor_that_was_read_does_not_change_the_file(tmp_path: Path) -> None:
    """A merge works in place; the contribution's file must survive it."""
    checkpoint = Checkpoint.open(save_folder(tmp_path, {"w": torch.ones(4)}))
    checkpoint.read("w").zero_()
    assert Checkpoint.open(tmp_path).read("w").tolist() == [1.0] * 4


def test_metadata_and_order_are_kept(tmp_path: Path) -> None:
    """The writer lays tensors out as the base has them and takes over its metadata."""
    checkpoint = Checkpoint.open(save_folder(tmp_path, {"b": torch.ones(2), "a": torch.ones(3)}))
    assert checkpoint.metadata == {SINGLE: {"format": "pt"}}
    assert set(checkpoint) == {"a", "b"}


def test_a_sharded_checkpoint_reads_like_a_whole_one(tmp_path: Path) -> None:
    """Where the tensors lie is of no concern to the reader."""
    tensors = {f"t{i}": torch.randn(3, i) for i in range(7)}
    whole, parts = (Checkpoint.open(save_folder(tmp_path / str(n), tensors, shards=n)) for n in (1, 3))
    assert sorted(whole) == sorted(parts)
    assert len(parts.files) == 3
    assert all(torch.equal(whole.read(name), parts.read(name)) for name in whole)


NAMES = ["../../etc/x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", ".x.safetensors",
         "x.bin", "", "x\x00.safetensors", "x\n.safetensors", "\ud800.safetensors",
         "x" * 5000 + ".safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_shards_are_plain_file_names(tmp_path: Path, name: str) -> None:
    """An index is a stranger's: its names are opened, downloaded and deleted."""
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(HeaderError) as caught:
        Checkpoint.open(tmp_path)
    assert len(str(caught.value).encode("utf-8", "surrogatepass")) < 2000
    str(caught.value).encode()  # it goes into a record


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": [1]}', '{"weight_map": {"w": null}}', "[" * 100_000,
             '{"weight_map": {"w": 1}}', '{"weight_map": {}}', '{"weight_map": {"\\ud800": "model.safetensors"}}']
)  # fmt: skip
def test_broken_indexes_are_header_errors(text: str) -> None:
    """Whatever is in the file."""
    with pytest.raises(HeaderError):
        read_index(text, source="index")


def test_an_index_that_is_no_text_is_a_header_error(tmp_path: Path) -> None:
    """Not UnicodeDecodeError: callers catch WeightsError."""
    (tmp_path / INDEX).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HeaderError, match=r"index\.json"):
        Checkpoint.open(tmp_path)


def test_an_index_must_keep_its_promises(tmp_path: Path) -> None:
    """Tensors that no shard has, shards that are not there, tensors that two shards have."""
    folder = save_folder(tmp_path / "a", {"v": torch.ones(2), "w": torch.ones(2)}, shards=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["lost"] = index["weight_map"]["w"]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(HeaderError, match="1 tensors that no shard has: lost"):
        Checkpoint.open(folder)
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(HeaderError, match=r"cannot read .*model-00001-of-00002"):
        Checkpoint.open(folder)
    (folder / "model-00001-of-00002.safetensors").write_bytes(
        (folder / "model-00002-of-00002.safetensors").read_bytes()
    )
    with pytest.raises(HeaderError, match="tensor 'w' is in"):
        Checkpoint.open(folder)


def test_a_folder_without_weights_says_what_to_do(tmp_path: Path) -> None:
    """The most frequent mistake of all."""
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor .*: save it with safetensors"):
        Checkpoint.open(tmp_path)
