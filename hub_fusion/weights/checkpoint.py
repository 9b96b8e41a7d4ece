"""Safetensors on this machine: headers checked strictly, tensors read in place, shards written at known offsets.

The format: 8 bytes little-endian header length, a JSON header, then the bytes of all tensors without holes
(https://github.com/huggingface/safetensors#format). Nothing here imports torch until a tensor is read, and nothing is
ever unpickled. Not covered: sub-byte dtypes, and reading from the Hub (see remote.py).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from hub_fusion.errors import HeaderError, WeightsError
from hub_fusion.weights.store import LocalFiles, Store

if TYPE_CHECKING:
    from contextlib import ExitStack

    import numpy as np
    import torch

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
    "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
FLOATS = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"})
WRITABLE = FLOATS - {"F8_E4M3", "F8_E5M2"}  # a sum rounded to 8 bits loses what training changed
TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I16": "int16",
    "U16": "uint16", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32",
    "F64": "float64", "I64": "int64", "U64": "uint64", "C64": "complex64",
}  # fmt: skip
MAX_HEADER_BYTES = 25_000_000  # 200,000 tensors; the format allows 100 MB, which a stranger can make 2 GB of objects of
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"\w[\w. +=@-]{0,200}\.safetensors")


@dataclass(frozen=True)
class TensorSpec:
    """What a header says about one tensor; `start` counts from the first byte of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    size_bytes: int


