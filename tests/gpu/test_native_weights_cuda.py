"""Deltas, quantised blocks and rounding on a CUDA device: bit by bit what the CPU makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from primed.native import cuda_weights as cuda
from primed.native import deltas, quantised, rounding
from primed.native.errors import MalformedBytes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda.is_built(), reason="built without -DPRIMED_CUDA=ON"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_device(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array.copy()).cuda()


def empty(count: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(count, dtype=dtype, device="cuda")


def stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)


def words(count: int, seed: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 1 << 16, count, dtype=np.uint16)


def test_every_bit_pattern_is_rounded_alike() -> None:
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    every = ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | low).reshape(-1)
    values, out = every.view(np.float32), empty(every.size, torch.uint16)
    cuda.bf16_of(on_device(values), out, stream())
    assert np.array_equal(out.cpu().numpy(), rounding.bf16_of(values))


@pytest.mark.parametrize("rows_count", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 255, 100_003])
def test_averages_of_any_bits_are_alike(rows_count: int, count: int) -> None:
    rows = [words(count, seed) for seed in range(rows_count)]
    weights, out = np.random.default_rng(9).normal(size=rows_count), empty(count, torch.uint16)
    cuda.average_bf16([on_device(row) for row in rows], weights, out, stream())
    assert np.array_equal(out.cpu().numpy(), rounding.average_bf16(rows, weights))


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("scale", [0.0, 1e-44, 1e-38, 1.0, 1e38])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 100_001])
def test_quantised_bytes_and_numbers_are_alike(bits: int, scale: float, count: int) -> None:
    values = (np.random.default_rng(count).uniform(-1, 1, count) * scale).astype(np.float32)
    data = quantised.quantise(bits, values)
    made, numbers = empty(len(data), torch.uint8), empty(count, torch.float32)
    cuda.quantise(bits, on_device(values), made, stream())
    assert np.array_equal(made.cpu().numpy(), data)
    cuda.dequantise(bits, made, numbers, stream())
    assert numbers.cpu().numpy().tobytes() == quantised.dequantise(bits, data, count).tobytes()
    total, expected = on_device(values), values.copy()
    cuda.accumulate(bits, made, total, stream())
    quantised.accumulate(bits, data, expected)
    assert total.cpu().numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_hostile_bytes_are_refused_alike(bits: int) -> None:
    values = np.ones(100, np.float32)
    with pytest.raises(ValueError, match="not finite"):
        bad = on_device(np.where(np.arange(100) == 70, np.float32(np.nan), values))
        cuda.quantise(bits, bad, empty(quantised.quantised_bytes(bits, 100), torch.uint8), stream())
    good = quantised.quantise(bits, values)
    for at in range(len(good)):
        data, out = good.copy(), on_device(values)
        data[at] = words(1, at)[0] & 0xFF
        try:
            expected = quantised.dequantise(bits, data, 100)
        except MalformedBytes:
            with pytest.raises(MalformedBytes):
                cuda.accumulate(bits, on_device(data), out, stream())
            assert np.array_equal(out.cpu().numpy(), values)
        else:
            cuda.dequantise(bits, on_device(data), out, stream())
            assert np.array_equal(out.cpu().numpy(), expected)


@pytest.mark.parametrize("count", [1, 31, 1024, 1025, 300_007])
@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("classes", ["one", "few", "all"])
def test_deltas_are_alike(count: int, share: float, classes: str) -> None:
    mask = {"one": 0x007F, "few": 0x81FF, "all": 0xFFFF}[classes]
    old = words(count, 1) & np.uint16(mask)
    new = np.where(np.random.default_rng(2).random(count) < share, words(count, 3), old)
    changes = deltas.encode(old, new)
    assert cuda.encode(on_device(old), on_device(new), stream()) == changes
    out = empty(count, torch.uint16)
    cuda.apply(on_device(old), changes[0], out, stream())
    assert np.array_equal(out.cpu().numpy(), new)


def test_a_change_outside_its_class_is_refused() -> None:
    old = np.full(5000, 0x3F80, np.uint16)
    changes, _ = deltas.encode(old, old + np.uint16(1))
    other = old.copy()
    other[3000] = 0x4000
    with pytest.raises(MalformedBytes, match="outside"):
        cuda.apply(on_device(other), changes, empty(5000, torch.uint16), stream())
