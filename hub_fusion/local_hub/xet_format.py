"""The two binary formats of Xet uploads, as far as a server must read them.

A xorb is a row of chunks, each behind 8 bytes: version 0, packed length (3 bytes), scheme, plain length (3 bytes), all
little-endian. Schemes: 0 plain, 1 LZ4 frame, 2 LZ4 frame of bytes grouped by their position modulo 4.

A shard is rows of 48 bytes: a header, then per file one row with its hash, one per term (a range of chunks of one
xorb), one per term for verification if flagged, one with the sha256 if flagged; a row of 0xff ends the files.
Hashes are printed as four little-endian 64-bit numbers.
"""

import struct
from dataclasses import dataclass
from mmap import mmap

import lz4.frame

HEADER = struct.Struct("<B3sB3s")
ROW = 48
VERIFIED, WITH_SHA256 = 1 << 31, 1 << 30
PLAIN, LZ4, GROUPED_LZ4 = 0, 1, 2


class BadXet(ValueError):
    """Bytes that are not what the format says."""


@dataclass(frozen=True)
class Term:
    """Chunks `first` up to, not including, `end` of a xorb."""

    xorb: str
    first: int
    end: int


@dataclass(frozen=True)
class FileInShard:
    """A file: what its sha256 must be and where its bytes are."""

    sha256: str
    terms: list[Term]


def hash_text(raw: bytes) -> str:
    """How 32 bytes of hash are printed."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def chunk_index(xorb: bytes | mmap) -> list[int]:
    """The offset of every chunk. What follows the chunks (an optional footer) is passed over."""
    offsets: list[int] = []
    at = 0
    while at + HEADER.size <= len(xorb) and xorb[at] == 0:
        packed = int.from_bytes(xorb[at + 1 : at + 4], "little")
        if xorb[at + 4] > GROUPED_LZ4 or at + HEADER.size + packed > len(xorb):
            raise BadXet(f"chunk {len(offsets)} is cut off or of an unknown scheme")
        offsets.append(at)
        at += HEADER.size + packed
    if not offsets:
        raise BadXet("no chunks")
    return offsets


def decode_chunk(xorb: bytes | mmap, at: int) -> bytes:
    """The plain bytes of the chunk at this offset."""
    _, packed, scheme, plain = HEADER.unpack_from(xorb, at)
    start = at + HEADER.size
    data = xorb[start : start + int.from_bytes(packed, "little")]
    size = int.from_bytes(plain, "little")
    if scheme != PLAIN:
        try:
            data = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        except RuntimeError as error:
            raise BadXet(f"a chunk does not decompress: {error}") from None
    if len(data) != size:
        raise BadXet("a chunk has another length than it says")
    return _ungroup(data) if scheme == GROUPED_LZ4 else data


def _ungroup(data: bytes) -> bytes:
    out = bytearray(len(data))
    at = 0
    for group in range(4):
        count = (len(data) + 3 - group) // 4
        out[group::4] = data[at : at + count]
        at += count
    return bytes(out)


def parse_shard(shard: bytes) -> list[FileInShard]:
    """The files a shard describes."""
    files: list[FileInShard] = []
    at = ROW
    while True:
        row = _row(shard, at)
        if row[:32] == b"\xff" * 32:
            return files
        flags, count = struct.unpack_from("<II", row, 32)
        at += ROW
        if count * ROW > len(shard):
            raise BadXet("more terms than bytes")
        terms = []
        for term_at in range(at, at + count * ROW, ROW):
            term = _row(shard, term_at)
            first, end = struct.unpack_from("<II", term, 40)
            terms.append(Term(hash_text(term[:32]), first, end))
        at += count * ROW * (2 if flags & VERIFIED else 1)
        if not flags & WITH_SHA256:
            raise BadXet("a file without its sha256")
        files.append(FileInShard(hash_text(_row(shard, at)[:32]), terms))
        at += ROW


def _row(shard: bytes, at: int) -> bytes:
    row = shard[at : at + ROW]
    if len(row) < ROW:
        raise BadXet("the shard is cut off")
    return row
