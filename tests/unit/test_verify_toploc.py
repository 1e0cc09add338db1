"""TOPLOC strict decoder on hostile bytes, and the score of honest and wrong proofs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from primed import native
from primed.native import PRIME
from primed.native.twins.toploc import MODULUS_MIN
from primed.verify.toploc import (
    DISTANCE_CAP,
    ChunkScore,
    Proof,
    chunks_of,
    decode_proof,
    proof_bytes,
    proof_distance,
    proof_null,
    proof_offset,
    score_chunks,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "toploc.json").read_text()
)
Rows = NDArray[np.uint16]


def hidden_rows(n: int, hidden: int, seed: int) -> Rows:
    """Gaussian states as bf16 patterns [n, H]."""
    values = np.random.default_rng(seed).standard_normal((n, hidden), np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def proof_of(rows: Rows, k: int) -> bytes:
    return native.toploc_build([rows], k)[0]


def score_of(proof: bytes, rows: Rows, k: int, other: bytes = b"") -> ChunkScore:
    score = score_chunks([rows], [proof], k, [other])[0]
    assert score is not None
    return score


def constant_proof(rows: Rows, k: int) -> bytes:
    """The best that a worker can claim who only knows what top values look like."""
    own = native.toploc_top(rows, k)[1]
    median = int(np.median(own[own < 0x8000]))
    return np.array([PRIME, median, *[0] * (k - 1)], ">u2").tobytes()


@given(st.binary(max_size=300), st.integers(1, 200_000), st.integers(1, 140))
def test_any_bytes_give_a_proof_or_a_reason(data: bytes, elements: int, k: int) -> None:
    found = decode_proof(data, elements, k)
    if isinstance(found, Proof):
        assert len(data) == proof_bytes(elements, k)
        assert MODULUS_MIN <= found.modulus <= PRIME
    else:
        assert found


@given(st.integers(0, 65535), st.lists(st.integers(0, 65535), min_size=4, max_size=4))
def test_hostile_numbers_of_the_right_length(modulus: int, coefficients: list[int]) -> None:
    data = b"".join(value.to_bytes(2, "big") for value in (modulus, *coefficients))
    for elements, lowest in ((8, PRIME), (PRIME, PRIME), (PRIME + 1, MODULUS_MIN)):
        found = decode_proof(data, elements, 4)
        valid = lowest <= modulus <= PRIME and max(coefficients) < PRIME
        assert isinstance(found, Proof) == valid
        score = score_chunks([hidden_rows(1, elements, 0)], [data], 4)[0]
        assert (score is not None) == valid
        assert score is None or 0 <= score.distance_sum <= 4 * DISTANCE_CAP


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"\xff", "1 bytes"),
        (b"\xff\xd9" + bytes(6), "8 bytes"),  # one coefficient short
        (b"\xff\xd9" + bytes(10), "12 bytes"),
        (bytes(10), "modulus 0"),
        (b"\x00\x01" + bytes(8), "modulus 1"),  # the reference accepts it
        (b"\xff\xd8" + bytes(8), "modulus 65496"),  # a small chunk has no reason for it
        (b"\xff\xda" + bytes(8), "modulus 65498"),
        (b"\xff\xd9\xff\xd9" + bytes(6), "coefficient"),
    ],
)
def test_reasons_of_the_strict_decoder(data: bytes, reason: str) -> None:
    found = decode_proof(data, 64, 4)
    assert isinstance(found, str)
    assert reason in found


def test_the_reference_proofs_decode() -> None:
    for vector in VECTORS["gauss"]:
        elements = vector["tokens"] * vector["hidden"]
        proof = decode_proof(bytes.fromhex(vector["proof"]), elements, vector["k"])
        assert isinstance(proof, Proof)
        assert proof.modulus == vector["modulus"]


@pytest.mark.parametrize(("n", "hidden", "k"), [(32, 64, 128), (7, 96, 16), (1, 5, 16), (3, 1, 3)])
def test_an_honest_proof_has_no_distance(n: int, hidden: int, k: int) -> None:
    rows = hidden_rows(n, hidden, 1)
    score = score_of(proof_of(rows, k), rows, k)
    assert (score.values, score.sign_errors, score.distance_sum) == (min(k, rows.size), 0, 0)


def test_a_large_chunk_with_a_smaller_modulus_has_no_distance() -> None:
    rows = hidden_rows(2, 70_000, 2)
    top = np.sort(rows & 0x7FFF, axis=None)[-1]
    rows[0, 0], rows[0, PRIME] = top + 1, top + 2  # collide under 65497
    proof = proof_of(rows, 16)
    assert int.from_bytes(proof[:2], "big") < PRIME
    assert score_of(proof, rows, 16).distance_sum == 0


@pytest.mark.parametrize(("ulp", "expected"), [(1, 1), (5, 5), (40, 40), (200, DISTANCE_CAP)])
def test_distance_is_in_ulp_and_capped(ulp: int, expected: int) -> None:
    """The reference's vectors for perturbed bits say 1, 5 and 40 as well."""
    rows = hidden_rows(32, 64, 3)
    moved = rows + np.uint16(ulp)
    scores = [score_of(proof_of(rows, 128), moved, 128) for _ in range(3)]
    assert scores[0].sign_errors == 0
    assert proof_distance(scores) == expected


