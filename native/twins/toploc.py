"""TOPLOC proofs in NumPy (Ong et al. 2025, "TOPLOC"): byte-compatible with the reference 0.1.6.

A proof of a chunk is the polynomial over GF(65497) through (index mod m, bits mod 65497) of its k
largest magnitudes; m is the largest modulus up to 65497 that keeps the places apart. Chunks of one
shape are built together: all loops below run over k, never over chunks or elements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

PRIME = 65497  # largest for which the reference tries a modulus, and the field's order

Ints = NDArray[np.int64]
Bits = NDArray[np.uint16]


def build(chunks: Sequence[Bits], k: int) -> list[bytes]:
    """One proof per chunk of bit patterns [n, H]: m and the ascending coefficients, u16 big-endian."""
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, chunk in enumerate(chunks):
        places[chunk.shape].append(place)
    proofs = [b""] * len(chunks)
    for same in places.values():
        rows = np.stack([chunks[place].reshape(-1) for place in same])  # [C, E]
        for place, proof in zip(same, _build_rows(rows, k), strict=True):
            proofs[place] = proof
    return proofs


def _build_rows(rows: Bits, k: int) -> list[bytes]:
    return encode(*top(rows, k))


def encode(indices: Ints, values: Bits) -> list[bytes]:
    """The proofs that go through bit patterns u16 [C, k] at distinct flat indices [C, k]."""
    moduli = np.array([_modulus_of(row) for row in indices], np.int64)
    coefficients = _interpolate(indices % moduli[:, None], values.astype(np.int64) % PRIME)
    encoded = np.concatenate([moduli[:, None], coefficients], axis=1).astype(">u2")
    return [row.tobytes() for row in encoded]


def top(rows: Bits, k: int) -> tuple[Ints, Bits]:
    """Of each row [E]: indices and patterns [C, min(k, E)] of the largest magnitudes, in order.

    The order is total: larger magnitude first, then the smaller index.
    """
    elements = rows.shape[1]
    magnitudes = (rows & np.uint16(0x7FFF)).astype(np.int64)
    # One integer per element that sorts ascending in the wanted order; its low part is the index.
    keys = (0x7FFF - magnitudes) * elements + np.arange(elements)
    if k < elements:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    indices = np.sort(keys, axis=1) % elements
    return indices, np.take_along_axis(rows, indices, axis=1)


def _modulus_of(indices: Ints) -> int:
    """Largest m <= PRIME for which indices mod m are distinct."""
    if int(indices.max()) < PRIME:
        return PRIME
    for modulus in range(PRIME, len(indices) - 1, -1):
        if np.unique(indices % modulus).size == len(indices):
            return modulus
    raise ValueError("no modulus keeps the top places apart")


def _interpolate(x: Ints, y: Ints) -> Ints:
    """Ascending coefficients [C, k] of the polynomials through (x, y) [C, k], x distinct, mod PRIME.

    Newton's divided differences, then Horner's scheme from the Newton to the monomial basis.
    """
    k = x.shape[1]
    inverse = _inverses()
    newton = y.copy()
    for step in range(1, k):
        rise = newton[:, step:] - newton[:, step - 1 : -1]
        run = (x[:, step:] - x[:, :-step]) % PRIME
        newton[:, step:] = rise * inverse[run] % PRIME
    coefficients = np.zeros_like(y)
    coefficients[:, 0] = newton[:, k - 1]
    for j in range(k - 2, -1, -1):
        shifted = coefficients[:, : k - 1].copy()
        coefficients = -coefficients * x[:, j : j + 1]
        coefficients[:, 1:] += shifted
        coefficients[:, 0] += newton[:, j]
        coefficients %= PRIME
    return coefficients


@cache
def _inverses() -> Ints:
    """Multiplicative inverses mod PRIME by Fermat, as a table; entry 0 is 0."""
    power = np.arange(PRIME, dtype=np.int64)
    result = np.ones(PRIME, np.int64)
    exponent = PRIME - 2
    while exponent:
        if exponent & 1:
            result = result * power % PRIME
        power = power * power % PRIME
        exponent >>= 1
    return result


def evaluate(coefficients: Bits, x: NDArray[np.integer]) -> Bits:
    """The polynomial with ascending coefficients [k] at x (any shape), mod PRIME."""
    at = (x % PRIME).astype(np.int64)
    value = np.zeros(at.shape, np.int64)
    for c in coefficients[::-1].tolist():
        value = (value * at + c) % PRIME
    return value.astype(np.uint16)
