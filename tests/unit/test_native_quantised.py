"""Quantised blocks: error bounds, exact products, hostile bytes, kernel = twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.errors import MalformedBytes
from primed.native.quantised import BLOCK, accumulate, dequantise, quantise, quantised_bytes
from primed.native.twins import quantise as twin

BITS = [8, 4, 2]
TOP = {8: 127, 4: 7, 2: 1}
LARGE = float(np.float32(3e38))
floats = st.floats(-LARGE, LARGE, width=32)


@pytest.fixture(params=["as built", "without the extension"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds with the compiled module and with its twin alone."""
    if request.param != "as built":
        monkeypatch.setattr(compiled, "ext", None)


def some(count: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 63, 64, 65, 1000])
def test_numbers_come_back_within_half_a_step(bits: int, count: int) -> None:
    values = some(count)
    data = quantise(bits, values)
    assert len(data) == quantised_bytes(bits, count) == -(-count // BLOCK) * (2 + 8 * bits)
    back = dequantise(bits, data, count)
    for at in range(0, count, BLOCK):
        block = values[at : at + BLOCK]
        step = np.abs(block).max() / TOP[bits] * (1 + 2**-7)  # rounded up to 8 significant bits
        assert np.abs(back[at : at + BLOCK] - block).max() <= step / 2 * (1 + 2**-20)


@settings(max_examples=150, deadline=None)
@given(bits=st.sampled_from(BITS), values=arrays(np.float32, st.integers(0, 200), elements=floats))
def test_kernel_and_twin_agree_on_any_numbers(bits: int, values: NDArray[np.float32]) -> None:
    data, specified = quantise(bits, values), twin.quantise(bits, values)
    assert specified is not None and np.array_equal(data, specified)
    back, expected = dequantise(bits, data, len(values)), twin.dequantise(bits, data, len(values))
    assert expected is not None and back.tobytes() == expected.tobytes()
    total = some(len(values))
    wanted = total + back
    accumulate(bits, data, total)
    assert total.tobytes() == wanted.tobytes()


@settings(max_examples=150, deadline=None)
@given(bits=st.sampled_from(BITS), data=st.data(), count=st.integers(1, 130))
def test_any_bytes_are_numbers_or_refused_alike(bits: int, data: st.DataObject, count: int) -> None:
    size = quantised_bytes(bits, count)
    noise = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    good = quantise(bits, some(count))
    hostile = np.where(np.random.default_rng(count).random(size) < 0.02, noise, good)
    for tried in (noise, hostile.astype(np.uint8)):
        expected, total = twin.dequantise(bits, tried, count), np.ones(count, np.float32)
        if expected is None:
            with pytest.raises(MalformedBytes):
                dequantise(bits, tried, count)
            with pytest.raises(MalformedBytes):
                accumulate(bits, tried, total)
            assert np.all(total == 1)
        else:
            assert np.isfinite(expected).all()
            assert dequantise(bits, tried, count).tobytes() == expected.tobytes()


def test_ties_go_to_even_and_ternary_is_half_of_the_largest() -> None:
    values = np.zeros(BLOCK, np.float32)
    values[:8] = 127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5
    assert dequantise(8, quantise(8, values), 8 + 56)[:8].tolist() == [127, 0, 2, 2, 0, -2, -2, 126]
    values[:8] = 1, 0.5, 0.51, -0.5, -0.51, -1, 0.49, 0
    assert dequantise(2, quantise(2, values), 8 + 56)[:8].tolist() == [1, 0, 1, 0, -1, -1, 0, 0]


@pytest.mark.parametrize("bits", BITS)
def test_zeros_subnormals_and_large_numbers(bits: int) -> None:
    for scale in (0.0, 1e-45, 1e-40, 1e-38, 1e38):
        values = np.full(BLOCK, scale, np.float32)
        values[1::2] *= -1
        back = dequantise(bits, quantise(bits, values), BLOCK)
        assert np.abs(back - values).max() <= max(2.0**-126, scale * 2**-7)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 70])
def test_what_is_not_finite_is_refused(bits: int, bad: float, at: int) -> None:
    values = some(71)
    values[at] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantise(bits, values)


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_numbers_never_become_infinite(bits: int) -> None:
    for value in np.geomspace(3.3e38, np.finfo(np.float32).max, 40, dtype=np.float64):
        values = np.full(3, min(value, float(np.finfo(np.float32).max)), np.float32)
        try:
            data = quantise(bits, values)
        except ValueError:
            continue
        assert np.isfinite(dequantise(bits, data, 3)).all()


@pytest.mark.parametrize("bits", BITS)
def test_parts_joined_are_the_whole(bits: int) -> None:
    values = some(BLOCK * 5 + 9)
    parts = [quantise(bits, values[:128]), quantise(bits, values[128:])]
    assert np.array_equal(np.concatenate(parts), quantise(bits, values))


@pytest.mark.parametrize("bits", BITS)
def test_bits_are_fixed(bits: int) -> None:
    """A change of any byte would part new nodes from old ones."""
    values = (np.arange(BLOCK, dtype=np.float32) - np.float32(20)) / np.float32(7)
    expected = {
        8: "473dc5c8cbced1d4d7dadde0e3e6e8ebeef1f4f7fafd000306090c0f1215181a1d20"
        "2326292c2f3235383b3e4144474a4c4f5255585b5e6164676a6d707376797b7e",
        4: "613fa5a5a5a5b5b6b6b6b6b6c6c7c7c7c7c7d7d8d8d8d8d8e8e8e9e9e9e9f9f9fafa",
        2: "c54095959595959595959595a5a5a5a5a5a5",
    }
    assert quantise(bits, values).tobytes().hex() == expected[bits]


def test_wrong_arguments_are_value_errors() -> None:
    values = some(64)
    for bits in (0, 1, 3, 16):
        with pytest.raises(ValueError, match="bits"):
            quantise(bits, values)
    with pytest.raises(ValueError, match="float32"):
        quantise(8, np.zeros(64))  # type: ignore[arg-type]
    data = quantise(8, values)
    for wrong in (data[:-1], data[:0], np.concatenate([data, data])):
        with pytest.raises(MalformedBytes, match="bytes where"):
            dequantise(8, wrong, 64)
    with pytest.raises(ValueError, match="contiguous"):
        accumulate(8, data, np.zeros(128, np.float32)[::2])
    fixed = np.zeros(64, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        accumulate(8, data, fixed)
    assert np.array_equal(dequantise(8, data.tobytes(), 64), dequantise(8, data, 64))


@pytest.mark.parametrize("bits", BITS)
def test_tensors_are_read_and_added_to_where_they_lie(bits: int) -> None:
    values = some(100)
    tensor: Any = torch.from_numpy(values.copy())
    data = quantise(bits, tensor)
    assert np.array_equal(data, quantise(bits, values))
    accumulate(bits, data, tensor)
    assert np.array_equal(tensor.numpy(), values + dequantise(bits, data, 100))
    tensor.requires_grad_(True)
    with pytest.raises(ValueError, match="shared"):
        quantise(bits, tensor)
