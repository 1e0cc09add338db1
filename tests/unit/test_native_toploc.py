"""TOPLOC codec and score: byte-exact with the reference's vectors; ties, short chunks, forced
collisions and hostile proofs, compiled and in NumPy bit by bit the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from primed import native
from primed.native import PRIME
from primed.native.twins import toploc as twin

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "toploc.json").read_text()
)
U64 = (1 << 64) - 1
Rows = NDArray[np.uint16]


@pytest.fixture(params=["as built", "without the extension"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds with the compiled module and with its twin alone."""
    if request.param != "as built":
        monkeypatch.setattr("primed.native.compiled.ext", None)


def needs_the_extension() -> None:
    if native.backend() != "cpp":
        pytest.skip("the extension is not built")


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


# The fixture only chooses the backend: it may stay for all examples of a test.
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@relaxed
@given(st.lists(PATTERNS, min_size=1, max_size=60), st.integers(1, 80))
def test_top_breaks_ties_by_index(flat: list[int], k: int) -> None:
    indices, values = native.toploc_top(np.array([flat], np.uint16), k)
    assert indices.tolist() == naive_top(flat, k)
    assert values.tolist() == [flat[i] for i in indices.tolist()]


@relaxed
@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=40), st.integers(1, 50))
def test_a_proof_goes_through_its_points(flat: list[int], k: int) -> None:
    chunk = np.array([flat], np.uint16)
    proof = np.frombuffer(native.toploc_build([chunk], k)[0], ">u2").astype(np.uint16)
    indices, values = native.toploc_top(chunk, k)
    assert proof[0] == PRIME
    assert len(proof) == 1 + min(k, len(flat))
    through = native.toploc_evaluate(proof[1:], indices)
    assert through.tolist() == [int(value) % PRIME for value in values]


@relaxed
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


def of_kind(kind: str, shape: tuple[int, int], seed: int) -> Rows:
    """Chunks in which ties, infinities, NaN, denormals, zeros or one value are frequent."""
    draw = np.random.default_rng(seed)
    if kind == "gauss":
        return (draw.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if kind == "close":
        return draw.integers(0x3F80, 0x3F90, shape, dtype=np.uint16)
    if kind == "special":
        found = [0, 0x8000, 1, 0x8001, 0x7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFD8, 0xFFD9, 0xFFFF]
        return draw.choice(np.array(found, np.uint16), shape)
    if kind == "equal":
        return np.full(shape, draw.integers(0, 1 << 16), np.uint16)
    return draw.integers(0, 1 << 16, shape, dtype=np.uint16)


KINDS = st.sampled_from(["gauss", "close", "special", "equal", "any"])
# around multiples of the kernels' blocks and lanes; one size needs a smaller modulus at times
SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.sampled_from([1, 3, 31, 64, 96, 127, 128, 129, 500])),
    st.tuples(st.integers(1, 40), st.sampled_from([640, 2560])),
    st.just((2, 60_000)),
)
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, 127, 128, 129, 300]))


@relaxed
@given(KINDS, SHAPES, SIZES, st.integers(0, 1 << 30))
def test_compiled_proofs_equal_the_twins(
    kind: str, shape: tuple[int, int], k: int, seed: int
) -> None:
    needs_the_extension()
    chunk = of_kind(kind, shape, seed)
    assert native.toploc_build([chunk], k) == twin.build([chunk], k)
    indices, values = native.toploc_top(chunk, k)
    expected = twin.top(chunk.reshape(1, -1), k)
    assert np.array_equal(indices, expected[0][0])
    assert np.array_equal(values, expected[1][0])


@relaxed
@given(st.sampled_from(["gauss", "close", "any"]), st.integers(0, 1 << 30), st.integers(1, 63))
def test_places_that_collide_take_the_next_modulus_in_both(kind: str, seed: int, step: int) -> None:
    needs_the_extension()
    chunk = of_kind(kind, (2, 40_000), seed)
    flat = chunk.reshape(-1)
    flat[[7, 7 + PRIME]] = 0x7FFF, 0xFFFF
    flat[[9, 9 + PRIME - step]] = 0x7FFE, 0xFFFE  # so that `step` below it is taken neither
    proof = native.toploc_build([chunk], 16)[0]
    assert proof == twin.build([chunk], 16)[0]
    assert int.from_bytes(proof[:2], "big") < PRIME


