"""TOPLOC codec: byte-exact with the reference's vectors, ties, short chunks, forced collisions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from primed import native
from primed.native import PRIME
from primed.native.twins import toploc as twin

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "toploc.json").read_text()
)
U64 = (1 << 64) - 1


def splitmix(seed: int) -> Iterator[int]:
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & U64
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & U64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & U64
        yield z ^ (z >> 31)


def spikes(vector: dict[str, Any]) -> NDArray[np.uint16]:
    """The generator 'spikes' of the vectors' `about`: bit patterns [T, H]."""
    tokens, hidden, chunk, k = (vector[name] for name in ("tokens", "hidden", "chunk", "k"))
    draws = splitmix(vector["seed"])
    flat = [
        (0x3C00 + (z & 0x3FF)) | (((z >> 40) & 1) << 15)
        for _, z in zip(range(tokens * hidden), draws, strict=False)
    ]
    for start in range(0, tokens, chunk):
        elements = min(chunk, tokens - start) * hidden
        taken: dict[int, int] = {}
        while len(taken) < min(k, elements):
            z = next(draws)
            taken.setdefault(z % elements, (0x4080 + 3 * len(taken)) | ((z >> 63) << 15))
        for place, bits in taken.items():
            flat[start * hidden + place] = bits
    rows = np.array(flat, np.uint16).reshape(tokens, hidden)
    assert hashlib.sha256(rows.tobytes()).hexdigest() == vector["sha256"]
    return rows


def gauss(vector: dict[str, Any]) -> NDArray[np.uint16]:
    rng = np.random.default_rng(vector["seed"])
    bits = rng.standard_normal((vector["tokens"], vector["hidden"]), np.float32).view(np.uint32)
    rows = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    assert hashlib.sha256(rows.tobytes()).hexdigest() == vector["sha256"]
    return rows


def chunked(rows: NDArray[np.uint16], chunk: int) -> list[NDArray[np.uint16]]:
    return [rows[at : at + chunk] for at in range(0, len(rows), chunk)]


@pytest.mark.parametrize("vector", VECTORS["points"], ids=lambda v: f"k{len(v['x'])}")
def test_points_encode_as_the_reference(vector: dict[str, Any]) -> None:
    """Includes places that collide under 65497, so that a smaller modulus is taken."""
    proof = twin.encode(np.array([vector["x"]]), np.array([vector["y"]], np.uint16))[0]
    assert proof.hex() == vector["proof"]
    assert int.from_bytes(proof[:2], "big") == vector["modulus"]


@pytest.mark.parametrize("vector", VECTORS["evaluate"])
def test_polynomials_evaluate_as_the_reference(vector: dict[str, Any]) -> None:
    found = native.toploc_evaluate(np.array(vector["coeffs"], np.uint16), np.array(vector["x"]))
    assert found.tolist() == vector["y"]


@pytest.mark.parametrize("vector", VECTORS["chunks"], ids=lambda v: f"seed{v['seed']}")
def test_chunks_encode_as_the_reference(vector: dict[str, Any]) -> None:
    proofs = native.toploc_build(chunked(spikes(vector), vector["chunk"]), vector["k"])
    assert [proof.hex() for proof in proofs] == vector["proofs"]


@pytest.mark.parametrize("vector", VECTORS["gauss"], ids=lambda v: f"seed{v['seed']}")
def test_real_sized_chunks_agree_up_to_ties(vector: dict[str, Any]) -> None:
    """The reference breaks ties as torch's topk happens to; its own choice gives its bytes."""
    rows = gauss(vector)
    indices, values = native.toploc_top(rows, vector["k"])
    chosen = np.array([vector["indices"]]), np.array([vector["values"]], np.uint16)
    assert twin.encode(*chosen)[0].hex() == vector["proof"]
    boundary = vector["boundary_value"] & 0x7FFF
    ours = {
        i for i, v in zip(indices.tolist(), values.tolist(), strict=True) if v & 0x7FFF > boundary
    }
    theirs = {
        i for i, v in zip(vector["indices"], vector["values"], strict=True) if v & 0x7FFF > boundary
    }
    assert ours == theirs
    assert sorted(values & 0x7FFF) == sorted(np.array(vector["values"], np.uint16) & 0x7FFF)


def naive_top(flat: list[int], k: int) -> list[int]:
    return sorted(range(len(flat)), key=lambda i: (-(flat[i] & 0x7FFF), i))[:k]


