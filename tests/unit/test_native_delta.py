"""Delta chunks: lossless for all bits, kernel = twin, hostile bytes (scenario 40), sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from primed.native import compiled, deltas
from primed.native.errors import MalformedBytes
from primed.native.twins import delta as twin

U16 = NDArray[np.uint16]


@pytest.fixture(params=["as built", "without the extension"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds with the compiled module and with its twin alone."""
    if request.param != "as built":
        monkeypatch.setattr(compiled, "ext", None)


def weights(count: int, seed: int = 1) -> U16:
    draw = np.random.default_rng(seed)
    values = (draw.normal(size=count) * 0.02).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def stepped(old: U16, share: float, seed: int = 2) -> U16:
    draw = np.random.default_rng(seed)
    step = draw.choice(np.array([1, -1, 1, -1, 2, -3, 700]), len(old)) * (
        draw.random(len(old)) < share
    )
    return (old + step.astype(np.int16).view(np.uint16)).astype(np.uint16)


def applied(old: U16, changes: bytes) -> U16:
    out = np.empty_like(old)
    deltas.apply(old, changes, out)
    return out


def unpacked(old: U16, packed: bytes) -> U16:
    out = np.empty_like(old)
    deltas.unpack(old, packed, out)
    return out


# Few exponents and many, so that classes are small and large.
some_weights = st.one_of(
    st.integers(0, 0xFFFF), st.sampled_from([0, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 0x3C01])
)


@settings(max_examples=200, deadline=None)
@given(pairs=st.lists(st.tuples(some_weights, some_weights, st.booleans()), max_size=80))
def test_any_bits_come_back_and_the_kernel_writes_the_twins_bytes(
    pairs: list[tuple[int, int, bool]],
) -> None:
    old = np.array([a for a, _, _ in pairs], np.uint16)
    new = np.array([b if changes else a for a, b, changes in pairs], np.uint16)
    changes, cuts = deltas.encode(old, new)
    assert (changes, cuts) == twin.encode(old, new)
    assert np.array_equal(applied(old, changes), new)
    assert np.array_equal(twin.decode(old, changes), new)
    assert np.array_equal(unpacked(old, deltas.pack(old, new)), new)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 63, 64, 65, 70_001])
@pytest.mark.parametrize("share", [0.0, 0.004, 0.02, 0.3, 1.0])
def test_kernel_equals_twin_on_real_sizes(count: int, share: float) -> None:
    old = weights(count)
    new = stepped(old, share)
    assert deltas.encode(old, new) == twin.encode(old, new)
    assert np.array_equal(unpacked(old, deltas.pack(old, new)), new)


def test_long_gaps_and_the_last_place() -> None:
    old = np.full(300_000, 0x3C00, np.uint16)
    new = old.copy()
    new[[0, 254, 255 + 255, 299_999]] += 1
    assert deltas.encode(old, new) == twin.encode(old, new)
    assert np.array_equal(applied(old, deltas.encode(old, new)[0]), new)


def test_zeros_signs_nan_and_infinity_need_no_escape() -> None:
    special = np.array([0, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 1, 0x8001], np.uint16)
    old, new = np.tile(special, 8), np.repeat(special, 8)
    assert np.array_equal(unpacked(old, deltas.pack(old, new)), new)


def test_layout_is_as_documented() -> None:
    old = np.array([0x3F80, 0x4000, 0x3F81, 0x3F82, 0xBF80], np.uint16)  # classes 127 and 128
    new = np.array([0x3F80, 0x4001, 0x3F82, 0x3F82, 0xBA80], np.uint16)
    changes, _ = deltas.encode(old, new)
    counts = bytes(127) + bytes([2, 1]) + bytes(127)
    gaps = bytes([1, 1, 0])  # of class 127 ranks 1 and 3, of class 128 rank 0
    distances = bytes([0, 255, 0]) + (0x500 - 1).to_bytes(2, "little")
    assert changes == counts + gaps + distances + bytes([0b000])  # all up: -1 to -0.001 as well


def test_split_is_used_where_it_is_smaller() -> None:
    old, unrelated = weights(20_000), weights(20_000, 9)
    packed = deltas.pack(old, unrelated)
    assert packed[0] == 2 and len(packed) < 2 * len(old) / 1.3
    assert np.array_equal(unpacked(old, packed), unrelated)
    moved = deltas.pack(old, stepped(old, 0.5))
    assert moved[0] == 1 and len(moved) < len(packed)


