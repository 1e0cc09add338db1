"""Lossless deltas between two versions of bf16 weights, chunk by chunk (twins/delta.py, zstd).

A packed chunk is one byte that says what follows: nothing changed; a zstd frame of changes; or,
where that is smaller (weights that have nothing to do with each other), a zstd frame of the new
weights, exponents and sign-mantissas apart. The frame states its content's size, so what it can
unpack to is known, and bounded, before it does. Weights are uint16 [n]: NumPy arrays, or CPU
tensors by DLPack, read and written where they lie.
"""

from __future__ import annotations

import numpy as np
import zstandard
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.arguments import as_numpy, check_array, check_range, plain
from primed.native.errors import MalformedBytes
from primed.native.twins import delta as twin
from primed.native.twins.delta import WEIGHTS_MAX

U16 = NDArray[np.uint16]

_SAME, _CHANGES, _WHOLE = 0, 1, 2
_LEVEL = 1  # entropy coding is all there is to gain: higher levels find false matches
_WINDOW_MAX_BYTES = 128 * 1024 * 1024
_MAY_BE_WHOLE_ABOVE = 0.25  # share of changed weights from which the second form is tried

__all__ = ["WEIGHTS_MAX", "apply", "encode", "pack", "packed_bytes_max", "unpack"]


def encode(old: U16, new: U16) -> tuple[bytes, list[int]]:
    """The changes from old to new, uncompressed, and where a compressor does well to begin anew."""
    old, new = as_numpy(old), as_numpy(new)
    _check_chunk(old, new)
    if compiled.ext is None:
        return twin.encode(old, new)
    return compiled.ext.delta_encode(plain(old), plain(new))


def apply(old: U16, changes: bytes, out: U16) -> None:
    """Write old with the changes, bytes from anywhere, to `out`, another array. Raises
    MalformedBytes; `out` is then of no use."""
    old, out = as_numpy(old), as_numpy(out)
    _check_out(old, out)
    try:
        if compiled.ext is None:
            out[:] = twin.decode(old, changes)
        else:
            data = np.frombuffer(changes, np.uint8)
            compiled.ext.delta_apply(plain(old), data, out)
    except ValueError as error:
        raise MalformedBytes(str(error)) from None


def pack(old: U16, new: U16) -> bytes:
    """The chunk of a delta that turns old into new."""
    old, new = as_numpy(old), as_numpy(new)
    changes, cuts = encode(old, new)
    if not changes:
        return bytes([_SAME])
    packed = bytes([_CHANGES]) + _compressed(changes, cuts)
    # A change takes at least two bytes, so this looks at all chunks with so many changes.
    if len(changes) > 2 * _MAY_BE_WHOLE_ABOVE * len(old):
        whole = bytes([_WHOLE]) + _compressed(_split(new), [len(new)])
        packed = min(packed, whole, key=len)
    return packed


def unpack(old: U16, packed: bytes, out: U16) -> None:
    """Write what a packed chunk from anywhere makes of old to `out`, another array. Raises
    MalformedBytes; `out` is then of no use."""
    old, out = as_numpy(old), as_numpy(out)
    _check_out(old, out)
    kind, frame = packed[:1], memoryview(packed)[1:]
    if kind == bytes([_CHANGES]):
        changes = _decompressed(frame, _changes_bytes_max(len(old)))
        if not changes:
            raise MalformedBytes("no changes")
        apply(old, changes, out)
    elif kind == bytes([_WHOLE]):
        planes = _decompressed(frame, 2 * len(old))
        if len(planes) != 2 * len(old):
            raise MalformedBytes("another number of weights")
        _join(planes, out)
    elif packed == bytes([_SAME]):
        out[:] = old
    else:
        raise MalformedBytes("a chunk of no known kind")


def packed_bytes_max(count: int) -> int:
    """No packed chunk of `count` weights is longer: what zstd makes of bytes without a pattern."""
    check_range("count", count, 0, WEIGHTS_MAX)
    plain = _changes_bytes_max(count)
    return 1 + plain + plain // 128 + 3 * 514 + 1024  # a cut costs a block header


def _changes_bytes_max(count: int) -> int:
    # counts, gaps, distances, large distances, signs
    return 4 * twin.CLASSES + (count + count // 255) + count + 2 * count + count // 8 + 1


def _compressed(plain: bytes, cuts: list[int]) -> bytes:
    writer = zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=len(plain))
    view, parts, at = memoryview(plain), [], 0
    for cut in cuts:
        parts += [
            writer.compress(view[at:cut]),
            writer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
        ]
        at = cut
    return b"".join([*parts, writer.compress(view[at:]), writer.flush()])


def _decompressed(frame: memoryview, bound_bytes: int) -> bytes:
    try:
        stated = zstandard.get_frame_parameters(frame).content_size
        if stated > bound_bytes:
            raise MalformedBytes(f"a frame states {stated} bytes where {bound_bytes} are possible")
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX_BYTES)
        return reader.decompress(frame, max_output_size=bound_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedBytes(f"a frame does not decompress: {error}") from error


def _split(weights: U16) -> bytes:
    if compiled.ext is None:
        return twin.split(weights).tobytes()
    out = np.empty(2 * len(weights), np.uint8)
    compiled.ext.delta_split(plain(weights), out)
    return out.tobytes()


def _join(planes: bytes, out: U16) -> None:
    data = np.frombuffer(planes, np.uint8)
    if compiled.ext is None:
        out[:] = twin.join(data)
    else:
        compiled.ext.delta_join(data, out)


def _check_chunk(old: U16, other: U16) -> None:
    check_array("old", old, np.uint16, 1)
    check_array("other", other, np.uint16, 1)
    if len(old) != len(other):
        raise ValueError(f"chunks of {len(old)} and {len(other)} weights")
    check_range("weights", len(old), 0, WEIGHTS_MAX)


def _check_out(old: U16, out: U16) -> None:
    _check_chunk(old, out)
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError("out is not contiguous, aligned and writeable")
    if np.may_share_memory(old, out):
        raise ValueError("out is the old weights themselves")
