"""TOPLOC proofs (Ong et al. 2025): strict decoder and score. The codec is `primed.native.toploc_*`.

A chunk is up to `chunk_tokens` rows of bf16 bit patterns u16 [n, H], the states that enter the LM
head where tokens are sampled. `decode_proof` takes hostile bytes and returns a proof or the reason
why there is none; it never raises for their content. Scores are pooled before they are compared
with anything: no single chunk or rollout is refused for its distance.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from primed import native
from primed.native import PRIME

MODULUS_MIN = 65433  # honest chunks of any size stay above it for k up to 128

# Distances are in ULP of bf16, which has 128 to an octave: half an octave off, or the wrong sign,
# is simply wrong. Low enough that the places where an honest top k is cut differently by another
# kernel (about 2 %, each worth the cap) weigh less than real distances do.
DISTANCE_CAP = 64


class Proof(Struct, frozen=True):
    """A strictly decoded proof: the modulus and the ascending coefficients u16 [k_eff]."""

    modulus: int
    coefficients: NDArray[np.uint16]


class ChunkScore(Struct, frozen=True):
    """Of one chunk: top places compared, wrong signs, and the sum of capped distances in ULP."""

    values: int
    sign_errors: int
    distance_sum: float


def proof_bytes(elements: int, k: int) -> int:
    """Length of the proof of a chunk of n·H elements."""
    return 2 + 2 * min(k, elements)


def chunks_of(tokens: int, chunk_tokens: int) -> list[int]:
    """Rows of each chunk of a completion: all full but the last."""
    full, rest = divmod(tokens, chunk_tokens)
    return [chunk_tokens] * full + [rest] * (rest > 0)


def decode_proof(data: bytes, elements: int, k: int) -> Proof | str:
    """The proof of a chunk of `elements` numbers, or the reason why these bytes are none."""
    wanted = proof_bytes(elements, k)
    if len(data) != wanted:
        return f"{len(data)} bytes instead of {wanted}"
    (modulus,) = struct.unpack_from(">H", data)
    lowest = PRIME if elements <= PRIME else MODULUS_MIN
    if not lowest <= modulus <= PRIME:
        return f"modulus {modulus} is not in [{lowest}, {PRIME}]"
    coefficients = np.frombuffer(data, ">u2", offset=2).astype(np.uint16)
    if int(coefficients.max()) >= PRIME:
        return f"a coefficient is not below {PRIME}"
    return Proof(modulus, coefficients)


def score_chunk(proof: Proof, rows: NDArray[np.uint16], k: int) -> ChunkScore:
    """Compare a proof with the verifier's own rows u16 [n, H] at the verifier's own top places.

    Raises ValueError when the proof was decoded for a chunk of another size.
    """
    places, values = native.toploc_top(rows, k)
    if len(places) != len(proof.coefficients):
        raise ValueError(f"a proof of {len(proof.coefficients)} places for {len(places)}")
    own = (values.astype(np.int64) % PRIME).astype(np.uint16)  # as far as a proof can say it
    stated = native.toploc_evaluate(proof.coefficients, places % proof.modulus)
    wrong_sign = (own ^ stated) >> np.uint16(15) != 0
    distance = np.minimum(np.abs(_magnitude(own) - _magnitude(stated)), DISTANCE_CAP)
    distance[wrong_sign] = DISTANCE_CAP
    return ChunkScore(len(places), int(wrong_sign.sum()), float(distance.sum()))


def _magnitude(bits: NDArray[np.uint16]) -> NDArray[np.int64]:
    """bf16 patterns without their sign: integers in the order of the magnitudes."""
    return (bits & np.uint16(0x7FFF)).astype(np.int64)


def proof_distance(scores: Iterable[ChunkScore]) -> float:
    """Mean capped distance per top value over all chunks. Raises ValueError if there are none."""
    values, distance_sum = 0, 0.0
    for score in scores:
        values, distance_sum = values + score.values, distance_sum + score.distance_sum
    if not values:
        raise ValueError("no chunk was scored")
    return distance_sum / values
