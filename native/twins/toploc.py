"""TOPLOC proofs in NumPy (Ong et al. 2025, "TOPLOC"): byte-compatible with the reference 0.1.6.

A proof of a chunk is the polynomial over GF(65497) through (index mod m, bits mod 65497) of its k
largest magnitudes; m is the largest modulus up to 65497 that keeps the places apart. Chunks of one
shape are built together: the loops of `build` run over k, never over chunks or elements.

A proof is scored at the verifier's own top places; at places outside the top, where an honest
polynomial gives any number; and against what needs no knowledge of the chunk: the best constant,
and the proof of another chunk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

PRIME = 65497  # largest for which the reference tries a modulus, and the field's order
MODULUS_MIN = 65433  # honest chunks of any size stay above it for k up to 128

GOOD, WRONG_LENGTH, WRONG_MODULUS, WRONG_COEFFICIENT = range(4)  # status of hostile bytes

# Columns of a score. All but the status are 0 for a proof that is not GOOD.
SCORE_COLUMNS = (
    "status",
    "values",  # top places compared
    "sign_errors",
    "distance_sum",  # of capped distances in ULP; a wrong sign is the cap
    "offset_places",  # places outside the top that were looked at; 0: the test says nothing
    "offset_plausible",  # of them, places whose number could stand in the top
    "constant_sum",  # distance_sum that the best constant would have
    "replay_sum",  # distance_sum of the other chunk's proof; all caps if there is none
)
# The off-set test needs room outside the top, and top values so close to each other that few of
# all numbers are plausible: 13 octaves of bf16 are 5 % of them.
OFFSET_SHARE = 4  # elements outside the top per element in it
OFFSET_WINDOW_MAX = 1638  # ULP from the least to the largest magnitude of the top

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


def decode(data: bytes, elements: int, k: int) -> tuple[int, int, Bits]:
    """(status, modulus, coefficients) of the bytes as a proof of a chunk of `elements`, strictly."""
    none = np.zeros(0, np.uint16)
    if len(data) != 2 + 2 * min(k, elements):
        return WRONG_LENGTH, 0, none
    return _decode(data, PRIME if elements <= PRIME else MODULUS_MIN)


def _decode(data: bytes, modulus_min: int) -> tuple[int, int, Bits]:
    none = np.zeros(0, np.uint16)
    if len(data) < 4 or len(data) % 2 or len(data) > 2 + 2 * (PRIME // 2):
        return WRONG_LENGTH, 0, none
    modulus, *_ = numbers = np.frombuffer(data, ">u2").astype(np.uint16)
    if not modulus_min <= modulus <= PRIME:
        return WRONG_MODULUS, int(modulus), none
    if int(numbers[1:].max()) >= PRIME:
        return WRONG_COEFFICIENT, int(modulus), none
    return GOOD, int(modulus), numbers[1:]


def score(
    chunks: Sequence[Bits], proofs: Sequence[bytes], others: Sequence[bytes], k: int, cap: int
) -> Ints:
    """Scores [C, len(SCORE_COLUMNS)] of hostile proofs; others: b"" where there is none."""
    rows = [
        _score(chunk.reshape(-1), proof, other, k, cap)
        for chunk, proof, other in zip(chunks, proofs, others, strict=True)
    ]
    return np.array(rows, np.int64).reshape(len(chunks), len(SCORE_COLUMNS))


def _score(chunk: Bits, data: bytes, other: bytes, k: int, cap: int) -> tuple[int, ...]:
    status, modulus, coefficients = decode(data, chunk.size, k)
    if status != GOOD:
        return (status,) + (0,) * (len(SCORE_COLUMNS) - 1)
    indices, values = (found[0] for found in top(chunk[None], k))
    own = (values.astype(np.int64) % PRIME).astype(np.uint16)  # as far as a proof can say it
    stated = evaluate(coefficients, indices % modulus)
    places, plausible = _offset(chunk.size, indices, own, modulus, coefficients, cap)
    replay_sum = len(own) * cap
    replayed, other_modulus, other_coefficients = _decode(other, MODULUS_MIN)
    if replayed == GOOD:
        replay_sum = _distance_sum(own, evaluate(other_coefficients, indices % other_modulus), cap)
    return (
        GOOD,
        len(own),
        int(((own ^ stated) >> np.uint16(15)).sum()),
        _distance_sum(own, stated, cap),
        places,
        plausible,
        min(_distance_sum(own, constant, cap) for constant in np.unique(own)),
        replay_sum,
    )


def _distance_sum(a: Bits, b: Bits, cap: int) -> int:
    apart = np.minimum(np.abs(_magnitude(a) - _magnitude(b)), cap)
    return int(np.where((a ^ b) >> np.uint16(15) != 0, cap, apart).sum())


def _magnitude(bits: Bits) -> Ints:
    """Patterns without their sign: integers in the order of the magnitudes."""
    return (bits & np.uint16(0x7FFF)).astype(np.int64)


def _offset(
    elements: int, indices: Ints, own: Bits, modulus: int, coefficients: Bits, cap: int
) -> tuple[int, int]:
    """(places outside the top, those with plausible numbers): evenly spread ones, one per top place,
    less those whose residue a top place has.
    """
    count = len(own)
    magnitudes = _magnitude(own)
    low, high = int(magnitudes.min()), int(magnitudes.max())
    if elements - count < OFFSET_SHARE * count or high - low > OFFSET_WINDOW_MAX:
        return 0, 0
    stride = elements // count
    residues = (np.arange(count) * stride + stride // 2) % modulus
    residues = residues[~np.isin(residues, indices % modulus)]
    stated = _magnitude(evaluate(coefficients, residues))
    return len(residues), int(((stated >= low - cap) & (stated <= high + cap)).sum())