def test_a_wrong_sign_counts_as_the_cap() -> None:
    """The reference ignores signs."""
    rows = hidden_rows(32, 64, 4)
    score = score_of(proof_of(rows, 128), rows ^ np.uint16(0x8000), 128)
    assert (score.sign_errors, score.distance_sum) == (128, 128 * DISTANCE_CAP)


def test_another_chunks_proof_and_a_constant_are_far() -> None:
    rows, other = hidden_rows(32, 64, 5), hidden_rows(32, 64, 6)
    replayed = score_of(proof_of(other, 128), rows, 128)
    assert proof_distance([replayed]) > 0.9 * DISTANCE_CAP
    assert proof_distance([score_of(constant_proof(rows, 128), rows, 128)]) > 0.4 * DISTANCE_CAP


def test_the_nulls_are_what_a_constant_and_a_replay_would_score() -> None:
    rows, other = hidden_rows(32, 64, 5), hidden_rows(32, 64, 6)
    honest = score_of(proof_of(rows, 128), rows, 128, proof_of(other, 128))
    assert honest.replay_sum == score_of(proof_of(other, 128), rows, 128).distance_sum
    constants = [
        score_of(np.array([PRIME, c, *[0] * 127], ">u2").tobytes(), rows, 128).distance_sum
        for c in {int(value) for value in native.toploc_top(rows, 128)[1]}
    ]
    assert honest.constant_sum == min(constants)
    for bad in (b"", b"\x00", b"\xff\xd9" * 3, bytes(258), bytes(1 << 18)):
        assert score_of(proof_of(rows, 128), rows, 128, bad).replay_sum == 128 * DISTANCE_CAP


def test_an_honest_proof_beats_the_nulls_and_they_do_not_beat_themselves() -> None:
    honest, constant, replayed = [], [], []
    for seed in range(4):
        rows, other = hidden_rows(32, 64, seed), hidden_rows(32, 64, seed + 10)
        moved = rows + np.random.default_rng(seed).integers(0, 4, rows.shape, dtype=np.uint16)
        honest.append(score_of(proof_of(rows, 128), moved, 128, proof_of(other, 128)))
        constant.append(score_of(constant_proof(rows, 128), rows, 128, proof_of(other, 128)))
        replayed.append(score_of(proof_of(other, 128), rows, 128, proof_of(other, 128)))
    assert proof_null(honest) < 0.15
    assert proof_null(constant) >= 1
    assert proof_null(replayed) >= 1


def test_where_nulls_are_as_good_a_proof_only_has_to_be_close() -> None:
    rows = np.full((4, 64), 0x3F80, np.uint16)
    exact = score_of(proof_of(rows, 16), rows, 16)
    assert exact.constant_sum == 0
    assert proof_null([exact]) == 0
    assert proof_null([score_of(proof_of(rows, 16), rows + np.uint16(1), 16)]) == 0.25


def test_outside_the_top_an_honest_proof_is_implausible_and_a_constant_is_not() -> None:
    chunks = [hidden_rows(32, 64, seed) for seed in range(8)]
    honest = [score_of(proof_of(rows, 128), rows, 128) for rows in chunks]
    assert 900 < sum(score.offset_places for score in honest) <= 8 * 128
    assert proof_offset(honest) < 0.03
    assert proof_offset([score_of(constant_proof(rows, 128), rows, 128) for rows in chunks]) == 1


@pytest.mark.parametrize(
    ("elements", "value", "places"),
    [
        (79, 0x4100, 0),  # 16 in the top, 63 outside: less than four times as many
        (80, 0x4100, 16),
        (80, 0x7000, 0),  # top values so far apart that any number is plausible
    ],
)
def test_the_offset_test_says_nothing_without_room(elements: int, value: int, places: int) -> None:
    rows = np.full((1, elements), 0x3000, np.uint16)
    rows[0, ::5] = 0x4000
    rows[0, 5] = value
    assert np.count_nonzero(rows >= 0x4000) == 16
    score = score_of(proof_of(rows, 16), rows, 16)
    assert score.offset_places == places
    assert proof_offset([score]) == 0, "too few places in all"


def test_states_that_are_not_numbers_score_like_any_bits() -> None:
    rows = hidden_rows(2, 16, 7)
    rows[0, :6] = [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x8000, 0x0001]  # ±inf, NaN, NaN, -0, denormal
    score = score_of(proof_of(rows, 32), rows, 32)
    assert (score.values, score.sign_errors, score.distance_sum) == (32, 0, 0)


def test_a_proof_of_another_size_is_malformed() -> None:
    assert score_chunks([hidden_rows(2, 4, 8)], [proof_of(hidden_rows(1, 4, 8), 16)], 16) == [None]


def test_nothing_scored_is_our_own_mistake() -> None:
    assert score_chunks([], [], 16) == []
    with pytest.raises(ValueError, match="no chunk"):
        proof_distance([])
    with pytest.raises(ValueError, match="proofs"):
        score_chunks([hidden_rows(1, 4, 8)], [], 16)


@pytest.mark.parametrize(
    ("tokens", "expected"), [(1, [1]), (31, [31]), (32, [32]), (33, [32, 1]), (70, [32, 32, 6])]
)
def test_only_the_last_chunk_is_short(tokens: int, expected: list[int]) -> None:
    assert chunks_of(tokens, 32) == expected
