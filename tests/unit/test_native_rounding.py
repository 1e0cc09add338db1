"""Rounding to bf16 and the anchor's average: exact by fractions, equal to torch, kernel = twin."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.rounding import average_bf16, bf16_of
from primed.native.twins import average as twin

U16 = NDArray[np.uint16]

WORDS = [0, 1, 0x7FFF, 0x8000, 0x8001, 0x17FFF, 0x18000, 0x18001, 0x7FFFFF, 0x800000, 0x3F7FFFFF]
WORDS += [0x3F800000, 0x3F808000, 0x3F818000, 0x7F7EFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF]
WORDS += [0x7F800000]
EDGES = np.array([*WORDS, *(word | 0x80000000 for word in WORDS)], np.uint32).view(np.float32)
NANS = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32)


@pytest.fixture(params=["as built", "without the extension"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds with the compiled module and with its twin alone."""
    if request.param != "as built":
        monkeypatch.setattr(compiled, "ext", None)


def torch_bits(values: NDArray[np.float32]) -> U16:
    rounded = torch.from_numpy(values).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().view(np.uint16)


def value_of(bits: U16) -> NDArray[np.float64]:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def test_rounding_equals_torch_on_edges_and_on_a_million_words() -> None:
    words = np.random.default_rng(1).integers(0, 2**32, 1_000_000, dtype=np.uint32)
    random = words.view(np.float32)
    for values in (EDGES, random[~np.isnan(random)]):
        assert np.array_equal(bf16_of(values), torch_bits(values))


def test_every_nan_becomes_one_quiet_nan() -> None:
    """torch gives 0x7fc0, 0xffff or 0x7fff: by instruction set and device."""
    assert bf16_of(NANS.view(np.float32)).tolist() == [0x7FC0] * len(NANS)
    assert np.isnan(value_of(torch_bits(NANS.view(np.float32)))).all()


@pytest.mark.parametrize("flush", [False, True])
def test_subnormals_survive_whatever_the_thread_has_set(flush: bool) -> None:
    if flush and compiled.ext is None:
        pytest.skip("NumPy follows the thread's setting")
    tiny = np.array([0x0001, 0x8001, 0x007F, 0x0003], np.uint16)
    torch.set_flush_denormal(flush)
    try:
        rounded = bf16_of((tiny.astype(np.uint32) << 16).view(np.float32))
        averaged = average_bf16([tiny, tiny], np.array([0.25, 0.75]))
    finally:
        torch.set_flush_denormal(False)
    assert rounded.tolist() == averaged.tolist() == tiny.tolist()


bits16 = st.integers(0, 0xFFFF).filter(lambda b: b & 0x7F80 != 0x7F80)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(bits16, st.floats(-2, 2, width=32)), min_size=1, max_size=5),
)
def test_the_average_is_the_exact_sum_rounded_once(terms: list[tuple[int, float]]) -> None:
    """Where fp64 holds the sum exactly, the nearest bf16 of it is known by fractions."""
    rows = [np.array([bits], np.uint16) for bits, _ in terms]
    scaled = [
        Fraction(float(value_of(row)[0])) * Fraction(w)
        for row, (_, w) in zip(rows, terms, strict=True)
    ]
    total = Fraction(0)
    for term in scaled:
        total += term
        if Fraction(float(total)) != total:
            return
    found = average_bf16(rows, np.array([w for _, w in terms]))
    near = range(int(found[0]) - 2, int(found[0]) + 3)
    candidates = [b for b in near if 0 <= b <= 0xFFFF and b & 0x7F80 != 0x7F80]
    if found[0] & 0x7F80 == 0x7F80:
        assert abs(total) >= Fraction(2) ** 128 - Fraction(2) ** 119
        return
    distance = {
        b: abs(Fraction(float(value_of(np.array([b], np.uint16))[0])) - total) for b in candidates
    }
    best = min(distance.values())
    assert distance[int(found[0])] == best
    if sum(d == best for d in distance.values()) > 1 and total:
        assert found[0] % 2 == 0


def test_the_average_does_not_round_twice() -> None:
    """1 + 2^-8 is the middle of two bf16; a hair more must round up, and fp32 cannot see the hair."""
    rows = [np.array([0x3F80], np.uint16), np.array([0x3F80], np.uint16)]
    assert average_bf16(rows, np.array([1 + 2**-8, 2.0**-40])).tolist() == [0x3F81]
    assert average_bf16(rows, np.array([1 + 2**-8, 0.0])).tolist() == [0x3F80]
    assert average_bf16(rows, np.array([1 + 3 * 2**-8, -(2.0**-40)])).tolist() == [0x3F81]


