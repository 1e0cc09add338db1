"""Gumbel noise: the Philox generator, accuracy, and the compiled kernel bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from primed import native
from primed.native.twins import gumbel as twin

Floats = NDArray[np.float32]

EDGES = np.array(
    [
        0,
        1,
        2,
        3,
        2**31 - 2,
        2**31 - 1,
        2**31,
        2**31 + 1,
        2**32 - 2,
        2**32 - 1,
        *(2 ** np.arange(32)),
    ],
    np.uint32,
)

FIXED = ["0x404735db", "0x3fecfede", "0x3f8efc99", "0x3fc2a8ad", "0x3ef2beae", "0xbef268a4"]
FIXED_EDGES = [
    "0xc04851d5",
    "0xc0452b66",
    "0xc043a677",
    "0xc042a125",
    "0x3ebba795",
    "0x3ebba795",
    "0x41b6fda9",
    "0x41ae33b3",
    "0x3ebba795",
    "0x3ebba795",
]


@pytest.fixture(params=["as built", "without the extension"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds with the compiled module and with its twin alone."""
    if request.param != "as built":
        monkeypatch.setattr("primed.native.compiled.ext", None)


def words_of(count: int, seed: int) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)


def as_bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return values.view(np.uint32)


def philox_of(counter: list[int], key: list[int]) -> list[int]:
    parts = [np.array([part], np.uint32) for part in counter + key]
    words = twin.philox((parts[0], parts[1], parts[2], parts[3]), (parts[4], parts[5]))
    return [int(word[0]) for word in words]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(
    counter: list[int], key: list[int], expected: str
) -> None:
    assert philox_of(counter, key) == [int(word, 16) for word in expected.split()]


def test_noise_is_close_to_the_exact_logarithms() -> None:
    words = np.concatenate([words_of(200_000, 1), EDGES])
    x = ((words & 0x7FFFFFFF).astype(np.float64) + 0.5) / 2**32
    exact = np.where(words >> 31, -np.log(-np.log1p(-x)), -np.log(-np.log(x)))
    assert np.abs(native.gumbel_of_words(words) - exact).max() < 9.3e-7


def test_noise_has_the_mean_and_variance_of_gumbel() -> None:
    noise = native.gumbel(np.arange(40, dtype=np.uint64), np.arange(40, dtype=np.uint32), 25_000)
    assert abs(noise.mean(dtype=np.float64) - 0.577216) < 0.005
    assert abs(noise.var(dtype=np.float64) - 1.644934) < 0.02


def test_noise_has_fixed_bits() -> None:
    """A change of any bit would part new nodes from old ones."""
    noise = native.gumbel(np.array([0x123456789ABCDEF0], np.uint64), np.array([7], np.uint32), 6)
    assert [hex(bits) for bits in as_bits(noise)[0]] == FIXED
    edges = native.gumbel_of_words(EDGES[:10])
    assert [hex(bits) for bits in as_bits(edges)] == FIXED_EDGES


def test_compiled_noise_equals_the_twin_on_four_million_words() -> None:
    """Scenario: a worker with the extension and a verifier without it."""
    if native.backend() != "cpp":
        pytest.skip("the extension is not built")
    for part in range(4):
        words = np.concatenate([words_of(1_000_000, part), EDGES])
        compiled, specified = native.gumbel_of_words(words), twin.gumbel_of_words(words)
        assert np.array_equal(as_bits(compiled), as_bits(specified))


@pytest.mark.parametrize("vocabulary", [1, 3, 4, 26, 1023, 1024, 1025, 50_001])
def test_compiled_matrix_equals_the_twin(vocabulary: int) -> None:
    if native.backend() != "cpp":
        pytest.skip("the extension is not built")
    seeds = np.array([0, 1, 2**32, 2**64 - 1], np.uint64)
    positions = np.array([0, 2**32 - 1, 5, 131_072], np.uint32)
    compiled = native.gumbel(seeds, positions, vocabulary)
    assert np.array_equal(as_bits(compiled), as_bits(twin.gumbel(seeds, positions, vocabulary)))


LOGITS = st.one_of(
    st.floats(width=32),  # NaN, infinities, denormals and zeros of both signs among them
    st.sampled_from([0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), 1e-40, 3e38]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 70)), elements=LOGITS),
    st.sampled_from([0.0, 1e-30, 0.7, 1.0, float("inf")]),
    st.integers(0, 2**64 - 1),
)
def test_choices_equal_the_twins(logits: Floats, temperature: float, seed: int) -> None:
    seeds = np.full(len(logits), seed, np.uint64)
    positions = np.arange(len(logits), dtype=np.uint32) + np.uint32(seed % 2**31)
    tokens, scores = native.gumbel_choose(logits, seeds, positions, temperature, threads=2)
    inverse = np.float32(1 / temperature) if temperature else np.float32(0)
    expected = twin.choose(logits, seeds, positions, inverse, temperature == 0)
    assert np.array_equal(tokens, expected[0])
    assert np.array_equal(as_bits(scores), as_bits(expected[1]))
    at = native.gumbel_scores_at(logits, tokens, seeds, positions, temperature)
    assert np.array_equal(at, scores) or np.isneginf(scores).any()


