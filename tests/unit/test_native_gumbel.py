"""Gumbel noise: the Philox generator, accuracy, and the compiled kernel bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from primed import native
from primed.native.twins import gumbel as twin

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