def test_equal_versions_average_to_themselves_and_order_counts() -> None:
    every = np.arange(0x10000, dtype=np.uint32).astype(np.uint16)
    finite = every[(every & 0x7F80) != 0x7F80]
    assert np.array_equal(average_bf16([finite], np.array([1.0])), finite)
    assert np.array_equal(average_bf16([finite, finite], np.array([0.5, 0.5])), finite)
    rows = [np.array([b], np.uint16) for b in (0x7F00, 0xFF00, 0x0001)]
    assert average_bf16(rows, np.ones(3)).tolist() == [0x0001]
    assert average_bf16([rows[0], rows[2], rows[1]], np.ones(3)).tolist() == [0x0000]


def test_infinities_and_nan_in_an_average() -> None:
    rows = [np.array([0x7F80, 0x7F80, 0x7FA0, 0x7F7F], np.uint16) for _ in range(2)]
    rows[1][:2] = 0xFF80, 0x3F80
    assert average_bf16(rows, np.ones(2)).tolist() == [0x7FC0, 0x7F80, 0x7FC0, 0x7F80]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 5000])
@pytest.mark.parametrize("rows_count", [1, 2, 3, 4, 7])
def test_compiled_average_equals_the_twin(count: int, rows_count: int) -> None:
    draw = np.random.default_rng(count + rows_count)
    rows = [draw.integers(0, 1 << 16, count, dtype=np.uint16) for _ in range(rows_count)]
    weights = draw.normal(size=rows_count)
    assert np.array_equal(average_bf16(rows, weights), twin.average_bf16(rows, weights))


SIXTEENTHS = [0.25, 0.125, 0.0, 1.0, 0.0625, 0.5, -0.25, 2.0**-16]
TENTHS = [0.1, 0.2, 0.3, 0.4, -0.05, 0.025, 0.7, 1 / 3]  # near ties that are none
ODD = [0.137, 0.211, 2.0**-59, 0.305, 3.7e17, -0.347, 1e-9, 0.9]


@pytest.mark.parametrize("weights", [SIXTEENTHS, TENTHS, ODD, [1e-30] * 8, [2.0**100] * 8])
@pytest.mark.parametrize("rows_count", [2, 3, 4, 5, 6, 7, 8])
def test_near_versions_average_as_the_twin_says(weights: list[float], rows_count: int) -> None:
    """Ties, cancellation, subnormals and infinities among numbers that differ by a few last bits."""
    draw = np.random.default_rng(rows_count)
    base = draw.integers(0, 1 << 16, 40_000, dtype=np.uint16)
    base[:4000] &= np.uint16(0x80FF)  # subnormal, or nearly
    base[4000:8000] |= np.uint16(0x7F00)  # huge, infinite or NaN
    rows = [base + draw.integers(0, 3, len(base), dtype=np.uint16) for _ in range(rows_count)]
    by = np.array(weights[:rows_count])
    assert np.array_equal(average_bf16(rows, by), twin.average_bf16(rows, by))


def test_wrong_arguments_are_value_errors() -> None:
    row, one = np.zeros(3, np.uint16), np.ones(1)
    for rows, weights in (([], one[:0]), ([row], np.ones(2)), ([row, row[:2]], np.ones(2))):
        with pytest.raises(ValueError, match="differ|weights for"):
            average_bf16(rows, weights)
    with pytest.raises(ValueError, match="float64"):
        average_bf16([row], one.astype(np.float32))
    with pytest.raises(ValueError, match="float32"):
        bf16_of(np.zeros(3))  # type: ignore[arg-type]
    strided = np.arange(10, dtype=np.float32)[::3]
    assert np.array_equal(bf16_of(strided), bf16_of(strided.copy()))
    assert bf16_of(np.ones((2, 3), np.float32)).shape == (2, 3)


def test_tensors_are_read_where_they_lie() -> None:
    values: Any = torch.randn(2, 50)
    rounded = bf16_of(values)
    assert np.array_equal(rounded, torch_bits(values.numpy()))
    rows: Any = [torch.from_numpy(row.copy()) for row in rounded]
    half = np.full(2, 0.5)
    assert np.array_equal(average_bf16(rows, half), average_bf16(list(rounded), half))