def header_length(prefix: bytes, *, source: str) -> int:
    """Length of the JSON header in bytes, from the first 8 bytes of a file. Raises HeaderError."""
    if len(prefix) < 8:
        raise HeaderError(f"{source} has {len(prefix)} bytes, too short for a safetensors file: upload it again")
    length = int.from_bytes(prefix[:8], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise HeaderError(f"{source} claims a header of {length} bytes; allowed are 2 to {MAX_HEADER_BYTES}")
    return length


def parse_header(header: bytes, file_size: int, *, source: str) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """Tensors by name, and the metadata, from the JSON part of a file of `file_size` bytes.

    Raises HeaderError for everything the format forbids: duplicate names, unknown dtypes, negative or overflowing
    shapes, offsets that overlap, leave holes or do not end with the file; and for names that cannot be printed.
    """
    if header[:1] != b"{":
        raise HeaderError(f"{source}: the header does not begin with '{{' but with {header[:1]!r}")
    try:
        data = json.loads(header.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{source}: the header is not JSON: {error}") from None
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(v, str) and _is_unicode(k + v) for k, v in metadata.items()
    ):
        raise HeaderError(f"{source}: __metadata__ must map strings to strings")
    data_start = 8 + len(header)
    tensors = {name: _spec(name, entry, data_start, source) for name, entry in data.items()}
    end = data_start
    for spec in sorted(tensors.values(), key=lambda s: (s.start, s.size_bytes)):
        if spec.start != end:
            law = "overlaps the tensor before it" if spec.start < end else "leaves a hole before it"
            raise HeaderError(f"{source}: tensor {spec.name[:200]!r} {law} (starts at {spec.start}, expected {end})")
        end += spec.size_bytes
    if end != file_size:
        raise HeaderError(f"{source} has {file_size} bytes but its header describes {end}: truncated or padded")
    return tensors, metadata


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _is_unicode(text: str) -> bool:
    """JSON may escape half a surrogate pair, which UTF-8 cannot carry."""
    return not any("\ud800" <= ch <= "\udfff" for ch in text)


def _spec(name: str, entry: Any, data_start: int, source: str) -> TensorSpec:
    where = f"{source}: tensor {name[:200]!r}"
    if not name.isprintable():
        raise HeaderError(f"{where} has a name that cannot be printed")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"{where} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise HeaderError(f"{where} has dtype {repr(dtype)[:100]}; known are {', '.join(ITEM_BYTES)}")
    if not _are_sizes(shape, 16) or not _are_sizes(offsets, 2) or len(offsets) != 2:
        given = f"shape {repr(shape)[:100]} and offsets {repr(offsets)[:100]}"
        raise HeaderError(f"{where} has {given}; both are short lists of integers from 0 to 2⁴⁸")
    size = prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != size:
        raise HeaderError(f"{where} {dtype}{shape} needs {size} bytes, its offsets give {offsets[1] - offsets[0]}")
    return TensorSpec(name, dtype, tuple(shape), "", data_start + offsets[0], size)


def _are_sizes(value: Any, most: int) -> bool:
    """Whether a value is a list of at most `most` sizes or places in a file."""
    return isinstance(value, list) and len(value) <= most and all(type(n) is int and 0 <= n <= 2**48 for n in value)


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes, as the Hub gives it."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weights_sha256(files: Mapping[str, str]) -> str:
    """sha256 over the sorted ``file sha256`` lines of a checkpoint."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_index(text: str, *, source: str) -> dict[str, str]:
    """Tensor → shard file from ``model.safetensors.index.json``. Raises HeaderError (also for paths as file names)."""
    try:
        weight_map = json.loads(text)["weight_map"]
        pairs = {str(k): str(v) for k, v in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderError(f"{source} has no usable weight_map: {error}") from None
    if not pairs:
        raise HeaderError(f"{source} lists no tensors")
    strange = next((name for name in pairs if not name.isprintable()), None)
    if strange is not None:
        raise HeaderError(f"{source} names the tensor {strange[:200]!r}, which cannot be printed")
    for file in set(pairs.values()):
        if not SHARD.fullmatch(file):
            raise HeaderError(f"{source} names the shard {file[:200]!r}; shards are plain *.safetensors file names")
    return pairs


class Checkpoint(Mapping[str, TensorSpec]):
    """The tensors of a local folder (or of one file), by on-disk name; read in place, never copied to memory whole."""

    longer: Mapping[str, int] = MappingProxyType({})  # see Lengthened

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.files = folder, files
        self.store: Store = LocalFiles(folder)
        self.bytes_read = 0
        self.tensors: dict[str, TensorSpec] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self._maps: dict[str, mmap.mmap] = {}
        for file in files:
            tensors, self.metadata[file] = read_header(folder / file)
            for spec in tensors.values():
                if spec.name in self.tensors:
                    raise HeaderError(
                        f"{folder}: tensor {spec.name[:200]!r} is in {self.tensors[spec.name].file} and {file}"
                    )
                self.tensors[spec.name] = TensorSpec(
                    spec.name, spec.dtype, spec.shape, file, spec.start, spec.size_bytes
                )

    @classmethod
    def open(cls, folder: Path, name: str = SINGLE) -> Checkpoint:
        """Open ``model.safetensors``, or the shards that its index lists. Raises WeightsError if there is neither."""
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return cls(folder, [name])
        if index.is_file():
            weight_map = read_index(_read_text(index), source=str(index))
            checkpoint = cls(folder, sorted(set(weight_map.values())))
            lost = sorted(set(weight_map) - set(checkpoint.tensors))
            if lost:
                raise HeaderError(
                    f"{index} lists {len(lost)} tensors that no shard has: {', '.join(name[:200] for name in lost[:5])}"
                )
            return checkpoint
        raise WeightsError(f"{folder} has neither {name} nor {name}.index.json: save it with safetensors")

    @classmethod
    def of(
        cls, name: str, tensors: Mapping[str, TensorSpec], metadata: Mapping[str, dict[str, str]], store: Store
    ) -> Self:
        """A checkpoint whose headers have been read already, from a store of any kind; `name` is for messages."""
        made = cls.__new__(cls)
        made.folder, made.files, made.store, made.bytes_read = Path(name), list(metadata), store, 0
        made.tensors, made.metadata, made._maps = dict(tensors), dict(metadata), {}
        return made

    def __getitem__(self, name: str) -> TensorSpec:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def whole(self) -> Checkpoint:
        """As it is stored, also where it is seen as a Lengthened one."""
        return self

    def raw(self, name: str, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """Elements [first, last) of the flat tensor as they are stored (see codec.STORED), read into `out` if given.

        Raises WeightsError for a file that no longer holds them.
        """
        import numpy as np

        from hub_fusion.weights.codec import STORED

        spec = self.tensors[name]
        item = ITEM_BYTES[spec.dtype]
        if out is None:
            out = np.empty(last - first, STORED[spec.dtype])
        if last > first:
            self.store.read_into(spec.file, spec.start + first * item, memoryview(out.data).cast("B"))
            self.bytes_read += (last - first) * item
        return out

    def lengthened(self, longer: Mapping[str, tuple[tuple[int, ...], int]]) -> Lengthened:
        """See Lengthened; the same one for the same lengths."""
        known: dict[str, Lengthened] = self.__dict__.setdefault("_lengthened", {})
        return known.setdefault(repr(sorted(longer.items())), Lengthened(self, longer))

    @property
    def is_local(self) -> bool:
        """Whether it lies in files of this machine."""
        return isinstance(self.store, LocalFiles)

    def opened(self, name: str, first: int, last: int, meanwhile: ExitStack) -> tuple[int, int]:
        """The file of elements [first, last) and the byte where they begin, for those who read them without `raw`.

        Of local ones only. It stays open until the end of `meanwhile`. Raises WeightsError if it cannot be opened.
        """
        assert isinstance(self.store, LocalFiles), self.store
        spec = self.tensors[name]
        item = ITEM_BYTES[spec.dtype]
        self.bytes_read += (last - first) * item
        return self.store.opened(spec.file, meanwhile), spec.start + first * item

    def read(self, name: str) -> torch.Tensor:
        """The tensor in its stored dtype, a view of the mapped file (changing it changes only the copy in memory)."""
        import torch

        spec = self.tensors[name]
        dtype = getattr(torch, TORCH_NAMES[spec.dtype])
        if not spec.size_bytes:
            return torch.empty(spec.shape, dtype=dtype)
        if spec.file not in self._maps:
            with (self.folder / spec.file).open("rb") as file:
                self._maps[spec.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        item = ITEM_BYTES[spec.dtype]
        flat: torch.Tensor
        if spec.start % item:  # torch wants aligned views; the format does not promise alignment
            raw = bytearray(self._maps[spec.file][spec.start : spec.start + spec.size_bytes])
            flat = torch.frombuffer(raw, dtype=dtype)
        else:
            flat = torch.frombuffer(
                self._maps[spec.file], dtype=dtype, count=spec.size_bytes // item, offset=spec.start
            )
        return flat.reshape(spec.shape)


class Lengthened(Checkpoint):
    """A checkpoint some of whose tensors go on with zeros, as what it is compared with has more rows.

    `longer`: tensor → its shape as it is seen, and how many elements of it are read. Its own are the first.
    """

    def __init__(self, checkpoint: Checkpoint, longer: Mapping[str, tuple[tuple[int, ...], int]]) -> None:
        self.__dict__.update(vars(checkpoint))
        self._whole = checkpoint
        self.longer = {name: elements for name, (_, elements) in longer.items()}
        self.tensors = checkpoint.tensors | {
            name: replace(checkpoint[name], shape=shape, size_bytes=prod(shape) * ITEM_BYTES[checkpoint[name].dtype])
            for name, (shape, _) in longer.items()
        }

    @property
    def whole(self) -> Checkpoint:
        """As it is stored."""
        return self._whole

    def raw(self, name: str, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """As of a checkpoint."""
        import numpy as np

        from hub_fusion.weights.codec import STORED

        end = min(last, max(self.longer.get(name, last), first))
        if out is None:
            out = np.empty(last - first, STORED[self.tensors[name].dtype])
        super().raw(name, first, end, out[: end - first])
        out[end - first :] = 0
        return out


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HeaderError(f"cannot read {path}: {error}") from None


def read_header(path: Path) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """Tensors and metadata of one local file. Raises HeaderError."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = header_length(file.read(8), source=str(path))
            if 8 + length > size:
                raise HeaderError(f"{path} claims a header of {length} bytes but has only {size}: truncated")
            return parse_header(file.read(length), size, source=str(path))
    except OSError as error:
        raise HeaderError(f"cannot read {path}: {error.strerror}") from None