@pytest.mark.parametrize("vocabulary", [1023, 1024, 1025, 50_001])
def test_choices_are_the_argmax_of_logits_and_noise(vocabulary: int) -> None:
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(0, 3, (5, vocabulary)).astype(np.float32)
    logits[4] = logits[4, 0]  # all equal: the noise decides
    seeds, positions = np.arange(5, dtype=np.uint64), np.arange(5, dtype=np.uint32)
    scores = logits * np.float32(1 / 0.8) + native.gumbel(seeds, positions, vocabulary)
    tokens, best = native.gumbel_choose(logits, seeds, positions, 0.8)
    assert tokens.tolist() == scores.argmax(axis=1).tolist()
    assert np.array_equal(best, scores.max(axis=1))
    for token in (np.zeros(5, np.uint32), np.full(5, vocabulary - 1, np.uint32)):
        at = native.gumbel_scores_at(logits, token, seeds, positions, 0.8)
        assert np.array_equal(at, scores[np.arange(5), token])


def test_ties_go_to_the_first_token_across_blocks() -> None:
    logits = np.zeros((1, 5000), np.float32)
    zero = np.zeros(1, np.uint64), np.zeros(1, np.uint32)
    for places in ([1030, 1029], [4999, 2500, 4000], [0, 4999]):
        logits[:] = 0
        logits[0, places] = 1
        assert native.gumbel_choose(logits, *zero, 0)[0].tolist() == [min(places)]


def test_the_twin_works_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (30, 40)).astype(np.float32)
    seeds, positions = np.arange(30, dtype=np.uint64), np.arange(30, dtype=np.uint32)
    whole = twin.choose(logits, seeds, positions, np.float32(1), False)
    monkeypatch.setattr(twin, "BLOCK_SCORES", 7 * 40)
    blocks = twin.choose(logits, seeds, positions, np.float32(1), False)
    assert np.array_equal(whole[0], blocks[0]) and np.array_equal(whole[1], blocks[1])


def test_logits_of_a_tensor_are_read_where_they_lie() -> None:
    if native.backend() != "cpp":
        pytest.skip("the extension is not built")
    torch = pytest.importorskip("torch")
    logits = torch.randn(3, 100)
    keys = np.arange(3, dtype=np.uint64), np.arange(3, dtype=np.uint32)
    expected = native.gumbel_choose(logits.numpy(), *keys, 1.0)
    assert np.array_equal(native.gumbel_choose(logits, *keys, 1.0)[0], expected[0])
    for wrong in (logits.T.contiguous().T, logits.double(), logits.to("meta")):
        with pytest.raises(ValueError, match="logits"):
            native.gumbel_choose(wrong, *keys, 1.0)


def test_wrong_arguments_of_choices_are_value_errors() -> None:
    logits = np.zeros((2, 5), np.float32)
    seeds, positions = np.zeros(2, np.uint64), np.zeros(2, np.uint32)
    for wrong in (
        lambda: native.gumbel_choose(logits[0], seeds, positions, 1.0),
        lambda: native.gumbel_choose(logits[:, :0], seeds, positions, 1.0),
        lambda: native.gumbel_choose(logits, seeds[:1], positions, 1.0),
        lambda: native.gumbel_choose(logits, seeds, positions.astype(np.int64), 1.0),
        lambda: native.gumbel_choose(logits, seeds, positions, -1.0),
        lambda: native.gumbel_choose(logits, seeds, positions, float("nan")),
        lambda: native.gumbel_choose(logits, seeds, positions, 1.0, threads=65),
        lambda: native.gumbel_scores_at(logits, np.array([0, 5], np.uint32), seeds, positions, 1.0),
        lambda: native.gumbel_scores_at(logits, np.array([0], np.uint32), seeds, positions, 1.0),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()


def test_a_row_depends_on_its_own_seed_and_position_only() -> None:
    seeds, positions = np.arange(5, dtype=np.uint64), np.arange(5, dtype=np.uint32)
    together = native.gumbel(seeds, positions, 100)
    for row in range(5):
        alone = native.gumbel(seeds[row : row + 1], positions[row : row + 1], 40)
        assert np.array_equal(together[row, :40], alone[0])
    assert len(np.unique(together)) > 490


def test_strided_and_empty_inputs() -> None:
    seeds, positions = np.arange(8, dtype=np.uint64), np.arange(8, dtype=np.uint32)
    dense = native.gumbel(seeds, positions, 9)
    assert np.array_equal(native.gumbel(seeds[::2], positions[::2], 9), dense[::2])
    assert native.gumbel(seeds[:0], positions[:0], 9).shape == (0, 9)
    assert native.gumbel_of_words(EDGES[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("seeds", "positions", "vocabulary"),
    [
        (np.zeros(2, np.int64), np.zeros(2, np.uint32), 4),
        (np.zeros(2, np.uint64), np.zeros(2, np.uint64), 4),
        (np.zeros(2, np.uint64), np.zeros(3, np.uint32), 4),
        (np.zeros((2, 1), np.uint64), np.zeros(2, np.uint32), 4),
        (np.zeros(2, np.uint64), np.zeros(2, np.uint32), 0),
        (np.zeros(2, np.uint64), np.zeros(2, np.uint32), 2**40),
        ([1, 2], np.zeros(2, np.uint32), 4),
    ],
)
def test_wrong_arguments_are_value_errors(
    seeds: NDArray[np.uint64], positions: NDArray[np.uint32], vocabulary: int
) -> None:
    with pytest.raises(ValueError, match=r"."):
        native.gumbel(seeds, positions, vocabulary)
