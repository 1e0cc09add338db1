"""Lossless difference of two chunks of bf16 weights, as uint16 (algorithms.md section 5).

Both ends know the old exponents, and the chance that a weight changes falls with its exponent. So
the changed places are grouped by the old exponent's 8 bits (the class) and counted within it. On
the ordered integer, where one step is one unit in the last place, nothing needs an escape: NaN,
infinities and both zeros are integers like others, and a step is a number modulo 2^16.

Bytes, empty if nothing changed: the number of changes of each class 0 to 255 (varint: 7 bits a
byte, lowest first); the gaps between changed ranks, class by class (255 adds 255 and goes on, less
ends a gap); the distances less one, in the same order (255 stands for 255 or more); the distances
less one of those, u16 little-endian; the signs, one bit each, lowest bit first, 1 = down.
"Cuts" are places where the statistics change and a compressor does well to begin a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES = 256
WEIGHTS_MAX = 1 << 24  # of a chunk
_ESCAPE = 255
_CUT_BYTES = 2048

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
Places = NDArray[np.int64]


def encode(old: U16, new: U16) -> tuple[bytes, list[int]]:
    """The bytes that turn old [n] into new [n], and the cuts."""
    order = np.argsort(_class_of(old), kind="stable")
    place = np.flatnonzero(old[order] != new[order])  # by class, then by place
    if not len(place):
        return b"", []
    sizes = np.bincount(_class_of(old), minlength=CLASSES)
    first = np.cumsum(sizes) - sizes
    classes = _class_of(old[order[place]])
    counts = np.bincount(classes, minlength=CLASSES)
    steps = _ordered(new[order[place]]) - _ordered(old[order[place]])
    distances = np.where(steps & 0x8000, 0x10000 - steps.astype(np.int64), steps) - 1
    streams = [_varints(counts)]
    ends = np.cumsum(counts)
    for c in np.flatnonzero(counts):
        ranks = place[ends[c] - counts[c] : ends[c]] - first[c]
        streams.append(_gap_bytes(ranks))
    for c in np.flatnonzero(counts):
        streams.append(np.minimum(distances[ends[c] - counts[c] : ends[c]], _ESCAPE))
    streams.append(distances[distances >= _ESCAPE].astype("<u2").view(np.uint8))
    signs = np.packbits((steps >> np.uint16(15)).astype(np.uint8), bitorder="little")
    return _with_cuts([np.asarray(stream, np.uint8).tobytes() for stream in streams], signs)


def decode(old: U16, data: bytes) -> U16:
    """The new weights. Raises ValueError for bytes that encode cannot have written."""
    if not data:
        return old.copy()
    rest = np.frombuffer(data, np.uint8)
    counts, rest = _read_varints(rest)
    changed = int(counts.sum())
    if not 0 < changed <= len(old):
        raise ValueError("counts do not fit the chunk")
    if len(rest) < 2 * changed:
        raise ValueError("changes are cut short")
    ranks, rest = _read_ranks(rest, counts)
    steps = _read_steps(rest, changed)
    sizes = np.bincount(_class_of(old), minlength=CLASSES)
    classes = np.repeat(np.arange(CLASSES), counts)
    if np.any(ranks >= sizes[classes]):
        raise ValueError("a change lies outside its chunk")
    place = (np.cumsum(sizes) - sizes)[classes] + ranks
    place = np.argsort(_class_of(old), kind="stable")[place]
    new = old.copy()
    new[place] = _unordered(_ordered(old[place]) + steps)
    return new


def split(weights: U16) -> U8:
    """Exponents [n], then signs and mantissas [n]: they compress better than the weights."""
    low = (weights >> np.uint16(8)) & np.uint16(0x80) | weights & np.uint16(0x7F)
    return np.concatenate([_class_of(weights), low.astype(np.uint8)])


def join(planes: U8) -> U16:
    """The weights [n] of 2n bytes that split made."""
    high, low = planes.reshape(2, -1).astype(np.uint16)
    made: U16 = (
        (low & np.uint16(0x80)) << np.uint16(8) | high << np.uint16(7) | low & np.uint16(0x7F)
    )
    return made


def _class_of(weights: U16) -> U8:
    return (weights >> np.uint16(7)).astype(np.uint8)


def _ordered(weights: U16) -> U16:
    return np.where(weights & 0x8000, ~weights, weights | 0x8000).astype(np.uint16)


def _unordered(values: U16) -> U16:
    return np.where(values & 0x8000, values & 0x7FFF, ~values).astype(np.uint16)


def _varints(values: NDArray[np.int64]) -> U8:
    out = bytearray()
    for value in values.tolist():
        while value >= 128:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return np.frombuffer(bytes(out), np.uint8)


def _gap_bytes(ranks: Places) -> U8:
    gaps = np.diff(ranks, prepend=-1) - 1
    escapes, last = np.divmod(gaps, _ESCAPE)
    out = np.full(len(gaps) + int(escapes.sum()), _ESCAPE, np.uint8)
    out[np.cumsum(escapes + 1) - 1] = last
    return out


def _with_cuts(streams: list[bytes], signs: U8) -> tuple[bytes, list[int]]:
    cuts, at, last = [], 0, 0
    for stream in streams:
        at += len(stream)
        if at - last >= _CUT_BYTES:
            cuts.append(last := at)
    return b"".join([*streams, signs.tobytes()]), cuts


def _read_varints(data: U8) -> tuple[NDArray[np.int64], U8]:
    ends = np.flatnonzero(data[: 4 * CLASSES] < 128)[:CLASSES]
    lengths = np.diff(ends, prepend=-1)
    if len(ends) < CLASSES or lengths.max() > 4:
        raise ValueError("counts are cut short")
    used = int(ends[-1]) + 1
    begins = np.repeat(ends - lengths + 1, lengths)
    parts = (data[:used].astype(np.int64) & 127) << (7 * (np.arange(used) - begins))
    return np.add.reduceat(parts, ends - lengths + 1), data[used:]


def _read_ranks(data: U8, counts: NDArray[np.int64]) -> tuple[Places, U8]:
    changed = int(counts.sum())
    ends = np.flatnonzero(data != _ESCAPE)[:changed]
    if len(ends) < changed:
        raise ValueError("gaps do not fit the chunk")
    used = int(ends[-1]) + 1
    sums: Places = np.cumsum(data[:used], dtype=np.int64)[ends] + np.arange(changed)
    last = np.cumsum(counts) - 1  # of each class
    before = np.where(last - counts >= 0, sums[last - counts] + 1, 0)
    return sums - np.repeat(before, counts), data[used:]


def _read_steps(data: U8, changed: int) -> U16:
    small, rest = data[:changed].astype(np.int64), data[changed:]
    is_large = small == _ESCAPE
    large_bytes, sign_bytes = 2 * int(is_large.sum()), -(-changed // 8)
    if len(small) != changed or len(rest) != large_bytes + sign_bytes:
        raise ValueError("distances have another length")
    large = np.frombuffer(rest[:large_bytes].tobytes(), "<u2").astype(np.int64)
    if np.any(large < _ESCAPE) or np.any(large > 0x7FFF):
        raise ValueError("a distance out of range")
    small[is_large] = large
    bits = np.unpackbits(rest[large_bytes:], bitorder="little")
    if np.any(bits[changed:]):
        raise ValueError("bits after the last sign")
    distances = small + 1
    return np.where(bits[:changed], 0x10000 - distances, distances).astype(np.uint16)
