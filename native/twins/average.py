"""Rounding to bf16, nearest even: of fp32 numbers, and of fp64 weighted sums of bf16 rows.

bf16 is uint16 here. The sum is an anchor's value (algorithms.md section 8): fp64, from the left,
each product and sum rounded on its own, and then one rounding to bf16, not two by way of fp32.
Every NaN becomes 0x7fc0: torch gives 0x7fc0, 0xffff or 0x7fff, as the machine has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

U16 = NDArray[np.uint16]

_NAN = np.uint16(0x7FC0)


def bf16_of(values: NDArray[np.float32]) -> U16:
    """bf16 bit patterns of fp32 numbers of any shape."""
    word = values.view(np.uint32)
    nearest = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), _NAN, nearest.astype(np.uint16))


def average_bf16(rows: Sequence[U16], weights: NDArray[np.float64]) -> U16:
    """bf16 of weights[0]·rows[0] + weights[1]·rows[1] + ..., rows u16 of one shape."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = weights[0] * _as_double(rows[0])
        for row, weight in zip(rows[1:], weights[1:], strict=True):
            total = total + weight * _as_double(row)
        return _bf16_of_doubles(total)


def _as_double(row: U16) -> NDArray[np.float64]:
    return (row.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _bf16_of_doubles(values: NDArray[np.float64]) -> U16:
    # 8 significant bits, none below 2^-133: dividing by a power of two is exact.
    _, exponent = np.frexp(values)
    unit = np.ldexp(1.0, np.maximum(exponent - 8, -133))
    exact = (np.rint(values / unit) * unit).astype(np.float32)  # only overflow changes it
    return np.where(np.isnan(values), _NAN, (exact.view(np.uint32) >> 16).astype(np.uint16))
