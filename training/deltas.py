"""Lossless difference of two bf16 weights files, so that a policy version travels small.

algorithms.md section 5, first version: the weights of all tensors in order of name are one row of
16-bit numbers, cut into chunks of 4 Mi. On the ordered integer (one step = one ULP) a chunk is the
gaps between changed places plus zigzag ULP distances there; where more than a quarter changed, the
distances of all its weights; low and high bytes apart, zstd over each. Base and result are named by
their weights digests: a wrong base is refused, a wrong result is never kept.

File: u32 big-endian header length, header (msgpack), the chunks' parts one after another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
import zstandard
from msgspec import Meta, Struct
from numpy.typing import NDArray

from primed.training import weights
from primed.training.errors import BadInput
from primed.verify.runspec import Digest

CHUNK_WEIGHTS = 4 * 1024 * 1024
HEADER_MAX_BYTES = 1024 * 1024
DENSE_ABOVE = 0.25  # share of changed weights
_LEVEL = 3
_WINDOW_MAX_BYTES = 32 * 1024 * 1024
_ESCAPE = 255  # a gap byte that adds 255 and is followed by more

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]


class BadDelta(BadInput):
    """The delta is malformed, belongs to another base, or does not give what it promises."""


class _Chunk(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    changed: Annotated[int, Meta(ge=0, le=CHUNK_WEIGHTS)]
    dense: bool
    parts: Annotated[tuple[Annotated[int, Meta(ge=0, lt=1 << 32)], ...], Meta(max_length=3)]


class _Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    magic: str
    base: Digest
    new: Digest
    weights: Annotated[int, Meta(ge=1, le=1 << 44)]
    chunks: Annotated[tuple[_Chunk, ...], Meta(max_length=1 << 20)]


_MAGIC = "primed-delta/1"


def encode(base_path: Path, new_path: Path, out_path: Path) -> int:
    """Write the delta that turns base into new; returns its size in bytes. Raises BadDelta if the
    two do not hold the same bf16 tensors."""
    base, new = _bf16_of(base_path), _bf16_of(new_path)
    if weights_table(base) != weights_table(new):
        raise BadDelta("the two files hold different tensors")
    chunks, blobs = [], []
    for old, now in zip(_chunks_of(base), _chunks_of(new), strict=True):
        chunk, parts = _encoded(_ordered(old), _ordered(now))
        chunks.append(chunk)
        blobs += parts
    header = msgspec.msgpack.encode(
        _Header(
            _MAGIC,
            weights.digest_of(base),
            weights.digest_of(new),
            sum(tensor.size for tensor in base.values()),
            tuple(chunks),
        )
    )

    def fill(file: BinaryIO) -> None:
        file.write(struct.pack(">I", len(header)) + header)
        file.writelines(blobs)

    weights.write_atomically(out_path, fill)
    return 4 + len(header) + sum(map(len, blobs))


def apply(base_path: Path, delta_path: Path, out_path: Path, expected: bytes) -> None:
    """Write base plus delta, whose weights digest must be `expected`. Raises BadDelta or BadWeights
    and then leaves no file behind."""
    base = _bf16_of(base_path)
    with delta_path.open("rb") as file:
        header = _header_of(file)
        if header.new != expected:
            raise BadDelta("the delta makes another version than expected")
        if header.weights != sum(tensor.size for tensor in base.values()):
            raise BadDelta("the delta is for a model of another size")
        if header.base != weights.digest_of(base):
            raise BadDelta("the delta starts from another version")
        new = {name: np.empty(tensor.shape, np.uint16) for name, tensor in base.items()}
        _decode_into(file, header, base, new)
    if weights.digest_of(new) != expected:
        raise BadDelta("the result is not the version that the delta promises")
    weights.write(out_path, new)


def weights_table(tensors: dict[str, U16]) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tensor.shape) for name, tensor in tensors.items()]


def _bf16_of(path: Path) -> dict[str, U16]:
    tensors, _ = weights.read(path)
    for name, tensor in tensors.items():
        if tensor.dtype != np.uint16:
            raise BadDelta(f"{name}: not bf16")
    return dict(sorted(tensors.items()))


def _chunks_of(tensors: dict[str, U16]) -> Iterator[U16]:
    """Consecutive chunks of each tensor: they never span two, so none is copied to be read."""
    for tensor in tensors.values():
        flat = tensor.reshape(-1)
        for at in range(0, flat.size, CHUNK_WEIGHTS):
            yield flat[at : at + CHUNK_WEIGHTS]


def _ordered(bits: U16) -> U16:
    """bf16 patterns to unsigned integers in the order of their values: one step is one ULP."""
    return np.where(bits & 0x8000, ~bits, bits | 0x8000).astype(np.uint16)


def _unordered(ordered: U16) -> U16:
    return np.where(ordered & 0x8000, ordered & 0x7FFF, ~ordered).astype(np.uint16)


def _zigzag(difference: U16) -> U16:
    signed = difference.view(np.int16)
    return ((signed << 1) ^ (signed >> 15)).view(np.uint16)


def _unzigzag(coded: U16) -> U16:
    return ((coded >> 1) ^ (0 - (coded & 1)).astype(np.uint16)).astype(np.uint16)


def _encoded(old: U16, new: U16) -> tuple[_Chunk, list[bytes]]:
    places = np.flatnonzero(old != new)
    dense = len(places) > DENSE_ABOVE * len(old)
    coded = _zigzag(new - old) if dense else _zigzag(new[places] - old[places])
    streams = [(coded & 0xFF).astype(np.uint8), (coded >> 8).astype(np.uint8)]
    if not dense:
        streams.insert(0, _gap_bytes(places))
    compress = zstandard.ZstdCompressor(level=_LEVEL).compress
    parts = [compress(stream.tobytes()) for stream in streams] if len(places) else []
    return _Chunk(len(places), dense, tuple(map(len, parts))), parts


def _gap_bytes(places: NDArray[np.intp]) -> U8:
    """Distances between places as bytes: 255 adds 255 and continues, anything less ends a gap."""
    gaps = np.diff(places, prepend=-1) - 1
    escapes, rest = np.divmod(gaps, _ESCAPE)
    out = np.full(len(gaps) + int(escapes.sum()), _ESCAPE, np.uint8)
    out[np.cumsum(escapes + 1) - 1] = rest
    return out


def _places_of(gap_bytes: U8, changed: int, size: int) -> NDArray[np.int64]:
    ends = np.flatnonzero(gap_bytes != _ESCAPE)
    if len(ends) != changed or ends[-1] != len(gap_bytes) - 1:
        raise BadDelta("gaps do not match the number of changes")
    places: NDArray[np.int64] = np.cumsum(gap_bytes, dtype=np.int64)[ends] + np.arange(changed)
    if places[-1] >= size:
        raise BadDelta("a change lies outside its chunk")
    return places


def _header_of(file: BinaryIO) -> _Header:
    size_bytes = int.from_bytes(file.read(4), "big")
    if size_bytes > HEADER_MAX_BYTES:
        raise BadDelta(f"header of {size_bytes} bytes")
    try:
        header = msgspec.msgpack.decode(file.read(size_bytes), type=_Header)
    # msgspec lets UnicodeDecodeError through, a ValueError of another kind.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadDelta(f"header does not decode: {error}") from error
    if header.magic != _MAGIC:
        raise BadDelta("not a delta of a known format")
    return header


def _decode_into(
    file: BinaryIO, header: _Header, base: dict[str, U16], new: dict[str, U16]
) -> None:
    olds = list(_chunks_of(base))
    if len(olds) != len(header.chunks):
        raise BadDelta("wrong number of chunks")
    for chunk, old, out in zip(header.chunks, olds, _chunks_of(new), strict=True):
        out[:] = _decoded(file, chunk, old)
    if file.read(1):
        raise BadDelta("bytes after the last chunk")


def _decoded(file: BinaryIO, chunk: _Chunk, old: U16) -> U16:
    if chunk.changed > len(old) or len(chunk.parts) != _parts_of(chunk):
        raise BadDelta("a chunk's description contradicts itself")
    if not chunk.changed:
        return old
    size = len(old) if chunk.dense else chunk.changed
    bounds = [size, size] if chunk.dense else [size + len(old) // _ESCAPE, size, size]
    *gaps, low, high = [
        _decompressed(file, length, bound)
        for length, bound in zip(chunk.parts, bounds, strict=True)
    ]
    if len(low) != size or len(high) != size:
        raise BadDelta("a chunk has the wrong number of values")
    coded: U16 = low.astype(np.uint16) | (high.astype(np.uint16) << np.uint16(8))
    difference = _unzigzag(coded)
    if chunk.dense:
        return _unordered(_ordered(old) + difference)
    places = _places_of(gaps[0], chunk.changed, len(old))
    out = old.copy()
    out[places] = _unordered(_ordered(old[places]) + difference)
    return out


def _parts_of(chunk: _Chunk) -> int:
    return 0 if not chunk.changed else 2 if chunk.dense else 3


def _decompressed(file: BinaryIO, length: int, bound_bytes: int) -> U8:
    """One zstd frame whose stated size is known and within the bound before it is unpacked."""
    if length > bound_bytes + bound_bytes // 128 + 1024:  # what zstd makes of random bytes
        raise BadDelta("a part is longer than it can be")
    data = file.read(length)
    if len(data) != length:
        raise BadDelta("a part is cut short")
    try:
        stated = zstandard.get_frame_parameters(data).content_size
        if stated > bound_bytes:
            raise BadDelta(f"a part states {stated} bytes where {bound_bytes} are possible")
        plain = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX_BYTES).decompress(
            data, max_output_size=bound_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise BadDelta(f"a part does not decompress: {error}") from error
    return np.frombuffer(plain, np.uint8)
