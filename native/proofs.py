"""TOPLOC proofs (twins/toploc.py): build them, and look into them to score them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from primed.native.arguments import check_array, check_range
from primed.native.twins import toploc as twin
from primed.native.twins.toploc import PRIME

ELEMENTS_MAX = 1 << 30  # of one chunk


def toploc_build(chunks: Sequence[NDArray[np.uint16]], k: int) -> list[bytes]:
    """One TOPLOC proof per chunk of bf16 bit patterns u16 [n, H]: modulus, then coefficients."""
    for chunk in chunks:
        _check_chunk(chunk)
    check_range("k", k, 1, PRIME // 2)
    return twin.build(chunks, k)


def toploc_top(chunk: NDArray[np.uint16], k: int) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Flat indices and bit patterns of the min(k, n·H) largest magnitudes of a chunk u16 [n, H].

    Ordered by magnitude, larger first; ties by the smaller index.
    """
    _check_chunk(chunk)
    check_range("k", k, 1, PRIME // 2)
    indices, values = twin.top(chunk.reshape(1, -1), k)
    return indices[0], values[0]


def toploc_evaluate(coefficients: NDArray[np.uint16], x: NDArray[np.integer]) -> NDArray[np.uint16]:
    """The polynomial (ascending u16 [k], over GF(65497)) at non-negative integers x, any shape."""
    check_array("coefficients", coefficients, np.uint16, 1)
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
        raise ValueError("x is not an integer array")
    if not len(coefficients) or int(coefficients.max()) >= PRIME:
        raise ValueError(f"coefficients are not 1 or more numbers below {PRIME}")
    if x.size and int(x.min()) < 0:
        raise ValueError("x holds a negative place")
    return twin.evaluate(coefficients, x)


def _check_chunk(chunk: object) -> None:
    check_array("chunk", chunk, np.uint16, 2)
    assert isinstance(chunk, np.ndarray)
    check_range("elements of a chunk", chunk.size, 1, ELEMENTS_MAX)
