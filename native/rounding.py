"""Rounding to bf16, nearest even, with the same bits everywhere (twins/average.py): of fp32 numbers,
and of the fp64 weighted sum of bf16 rows that an anchor is (algorithms.md section 8).

Arrays are NumPy's, or CPU tensors by DLPack, read where they lie; bf16 is uint16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.arguments import as_numpy, check_array, plain
from primed.native.twins import average as twin

U16 = NDArray[np.uint16]


def bf16_of(values: NDArray[np.float32]) -> U16:
    """bf16 bit patterns of fp32 numbers of any shape. NaN becomes 0x7fc0."""
    values = as_numpy(values)
    check_array("values", values, np.float32, np.ndim(values))
    if compiled.ext is None:
        return twin.bf16_of(plain(values)).reshape(values.shape)
    out = np.empty(values.shape, np.uint16)
    compiled.ext.bf16_of(plain(values).reshape(-1), out.reshape(-1))
    return out


def average_bf16(rows: Sequence[U16], weights: NDArray[np.float64]) -> U16:
    """bf16 of weights[0]·rows[0] + weights[1]·rows[1] + ... summed in fp64 from the left and rounded
    once. rows: u16 [n] each; weights: f64 [rows], as they are: the caller makes them add up to 1."""
    check_array("weights", weights, np.float64, 1)
    if not rows or len(rows) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(rows)} rows")
    rows = [as_numpy(row) for row in rows]
    for row in rows:
        check_array("row", row, np.uint16, 1)
        if len(row) != len(rows[0]):
            raise ValueError("rows differ in length")
    if compiled.ext is None:
        return twin.average_bf16(rows, weights)
    out = np.empty(len(rows[0]), np.uint16)
    contiguous = [plain(row) for row in rows]
    compiled.ext.average_bf16(contiguous, plain(weights), out)
    return out
