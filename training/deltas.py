"""Lossless difference of two weights files, so that a policy version travels small.

algorithms.md section 5. File: u32 big-endian header length; header (msgpack); the tensors of the
new version that are not bf16, raw, in order of name; then the bf16 tensors, in order of name one
row of weights cut into chunks of 8 Mi, each chunk as u32 big-endian length and what
primed.native.deltas packs. Base and result are named by their weights digests: a wrong base is
refused, a wrong result is never kept. A span of several versions is encoded from its end points.
Files are mapped and chunks go one by one: memory is bounded by a chunk, whatever the model.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from primed.native import deltas as chunks
from primed.native.errors import MalformedBytes
from primed.training import weights
from primed.training.errors import BadInput
from primed.verify.runspec import Digest

CHUNK_WEIGHTS = 8 * 1024 * 1024
HEADER_MAX_BYTES = 1024
_LENGTH = struct.Struct(">I")
_MAGIC = "primed-delta/2"
_PIECE_BYTES = 4 * 1024 * 1024
_BF16 = np.dtype("<u2")

U16 = NDArray[np.uint16]


class BadDelta(BadInput):
    """The delta is malformed, belongs to another base, or does not give what it promises."""


class _Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    magic: str
    base: Digest
    new: Digest
    bf16_weights: Annotated[int, Meta(ge=0, le=1 << 44)]
    raw_bytes: Annotated[int, Meta(ge=0, le=1 << 44)]


class _Tensors:
    """The tensors of a file in the order in which a delta holds them."""

    def __init__(self, path: Path) -> None:
        tensors, _ = weights.read(path)
        self.all = dict(sorted(tensors.items()))
        self.layout: weights.Layout = {name: (t.dtype, t.shape) for name, t in self.all.items()}
        self.bf16 = [t.reshape(-1) for t in self.all.values() if t.dtype == _BF16]
        self.raw = [t for t in self.all.values() if t.dtype != _BF16]
        self.bf16_weights = sum(t.size for t in self.bf16)
        self.raw_bytes = sum(t.nbytes for t in self.raw)


def encode(base_path: Path, new_path: Path, out_path: Path) -> int:
    """Write the delta that turns base into new, of whatever distance; returns its size in bytes.
    Raises BadDelta if the two do not hold the same tensors, or BadWeights."""
    base, new = _Tensors(base_path), _Tensors(new_path)
    if base.layout != new.layout:
        raise BadDelta("the two files hold different tensors")
    header = msgspec.msgpack.encode(
        _Header(
            _MAGIC,
            weights.digest_of(base.all),
            weights.digest_of(new.all),
            new.bf16_weights,
            new.raw_bytes,
        )
    )

    def fill(file: BinaryIO) -> None:
        file.write(_LENGTH.pack(len(header)) + header)
        file.writelines(weights.bytes_of(tensor) for tensor in new.raw)
        for old, now in zip(_chunks_of(base.bf16), _chunks_of(new.bf16), strict=True):
            packed = chunks.pack(old, now)
            file.write(_LENGTH.pack(len(packed)) + packed)

    weights.write_atomically(out_path, fill)
    return out_path.stat().st_size


def apply(base_path: Path, delta_path: Path, out_path: Path, expected: bytes) -> None:
    """Write base plus delta, whose weights digest must be `expected`. Raises BadDelta or BadWeights
    and then leaves no file behind."""
    base = _Tensors(base_path)
    with delta_path.open("rb") as delta:
        header = _header_of(delta)
        if header.new != expected:
            raise BadDelta("the delta makes another version than expected")
        if (header.bf16_weights, header.raw_bytes) != (base.bf16_weights, base.raw_bytes):
            raise BadDelta("the delta is for a model of another size")
        if header.base != weights.digest_of(base.all):
            raise BadDelta("the delta starts from another version")

        def fill(file: BinaryIO) -> None:
            _write_new(delta, base, file)
            file.flush()
            if weights.digest_of_file(Path(file.name)) != expected:
                raise BadDelta("the result is not the version that the delta promises")

        weights.write_atomically(out_path, fill)


def _write_new(delta: BinaryIO, base: _Tensors, file: BinaryIO) -> None:
    """A weights file holds the wide tensors first, then the bf16 ones in order of name: as the
    delta has them."""
    file.write(weights.header_of(base.layout))
    file.writelines(
        _exactly(delta, min(_PIECE_BYTES, base.raw_bytes - at))
        for at in range(0, base.raw_bytes, _PIECE_BYTES)
    )
    out = np.empty(min(CHUNK_WEIGHTS, base.bf16_weights), np.uint16)
    for old in _chunks_of(base.bf16):
        length = _LENGTH.unpack(_exactly(delta, _LENGTH.size))[0]
        if length > chunks.packed_bytes_max(len(old)):
            raise BadDelta("a chunk is longer than it can be")
        try:
            chunks.unpack(old, _exactly(delta, length), out[: len(old)])
        except MalformedBytes as error:
            raise BadDelta(f"a chunk is malformed: {error}") from error
        file.write(weights.bytes_of(out[: len(old)]))
    if delta.read(1):
        raise BadDelta("bytes after the last chunk")


def _chunks_of(tensors: Sequence[U16]) -> Iterator[U16]:
    """The tensors as one row, cut into chunks. A chunk is valid until the next one is asked for."""
    size, used = CHUNK_WEIGHTS, 0
    buffer = np.empty(size, np.uint16)
    for tensor in tensors:
        at = 0
        while at < tensor.size:
            if not used and tensor.size - at >= size:
                yield tensor[at : at + size]  # as it lies in the map
                at += size
                continue
            part = min(size - used, tensor.size - at)
            buffer[used : used + part] = tensor[at : at + part]
            at, used = at + part, used + part
            if used == size:
                yield buffer
                used = 0
    if used:
        yield buffer[:used]


def _header_of(file: BinaryIO) -> _Header:
    size_bytes = int.from_bytes(file.read(_LENGTH.size), "big")
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


def _exactly(file: BinaryIO, size_bytes: int) -> bytes:
    """Callers bound the size by what the base says."""
    data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise BadDelta("the delta is cut short")
    return data