def test_a_step_is_smaller_than_gaps_and_values() -> None:
    """Changes that are rarer for larger weights, as an optimiser makes them."""
    old = weights(200_000)
    magnitude = ((old.astype(np.uint32) & 0x7FFF) << 16).view(np.float32)
    chance = np.minimum(1, 4e-5 / np.maximum(magnitude, 1e-9))
    draw = np.random.default_rng(3)
    up = (draw.random(len(old)) < chance).astype(np.uint16)
    new = (old + up * np.where(draw.random(len(old)) < 0.5, 1, 0xFFFF)).astype(np.uint16)
    places = np.flatnonzero(old != new)
    plain = np.diff(places, prepend=-1).astype(np.uint16).tobytes() + new[places].tobytes()
    assert 1.5 * len(deltas.pack(old, new)) < len(zstandard.ZstdCompressor().compress(plain))


def good() -> tuple[U16, bytes]:
    old = weights(600)
    return old, deltas.encode(old, stepped(old, 0.1))[0]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_changes_are_refused_or_applied_alike(data: st.DataObject) -> None:
    old, changes = good()
    bad = bytearray(changes)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bad) - 1))
        bad[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from([255, bad[at] ^ 1])))
    del bad[len(bad) - data.draw(st.integers(0, 2)) :]
    assert_alike(old, bytes(bad))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 40))
def test_any_bytes_are_refused_or_applied_alike(noise: bytes, count: int) -> None:
    assert_alike(weights(count), noise)
    assert_alike(weights(count), bytes(255) + noise)


def assert_alike(old: U16, changes: bytes) -> None:
    try:
        expected = twin.decode(old, changes)
    except ValueError:
        with pytest.raises(MalformedBytes):
            applied(old, changes)
    else:
        assert np.array_equal(applied(old, changes), expected)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_packed_bytes_are_refused_or_a_chunk(noise: bytes) -> None:
    old = weights(50)
    for packed in (noise, b"\x01" + noise, b"\x02" + noise):
        try:
            deltas.unpack(old, packed, np.empty_like(old))
        except MalformedBytes:
            pass


def frame(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(plain)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"", "no known kind"),
        (b"\x03", "no known kind"),
        (b"\x00\x00", "no known kind"),
        (b"\x01", "does not decompress"),
        (b"\x01" + frame(b""), "no changes"),
        (b"\x01" + frame(bytes(1 << 26)), "states"),
        (b"\x02" + frame(bytes(1 << 26)), "states"),
        (b"\x02" + frame(bytes(99)), "another number"),
        (b"\x02" + frame(bytes(100)) + b"x", "does not decompress"),
        (b"\x01" + frame(bytes(256)), "counts do not fit"),
        (b"\x01" + frame(b"\xff" * 256), "counts are cut short"),
        (b"\x01" + frame(b"\xff\xff\xff\x7f" + bytes(255)), "counts do not fit"),
    ],
)
def test_hostile_chunks_are_refused(packed: bytes, why: str) -> None:
    old = weights(50)
    with pytest.raises(MalformedBytes, match=why):
        deltas.unpack(old, packed, np.empty_like(old))


def test_a_frame_of_unknown_size_is_refused() -> None:
    writer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    unknown = writer.compress(bytes(100)) + writer.flush()
    with pytest.raises(MalformedBytes, match="states"):
        unpacked(weights(50), b"\x02" + unknown)


def test_a_change_outside_its_class_is_refused() -> None:
    old = np.full(10, 0x3F80, np.uint16)
    changes, _ = deltas.encode(old, old + np.uint16(1))
    other = old.copy()
    other[3] = 0x4000
    with pytest.raises(MalformedBytes, match="outside"):
        applied(other, changes)


def test_no_chunk_is_longer_than_its_bound() -> None:
    draw = np.random.default_rng(5)
    for count in (1, 100, 5000):
        old, new = (draw.integers(0, 1 << 16, count, dtype=np.uint16) for _ in range(2))
        assert len(deltas.pack(old, new)) <= deltas.packed_bytes_max(count)


def test_wrong_arguments_are_value_errors() -> None:
    old = weights(10)
    arrays: list[Any] = [old[:9], old.astype(np.int16), old.reshape(2, 5)]
    for wrong in arrays:
        with pytest.raises(ValueError, match="chunks of|other is"):
            deltas.pack(old, wrong)
    with pytest.raises(ValueError, match="themselves"):
        deltas.apply(old, b"", old)
    with pytest.raises(ValueError, match="contiguous"):
        deltas.unpack(old, b"\x00", np.empty(20, np.uint16)[::2])
    spread = np.repeat(old, 2)[::2]
    assert deltas.encode(spread, old) == (b"", [])


def test_tensors_are_read_and_written_where_they_lie() -> None:
    old, new = weights(1000), stepped(weights(1000), 0.1)
    tensors = [torch.from_numpy(array.copy()) for array in (old, new, old)]
    packed = deltas.pack(tensors[0], tensors[1])  # type: ignore[arg-type]
    assert packed == deltas.pack(old, new)
    deltas.unpack(tensors[0], packed, tensors[2])  # type: ignore[arg-type]
    assert np.array_equal(tensors[2].numpy(), new)