@relaxed
@given(KINDS, SHAPES, SIZES, st.integers(0, 1 << 30), st.integers(1, 0x7FFF), st.data())
def test_compiled_scores_equal_the_twins(
    kind: str, shape: tuple[int, int], k: int, seed: int, cap: int, data: st.DataObject
) -> None:
    """Honest proofs on other rounding, damaged ones, and bytes of any length."""
    needs_the_extension()
    chunks = [of_kind(kind, shape, seed), of_kind("gauss", (3, 50), seed)]
    proofs = [bytearray(proof) for proof in twin.build(chunks, k)]
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)))):
        proofs[0][place % len(proofs[0])] = byte
    other = data.draw(st.one_of(st.binary(max_size=12), st.just(bytes(proofs[1]))))
    first = data.draw(st.one_of(st.just(bytes(proofs[0])), st.binary(max_size=40)))
    stated, others = [first, bytes(proofs[1])], [other, bytes(proofs[0])]
    own = [chunk ^ np.uint16(seed % 4) for chunk in chunks]
    found = native.toploc_score(own, stated, k, cap, others, threads=2)
    assert np.array_equal(found, twin.score(own, stated, others, k, cap))


def test_threads_do_not_change_the_bytes() -> None:
    chunks = [of_kind("gauss", (1 + i, 640), i) for i in range(20)]
    proofs = native.toploc_build(chunks, 128)
    assert native.toploc_build(chunks, 128, threads=7) == proofs
    one = native.toploc_score(chunks, proofs, 128, 64, proofs[::-1])
    assert np.array_equal(native.toploc_score(chunks, proofs, 128, 64, proofs[::-1], 7), one)
    assert (one[:, 0] == 0).all() and (one[:, 3] == 0).all()


def test_fp16_states_are_read_like_their_patterns() -> None:
    patterns = of_kind("any", (8, 96), 1)
    proof = native.toploc_build([patterns], 16)
    assert native.toploc_build([patterns.view(np.float16)], 16) == proof
    assert native.toploc_top(patterns.view(np.float16), 3)[1].dtype == np.uint16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "uint16"])
def test_tensors_are_read_where_they_lie(dtype: str) -> None:
    needs_the_extension()
    torch = pytest.importorskip("torch")
    patterns = of_kind("any", (8, 96), 2)
    tensor = torch.from_numpy(patterns).view(getattr(torch, dtype))
    assert native.toploc_build([tensor], 16) == native.toploc_build([patterns], 16)
    for wrong in (tensor.T, tensor.reshape(-1), tensor.view(torch.int16), tensor.to("meta")):
        with pytest.raises(ValueError, match="chunk"):
            native.toploc_build([wrong], 16)
        with pytest.raises(ValueError, match="chunk"):
            native.toploc_top(wrong, 16)


def test_chunks_with_gaps_are_read_in_order() -> None:
    rows = of_kind("any", (16, 192), 3)
    part = rows[::2, ::2]
    assert native.toploc_build([part], 16) == native.toploc_build([part.copy()], 16)


def test_wrong_arguments_of_scores_are_value_errors() -> None:
    chunk = of_kind("gauss", (2, 32), 4)
    proof = native.toploc_build([chunk], 4)[0]
    for proofs, k, cap, others, threads in (
        ([], 4, 64, None, 1),
        ([proof], 4, 64, [b"", b""], 1),
        ([proof], 0, 64, None, 1),
        ([proof], 4, 0, None, 1),
        ([proof], 4, 1 << 15, None, 1),
        ([proof], 4, 64, None, 0),
    ):
        with pytest.raises(ValueError, match=r"."):
            native.toploc_score([chunk], proofs, k, cap, others, threads)
    with pytest.raises(ValueError, match=r"."):
        native.toploc_score([chunk.reshape(-1)], [proof], 4, 64)


def test_no_modulus_is_a_value_error() -> None:
    """No real run gets there: 530 places with every difference up to 65,800 among them."""
    needs_the_extension()
    chunk = np.zeros((1, 66_000), np.uint16)
    chunk[0, :200] = chunk[0, 200::200] = 0x3F80
    with pytest.raises(ValueError, match="modulus"):
        native.toploc_build([chunk], int(np.count_nonzero(chunk)))