# few distinct magnitudes: many ties; zeros of both signs, denormals, infinities and NaNs
PATTERNS = st.sampled_from(
    [0, 0x8000, 1, 0x8001, 0x7F, 0x3F80, 0xBF80, 0x7F80, 0xFF80, 0x7FC0, 0xFFFF]
)


@given(st.lists(PATTERNS, min_size=1, max_size=60), st.integers(1, 80))
def test_top_breaks_ties_by_index(flat: list[int], k: int) -> None:
    indices, values = native.toploc_top(np.array([flat], np.uint16), k)
    assert indices.tolist() == naive_top(flat, k)
    assert values.tolist() == [flat[i] for i in indices.tolist()]


@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=40), st.integers(1, 50))
def test_a_proof_goes_through_its_points(flat: list[int], k: int) -> None:
    chunk = np.array([flat], np.uint16)
    proof = np.frombuffer(native.toploc_build([chunk], k)[0], ">u2").astype(np.uint16)
    indices, values = native.toploc_top(chunk, k)
    assert proof[0] == PRIME
    assert len(proof) == 1 + min(k, len(flat))
    through = native.toploc_evaluate(proof[1:], indices)
    assert through.tolist() == [int(value) % PRIME for value in values]


@given(
    st.lists(st.integers(0, 200_000), min_size=2, max_size=12, unique=True),
    st.lists(st.integers(1, 64), max_size=4),
)
def test_forced_collisions_take_the_next_modulus(places: list[int], steps: list[int]) -> None:
    places = sorted({*places, *(places[0] + PRIME - 1 + step for step in (1, *steps))})
    indices = np.array([places])
    values = np.arange(len(places), dtype=np.uint16)[None]
    proof = np.frombuffer(twin.encode(indices, values)[0], ">u2").astype(np.uint16)
    modulus = int(proof[0])
    assert modulus < PRIME
    assert len({place % modulus for place in places}) == len(places)
    assert all(len({p % m for p in places}) < len(places) for m in range(modulus + 1, PRIME + 1))
    assert native.toploc_evaluate(proof[1:], indices[0] % modulus).tolist() == values[0].tolist()


def test_chunks_built_together_equal_chunks_built_alone() -> None:
    rng = np.random.default_rng(3)
    chunks = [rng.integers(0, 1 << 16, (1 + i % 7, 96), dtype=np.uint16) for i in range(40)] + [
        rng.integers(0, 1 << 16, (1, 5), dtype=np.uint16)
    ]
    assert native.toploc_build(chunks, 16) == [
        native.toploc_build([chunk], 16)[0] for chunk in chunks
    ]
    assert native.toploc_build([], 16) == []


def test_a_batch_of_the_demo_is_cheap() -> None:
    """128 short completions at once within 40 ms of CPU, with a factor 3 for slow machines."""
    rng = np.random.default_rng(4)
    chunks = [rng.integers(0, 1 << 16, (1 + i % 7, 96), dtype=np.uint16) for i in range(128)]
    native.toploc_build(chunks, 16)
    before = time.process_time()
    native.toploc_build(chunks, 16)
    assert time.process_time() - before < 0.120


@pytest.mark.parametrize(
    ("chunk", "k"),
    [
        (np.zeros((2, 3), np.int16), 4),
        (np.zeros(6, np.uint16), 4),
        (np.zeros((0, 3), np.uint16), 4),
        (np.zeros((2, 3), np.uint16), 0),
        (np.zeros((2, 3), np.uint16), 1 << 20),
        ([[1, 2]], 1),
    ],
)
def test_wrong_chunks_are_value_errors(chunk: NDArray[np.uint16], k: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        native.toploc_build([chunk], k)
    with pytest.raises(ValueError, match=r"."):
        native.toploc_top(chunk, k)


@pytest.mark.parametrize(
    ("coefficients", "x"),
    [
        (np.array([], np.uint16), np.arange(3)),
        (np.array([PRIME], np.uint16), np.arange(3)),
        (np.array([1], np.int64), np.arange(3)),
        (np.array([1], np.uint16), np.array([-1])),
        (np.array([1], np.uint16), np.array([0.5])),
    ],
)
def test_wrong_polynomials_are_value_errors(coefficients: Any, x: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        native.toploc_evaluate(coefficients, x)
