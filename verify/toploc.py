"""TOPLOC proofs (Ong et al. 2025): strict decoder, scores and what a batch's scores say together.

A chunk is up to `chunk_tokens` rows of bf16 bit patterns u16 [n, H], the states that enter the LM
head where tokens are sampled. Hostile bytes give a proof or score, or the reason why there is none;
their content never raises. The codec and the loops are `primed.native.toploc_*`. Scores are pooled
before they are compared with anything: no single chunk or rollout is refused for its distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from primed import native
from primed.native import PRIME
from primed.native.twins.toploc import (
    GOOD,
    MODULUS_MIN,
    WRONG_COEFFICIENT,
    WRONG_LENGTH,
    WRONG_MODULUS,
)

# Distances are in ULP of bf16, which has 128 to an octave: half an octave off, or the wrong sign,
# is simply wrong. Low enough that the places where an honest top k is cut differently by another
# kernel (about 2 %, each worth the cap) weigh less than real distances do.
DISTANCE_CAP = 64

# Fewer places outside the top, over all chunks of a batch, say nothing: the share of plausible
# numbers is 1 to 5 % for honest proofs, and 15 % of 64 places are 10.
OFFSET_PLACES_MIN = 64

# Where a constant or another chunk's proof comes closer than this, the states hardly differ, and a
# margin between distances means nothing; then a proof only has to be about as close.
NULL_DISTANCE_MIN = 4.0


class Proof(Struct, frozen=True):
    """A strictly decoded proof: the modulus and the ascending coefficients u16 [k_eff]."""

    modulus: int
    coefficients: NDArray[np.uint16]


class ChunkScore(Struct, frozen=True):
    """Of one chunk, see primed.native.twins.toploc.SCORE_COLUMNS: distances are sums of capped ULP.

    The nulls are what a worker reaches that does not know the chunk.
    """

    values: int
    sign_errors: int
    distance_sum: float
    offset_places: int = 0
    offset_plausible: int = 0
    constant_sum: float = 0.0
    replay_sum: float = 0.0


def proof_bytes(elements: int, k: int) -> int:
    """Length of the proof of a chunk of n·H elements."""
    return 2 + 2 * min(k, elements)


def chunks_of(tokens: int, chunk_tokens: int) -> list[int]:
    """Rows of each chunk of a completion: all full but the last."""
    full, rest = divmod(tokens, chunk_tokens)
    return [chunk_tokens] * full + [rest] * (rest > 0)


def decode_proof(data: bytes, elements: int, k: int) -> Proof | str:
    """The proof of a chunk of `elements` numbers, or the reason why these bytes are none."""
    status, modulus, coefficients = native.toploc_decode(data, elements, k)
    if status == GOOD:
        return Proof(modulus, coefficients)
    lowest = PRIME if elements <= PRIME else MODULUS_MIN
    return {
        WRONG_LENGTH: f"{len(data)} bytes instead of {proof_bytes(elements, k)}",
        WRONG_MODULUS: f"modulus {modulus} is not in [{lowest}, {PRIME}]",
        WRONG_COEFFICIENT: f"a coefficient is not below {PRIME}",
    }[status]


def score_chunks(
    chunks: Sequence[NDArray[np.uint16]],
    proofs: Sequence[bytes],
    k: int,
    others: Sequence[bytes] | None = None,
    threads: int = 1,
) -> list[ChunkScore | None]:
    """Scores of hostile proofs at the verifier's own rows u16 [n, H]; None for a malformed proof.

    others: for each chunk another chunk's proof of the same worker, b"" for none. Take one of
    another prompt: equal completions of one prompt have equal proofs.
    """
    scores = native.toploc_score(chunks, proofs, k, DISTANCE_CAP, others, threads)
    return [ChunkScore(*row) if status == GOOD else None for status, *row in scores.tolist()]


def proof_distance(scores: Iterable[ChunkScore]) -> float:
    """Mean capped distance per top value over all chunks. Raises ValueError if there are none."""
    values, distance_sum = 0, 0.0
    for score in scores:
        values, distance_sum = values + score.values, distance_sum + score.distance_sum
    if not values:
        raise ValueError("no chunk was scored")
    return distance_sum / values


def proof_offset(scores: Iterable[ChunkScore]) -> float:
    """Share of places outside the top where the proofs give numbers that could stand in the top.

    About 2 % if they go through the chunk's values, 1 for a constant; 0 where too few places were
    looked at to tell.
    """
    places, plausible = 0, 0
    for score in scores:
        places, plausible = places + score.offset_places, plausible + score.offset_plausible
    return plausible / places if places >= OFFSET_PLACES_MIN else 0.0


def proof_null(scores: Sequence[ChunkScore]) -> float:
    """The proofs' distance as a share of the better null's, the best constants or replays.

    0 is exact, 1 is no better than knowing nothing. Raises ValueError if there are no scores.
    """
    values = sum(score.values for score in scores)
    nulls = sum(s.constant_sum for s in scores), sum(s.replay_sum for s in scores)
    return proof_distance(scores) / max(min(nulls) / values, NULL_DISTANCE_MIN)
